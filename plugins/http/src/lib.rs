//! Serves the operation registry over HTTP, ALPNs `h3`, `h2` and `http/1.1`.
//!
//! One router stands behind all three. Who may call what is the host's decision: each
//! request goes, with the token that came with it, to its connection's gateway
//! (`caller.rs`), and what comes back becomes a response or a problem document
//! (`problem.rs`). The rest is HTTP: whom the request may come from and how large
//! and slow it may be (`origin.rs`, `gate.rs`, `serve.rs`, `idle.rs`), the endpoints (`routes.rs`,
//! `subscribe.rs`), their description (`openapi.rs`), the same as tools for models
//! (`mcp.rs`, `mcp_session.rs`), the call protocol over WebSocket (`websocket.rs`),
//! files (`files.rs`), and the console (`console.rs`).

mod caller;
mod config;
mod console;
mod files;
mod gate;
mod h3;
mod idle;
mod mcp;
mod mcp_session;
mod openapi;
mod origin;
mod problem;
mod routes;
mod serve;
mod session;
mod subscribe;
mod websocket;

use alknet_plugin_api::{prelude::*, rt};

use self::config::Config;
use self::h3::H3Handler;
use self::serve::HttpHandler;

/// The ALPNs, the newest version first.
const ALPNS: [&str; 3] = [H3, "h2", "http/1.1"];
const H3: &str = "h3";

/// The plugin.
pub struct Http;

alknet_plugin_api::export!(Http);

impl Plugin for Http {
    fn manifest() -> Manifest {
        ALPNS
            .into_iter()
            .fold(Manifest::new("http", env!("CARGO_PKG_VERSION")), Manifest::alpn)
            .description("Serves the operation registry over HTTP")
            .gateway()
            .config(Config::schema())
    }

    fn build(host: Host, config: Json, on: &mut Registrar) -> Result<(), BuildError> {
        let config: Config = config.to()?;
        let router = routes::router(&host, &config)?;
        let h3 = H3Handler::new(host.clone(), &config, router.clone());
        on.handler(H3, rt::entered(h3));
        let router = serve::with_alternative(router, &config);
        for alpn in ALPNS.into_iter().filter(|alpn| *alpn != H3) {
            let handler = HttpHandler::new(host.clone(), &config, router.clone());
            on.handler(alpn, rt::entered(handler));
        }
        Ok(())
    }
}
