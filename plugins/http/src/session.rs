//! The call protocol on behalf of whoever asked for a session.

use std::sync::Arc;

use alknet_plugin_api::{AbortPolicy, Gateway, GatewayCall, GatewayRequest};

/// A gateway whose requests have the session's token unless they have their own.
pub(crate) struct WithToken {
    pub(crate) gateway: Arc<dyn Gateway>,
    pub(crate) token: Option<String>,
}

impl Gateway for WithToken {
    fn dispatch(&self, mut request: GatewayRequest) -> GatewayCall {
        if request.auth_token.is_none() {
            request.auth_token.clone_from(&self.token);
        }
        self.gateway.dispatch(request)
    }

    fn abort(&self, request_id: &str, policy: AbortPolicy) {
        self.gateway.abort(request_id, policy);
    }
}
