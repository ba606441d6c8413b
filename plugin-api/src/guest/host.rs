//! The host's services over the imports.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream;

use super::bindings::alknet::plugin::host as wit;
use super::local::{self, Local, boxed};
use super::operations::{GuestEnv, abi, boxed_stream, capability};
use crate::backend::HostBackend;
use crate::connection::Connection;
use crate::context::{AbortPolicy, OperationEnv};
use crate::host::{
    Capability, Gateway, GatewayCall, GatewayEvent, GatewayRequest, Level, LogRecord, TaskHandle,
};
use crate::identity::Identity;
use crate::json::Json;

/// The host. The imports are functions of the world, so that there is nothing
/// to hold.
pub(super) struct GuestHost;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn abi_level(level: Level) -> wit::Level {
    match level {
        Level::Error => wit::Level::Error,
        Level::Warn => wit::Level::Warn,
        Level::Info => wit::Level::Info,
        Level::Debug => wit::Level::Debug,
        Level::Trace => wit::Level::Trace,
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl HostBackend for GuestHost {
    fn spawn(&self, task: BoxFuture<'static, ()>) -> TaskHandle {
        local::spawn(task)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        boxed(wit::sleep(nanos(duration)))
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(wit::now())
    }

    fn unix_time(&self) -> Duration {
        Duration::from_nanos(wit::unix_time())
    }

    fn log_enabled(&self, level: Level, target: &str) -> bool {
        wit::log_enabled(abi_level(level), target)
    }

    fn log(&self, record: &LogRecord<'_>) {
        wit::log(abi_level(record.level), record.target, record.message, &owned(record.fields));
    }

    fn counter(&self, name: &str, labels: &[(&str, &str)], add: u64) {
        wit::counter(name, &owned(labels), add);
    }

    fn gauge(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        wit::gauge(name, &owned(labels), value);
    }

    fn histogram(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        wit::histogram(name, &owned(labels), value);
    }

    fn resolve_token(&self, token: &[u8]) -> Option<Identity> {
        serde_json::from_str(&wit::resolve_token(token)?).ok()
    }

    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        serde_json::from_str(&wit::resolve_fingerprint(fingerprint)?).ok()
    }

    fn capability(&self, name: &str) -> Option<Capability> {
        wit::lookup_capability(name).map(capability)
    }

    fn env(&self) -> Arc<dyn OperationEnv> {
        Arc::new(GuestEnv::new(wit::env()))
    }

    fn gateway(&self, connection: &Connection) -> Option<Arc<dyn Gateway>> {
        let connection = super::connection::current(connection.info().id)?;
        let gateway = wit::open_gateway(&connection)?;
        Some(Arc::new(GuestGateway(Local(Rc::new(gateway)))))
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        boxed(wit::shutdown())
    }
}

struct GuestGateway(Local<Rc<wit::Gateway>>);

impl Gateway for GuestGateway {
    fn dispatch(&self, request: GatewayRequest) -> GatewayCall {
        let call = self.0.dispatch(&wit::GatewayRequest {
            request_id: request.request_id,
            operation: request.operation,
            input: request.input.into_bytes().into(),
            auth_token: request.auth_token,
            forwarded_for: serde_json::to_string(&request.forwarded_for).unwrap_or_default(),
            timeout: request.timeout.map(nanos),
            remote_addr: request.remote_addr.map(|addr| addr.to_string()),
        });
        let events = stream::unfold(call, |call| async move {
            let event = match call.next().await? {
                wit::GatewayEvent::Responded(output) => {
                    GatewayEvent::Responded(Json::from_checked(output))
                }
                wit::GatewayEvent::Completed => GatewayEvent::Completed,
                wit::GatewayEvent::Error(error) => GatewayEvent::Error(error.into()),
            };
            Some((event, call))
        });
        GatewayCall::new(boxed_stream(events))
    }

    fn abort(&self, request_id: &str, policy: AbortPolicy) {
        self.0.abort(request_id, abi(policy));
    }
}
