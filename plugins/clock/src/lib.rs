//! Sample plugin: a subscription that ticks.
//!
//! It shows a query, a subscription that keeps to its times however slow its
//! consumer is, a configuration with a schema, and how to notice that a
//! subscription has been aborted: its future is dropped, so a destructor runs.

use std::time::Duration;

use alknet_plugin_api::prelude::*;
use serde::{Deserialize, Serialize};

/// The longest interval that a subscription may ask for: a day.
const MAX_INTERVAL_MS: u64 = 86_400_000;

/// The plugin.
pub struct Clock;

/// What the deployment file may say.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    min_interval_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_interval_ms: 10 }
    }
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Serialize)]
struct Now {
    unix_ms: u64,
}

#[derive(Clone, Copy, Deserialize)]
struct Ticks {
    every_ms: u64,
    count: Option<u64>,
}

#[derive(Serialize)]
struct Tick {
    tick: u64,
    unix_ms: u64,
}

alknet_plugin_api::export!(Clock);

impl Plugin for Clock {
    fn manifest() -> Manifest {
        Manifest::new("clock", env!("CARGO_PKG_VERSION"))
            .description("Tells the time, once or again and again")
            .config(json!({
                "type": "object",
                "properties": {
                    "min_interval_ms": {
                        "description": "The shortest interval that a subscription may ask for",
                        "type": "integer", "minimum": 1, "maximum": MAX_INTERVAL_MS, "default": 10,
                    },
                },
                "additionalProperties": false,
            }))
            .operation(
                OperationSpec::query("clock/now")
                    .description("The node's time, in milliseconds since the Unix epoch")
                    .tag("sample")
                    .example(json!({}))
                    .input(json!({ "type": "object", "additionalProperties": false }))
                    .output(json!({
                        "type": "object",
                        "required": ["unix_ms"],
                        "properties": { "unix_ms": { "type": "integer" } },
                    })),
            )
            .operation(
                OperationSpec::subscription("clock/ticks")
                    .description(
                        "Ticks at once and then every so many milliseconds, for ever or so many times",
                    )
                    .tag("sample")
                    .example(json!({ "every_ms": 500 }))
                    .example(json!({ "every_ms": 500, "count": 3 }))
                    .input(json!({
                        "type": "object",
                        "required": ["every_ms"],
                        "properties": {
                            "every_ms": {
                                "type": "integer", "minimum": 1, "maximum": MAX_INTERVAL_MS,
                            },
                            "count": { "type": "integer", "minimum": 1 },
                        },
                        "additionalProperties": false,
                    }))
                    .output(json!({
                        "type": "object",
                        "required": ["tick", "unix_ms"],
                        "properties": {
                            "tick": { "description": "From 0; a gap means ticks skipped for a slow consumer", "type": "integer" },
                            "unix_ms": { "type": "integer" },
                        },
                    })),
            )
    }

    fn build(host: Host, config: Json, on: &mut Registrar) -> Result<(), BuildError> {
        let config: Config = config.to()?;
        let clock = host.clone();
        on.operation("clock/now", move |_, _: Nothing| {
            let now = Now { unix_ms: unix_ms(&clock) };
            async move { Ok(now) }
        });
        on.subscription("clock/ticks", move |context, ticks: Ticks, items| {
            tick(host.clone(), config, context, ticks, items)
        });
        Ok(())
    }
}

async fn tick(
    host: Host,
    config: Config,
    context: OperationContext,
    ticks: Ticks,
    mut items: ItemSink<Tick>,
) -> Result<(), CallError> {
    let shortest = config.min_interval_ms.max(1);
    if !(shortest..=MAX_INTERVAL_MS).contains(&ticks.every_ms) {
        return Err(CallError::invalid_input(format!(
            "every_ms must lie between {shortest} and {MAX_INTERVAL_MS}"
        )));
    }
    let mut ended = Ended { context, ticks: 0, complete: false };
    let started = host.now();
    let mut tick = 0;
    while ticks.count.is_none_or(|count| ended.ticks < count) {
        // Against the start, not the tick before: what a tick takes does not add
        // up over the hours.
        let due = Duration::from_millis(ticks.every_ms.saturating_mul(tick));
        host.sleep(due.saturating_sub(host.now() - started)).await;
        // Counted before: the host takes the item while this waits, and the wait
        // ends when the consumer comes back for more. A slow one holds it here.
        ended.ticks += 1;
        items.send(&Tick { tick, unix_ms: unix_ms(&host) }).await?;
        let elapsed = u64::try_from((host.now() - started).as_millis()).unwrap_or(u64::MAX);
        // A consumer that was away gets the present, not a burst of the past.
        tick = (tick + 1).max(elapsed.div_ceil(ticks.every_ms));
    }
    ended.complete = true;
    Ok(())
}

/// Lives as long as a subscription. An abort drops the subscription's future
/// wherever it waits, and this with it.
struct Ended {
    context: OperationContext,
    ticks: u64,
    complete: bool,
}

impl Drop for Ended {
    fn drop(&mut self) {
        tracing::info!(
            request_id = self.context.request_id(),
            ticks = self.ticks,
            aborted = !self.complete,
            "ticks subscription ended"
        );
    }
}

fn unix_ms(host: &Host) -> u64 {
    u64::try_from(host.unix_time().as_millis()).unwrap_or(u64::MAX)
}
