//! The host's services, and calls on behalf of a connection's peer.

use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::{
    CallError, Capability, Connection, Gateway, GatewayCall, GatewayEvent, GatewayRequest, Json,
    Level, LogRecord,
};
use wasmtime::Result;
use wasmtime::component::{Accessor, Resource};

use super::super::bindings::alknet::plugin::{host as wit, types};
use super::super::instance::State;
use super::operations::Environment;
use super::{Imports, call_error, nanos, policy};

/// Calls as a connection's peer.
pub struct PeerGateway(Arc<dyn Gateway>);

/// A call under way; taken out while its next event is awaited.
pub struct Events(Option<GatewayCall>);

fn level(level: wit::Level) -> Level {
    match level {
        wit::Level::Error => Level::Error,
        wit::Level::Warn => Level::Warn,
        wit::Level::Info => Level::Info,
        wit::Level::Debug => Level::Debug,
        wit::Level::Trace => Level::Trace,
    }
}

fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

impl wit::Host for State {
    fn log(
        &mut self,
        severity: wit::Level,
        target: String,
        message: String,
        fields: Vec<(String, String)>,
    ) -> Result<()> {
        self.services()?.log(&LogRecord {
            level: level(severity),
            target: &target,
            message: &message,
            fields: &borrowed(&fields),
        });
        Ok(())
    }

    fn log_enabled(&mut self, severity: wit::Level, target: String) -> Result<bool> {
        Ok(self.services()?.log_enabled(level(severity), &target))
    }

    fn now(&mut self) -> Result<u64> {
        Ok(nanos(self.services()?.now()))
    }

    fn unix_time(&mut self) -> Result<u64> {
        Ok(nanos(self.services()?.unix_time()))
    }

    fn counter(&mut self, name: String, labels: Vec<(String, String)>, add: u64) -> Result<()> {
        self.services()?.counter(&name, &borrowed(&labels), add);
        Ok(())
    }

    fn gauge(&mut self, name: String, labels: Vec<(String, String)>, value: f64) -> Result<()> {
        self.services()?.gauge(&name, &borrowed(&labels), value);
        Ok(())
    }

    fn histogram(&mut self, name: String, labels: Vec<(String, String)>, value: f64) -> Result<()> {
        self.services()?.histogram(&name, &borrowed(&labels), value);
        Ok(())
    }

    fn resolve_token(&mut self, token: Vec<u8>) -> Result<Option<String>> {
        let identity = self.services()?.resolve_token(&token);
        Ok(identity.map(|identity| serde_json::to_string(&identity)).transpose()?)
    }

    fn resolve_fingerprint(&mut self, fingerprint: String) -> Result<Option<String>> {
        let identity = self.services()?.resolve_fingerprint(&fingerprint);
        Ok(identity.map(|identity| serde_json::to_string(&identity)).transpose()?)
    }

    fn lookup_capability(&mut self, name: String) -> Result<Option<Resource<Capability>>> {
        match self.services()?.capability(&name) {
            Some(capability) => Ok(Some(self.table.push(capability)?)),
            None => Ok(None),
        }
    }

    fn env(&mut self) -> Result<Resource<Environment>> {
        let env = self.services()?.env();
        Ok(self.table.push(Environment(env))?)
    }

    fn open_gateway(
        &mut self,
        connection: Resource<Connection>,
    ) -> Result<Option<Resource<PeerGateway>>> {
        let connection = self.table.get(&connection)?.clone();
        match self.services()?.gateway(&connection) {
            Some(gateway) => Ok(Some(self.table.push(PeerGateway(gateway))?)),
            None => Ok(None),
        }
    }
}

impl wit::HostWithStore<State> for Imports {
    async fn sleep(host: &Accessor<State, Self>, duration: u64) -> Result<()> {
        let services = host.with(|mut host| host.get().services().cloned())?;
        services.sleep(Duration::from_nanos(duration)).await;
        Ok(())
    }

    async fn shutdown(host: &Accessor<State, Self>) -> Result<()> {
        let services = host.with(|mut host| host.get().services().cloned())?;
        services.shutdown().await;
        Ok(())
    }
}

impl wit::HostGateway for State {
    fn dispatch(
        &mut self,
        gateway: Resource<PeerGateway>,
        request: wit::GatewayRequest,
    ) -> Result<Resource<Events>> {
        let gateway = self.table.get(&gateway)?.0.clone();
        let call = match gateway_request(request) {
            Ok(request) => gateway.dispatch(request),
            Err(error) => GatewayCall::new(futures_util::stream::once(async move {
                GatewayEvent::Error(CallError::invalid_input(error))
            })),
        };
        Ok(self.table.push(Events(Some(call)))?)
    }

    fn abort(
        &mut self,
        gateway: Resource<PeerGateway>,
        request_id: String,
        abort: types::AbortPolicy,
    ) -> Result<()> {
        self.table.get(&gateway)?.0.abort(&request_id, policy(abort));
        Ok(())
    }

    fn drop(&mut self, gateway: Resource<PeerGateway>) -> Result<()> {
        self.table.delete(gateway)?;
        Ok(())
    }
}

fn gateway_request(request: wit::GatewayRequest) -> std::result::Result<GatewayRequest, String> {
    let forwarded_for = serde_json::from_str(&request.forwarded_for)
        .map_err(|error| format!("forwarded_for: {error}"))?;
    let remote_addr = request
        .remote_addr
        .map(|addr| addr.parse())
        .transpose()
        .map_err(|error| format!("remote_addr: {error}"))?;
    Ok(GatewayRequest {
        request_id: request.request_id,
        operation: request.operation,
        input: Json::parse(request.input).map_err(|error| error.to_string())?,
        auth_token: request.auth_token,
        forwarded_for,
        timeout: request.timeout.map(Duration::from_nanos),
        remote_addr,
    })
}

impl wit::HostGatewayCall for State {
    fn drop(&mut self, call: Resource<Events>) -> Result<()> {
        self.table.delete(call)?;
        Ok(())
    }
}

impl wit::HostGatewayCallWithStore<State> for Imports {
    async fn next(
        host: &Accessor<State, Self>,
        call: Resource<Events>,
    ) -> Result<Option<wit::GatewayEvent>> {
        let taken = host
            .with(|mut host| Ok::<_, wasmtime::Error>(host.get().table.get_mut(&call)?.0.take()))?;
        let Some(mut events) = taken else {
            return Err(wasmtime::format_err!("one event of a call at a time"));
        };
        let next = events.next().await;
        host.with(|mut host| {
            if let Ok(entry) = host.get().table.get_mut(&call) {
                entry.0 = Some(events);
            }
        });
        Ok(next.map(|event| match event {
            GatewayEvent::Responded(output) => {
                wit::GatewayEvent::Responded(output.into_bytes().into())
            }
            GatewayEvent::Completed => wit::GatewayEvent::Completed,
            GatewayEvent::Error(error) => wit::GatewayEvent::Error(call_error(error)),
        }))
    }
}
