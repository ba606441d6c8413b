//! What an operator sees of a running node: its log, its metrics, its status.

pub mod audit;
pub mod calls;
pub mod exposition;
pub mod log;
pub mod metrics;
pub mod recent;
pub mod sample;
pub mod status;
pub mod terminal;
