//! One session with an MCP server.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, Implementation,
    ProtocolVersion, SubscriptionFilter, Tool,
};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, ClientServiceExt, NotificationContext, RoleClient,
    RunningService,
};
use rmcp::{ClientHandler, ServiceError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::super::AdapterError;
use super::super::http::HttpClient;
use super::McpConfig;
use super::transport::{self, transport};

/// How long a server may take to take leave.
const LEAVE: Duration = Duration::from_secs(1);

/// A session that was opened. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Session {
    running: RunningService<RoleClient, Ears>,
    /// The tools that were listed last.
    listed: Mutex<Vec<Tool>>,
    changed: Arc<Notify>,
    listening: Option<JoinHandle<()>>,
}

impl Session {
    /// Connects, and agrees with the server on a version of the protocol: the
    /// newest that both have, of those with a handshake and the one without.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or speaks something else.
    pub(super) async fn open(
        config: &McpConfig,
        client: &HttpClient,
    ) -> Result<Self, AdapterError> {
        let changed = Arc::new(Notify::new());
        let mode = ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::LATEST],
            legacy_version: Some(ProtocolVersion::LATEST_WITH_INITIALIZE),
        };
        let running = Ears(changed.clone())
            .serve_with_lifecycle(transport(config, client), mode)
            .await
            .map_err(|error| not_opened(&config.server(), &error))?;
        let is_modern = running
            .peer()
            .peer_info()
            .is_some_and(|info| info.protocol_version >= ProtocolVersion::V_2026_07_28);
        // Since that version a server tells only those who ask.
        let listening = is_modern.then(|| {
            let (peer, changed) = (running.peer().clone(), changed.clone());
            tokio::spawn(async move {
                let filter = SubscriptionFilter::builder().tools_list_changed().build();
                let Ok(mut subscription) = peer.listen(filter).await else { return };
                while let Ok(Some(_)) = subscription.next().await {
                    changed.notify_one();
                }
            })
        });
        Ok(Self { running, listed: Mutex::default(), changed, listening })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.running.is_closed() && !self.running.peer().is_transport_closed()
    }

    /// All pages of the server's tools.
    pub(super) async fn list(&self) -> Result<Vec<Tool>, ServiceError> {
        let tools = self.running.list_all_tools().await?;
        self.listed.lock().clone_from(&tools);
        Ok(tools)
    }

    /// Whether the tools are others than those listed last.
    pub(super) async fn differs(&self) -> Result<bool, ServiceError> {
        let tools = self.running.list_all_tools().await?;
        Ok(*self.listed.lock() != tools)
    }

    /// Resolves when the server has said that its tools changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) async fn call(
        &self,
        request: CallToolRequestParams,
    ) -> Result<CallToolResult, ServiceError> {
        self.running.call_tool(request).await
    }

    /// Takes leave, as far as the server lets it.
    pub(super) async fn close(&self) {
        self.running.cancellation_token().cancel();
        let ended = async {
            while !self.running.peer().is_transport_closed() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _in_time = tokio::time::timeout(LEAVE, ended).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

/// Hears what the server says unasked. Its wishes for a model or for a person's
/// input are declined: a node has neither.
#[derive(Debug)]
struct Ears(Arc<Notify>);

impl ClientHandler for Ears {
    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.0.notify_one();
    }

    fn get_info(&self) -> ClientConfig {
        let own = Implementation::new("alknet", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), own)
    }
}

/// Whether an error means that the session is over.
pub(super) fn is_lost(error: &ServiceError) -> bool {
    match error {
        ServiceError::TransportClosed => true,
        ServiceError::TransportSend(_) => {
            transport::status(error).is_none() && !transport::is_too_large(error)
        }
        _ => false,
    }
}

/// The error of a server that does not list its tools.
pub(super) fn refused(server: &str, error: ServiceError) -> AdapterError {
    if error.is_authorization_required() {
        return unauthorized(server);
    }
    match &error {
        ServiceError::McpError(mcp) => AdapterError::DiscoveryFailed {
            source_name: server.to_owned(),
            cause: format!("error {}: {}", mcp.code.0, mcp.message),
            remedy: "see the server's own log".to_owned(),
        },
        error => AdapterError::Transport {
            source_name: server.to_owned(),
            cause: transport::cause(error),
        },
    }
}

fn not_opened(server: &str, error: &ClientInitializeError) -> AdapterError {
    if error.is_authorization_required() {
        return unauthorized(server);
    }
    match error {
        // This error does not name the one below as its source.
        ClientInitializeError::TransportError { error, .. } => AdapterError::Transport {
            source_name: server.to_owned(),
            cause: transport::cause(&*error.error),
        },
        ClientInitializeError::LegacyFallbackFailed { fallback, .. } => {
            not_opened(server, fallback)
        }
        ClientInitializeError::ConnectionClosed(_) => AdapterError::Transport {
            source_name: server.to_owned(),
            cause: "it closed the connection".to_owned(),
        },
        error => AdapterError::DiscoveryFailed {
            source_name: server.to_owned(),
            cause: transport::cause(error),
            remedy: "see that `url` is the endpoint of an MCP server over streamable HTTP"
                .to_owned(),
        },
    }
}

fn unauthorized(server: &str) -> AdapterError {
    AdapterError::Unauthorized {
        source_name: server.to_owned(),
        cause: "it asks for another credential, or for one at all".to_owned(),
        remedy: "name the vault entry with its token in `credential`".to_owned(),
    }
}
