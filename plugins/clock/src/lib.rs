//! Sample plugin: a subscription that ticks.
