//! `alknet status`: what a running node says of itself.

use alknet_plugin_api::Json;
use clap::Args;

use super::call::malformed;
use super::client::{block_on, one_call};
use super::failure::Failure;
use super::{Global, Output};

/// The operation that answers it; it takes the scope `admin`.
const OPERATION: &str = "/admin/status";

/// Show what a running node serves and who is connected
#[derive(Debug, Args)]
pub(super) struct Status {}

impl Status {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let target = global.target()?;
        let answer = block_on(one_call(&target, OPERATION, Json::empty_object(), None))?;
        output.object(&answer.to().map_err(malformed)?)
    }
}
