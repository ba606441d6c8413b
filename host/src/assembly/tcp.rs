//! What the node serves over TCP.

use super::StartError;
use super::identity::TlsIdentity;
use crate::config::{Problem, Problems, Tcp};
use crate::endpoint::tcp::{QUIC_ONLY, TcpConfig};
use crate::endpoint::tls::ServerIdentities;
use crate::endpoint::{Endpoint, NodeKey};

/// The ALPNs that are served over TCP, of all that the node serves, in the same
/// order of preference.
pub(super) fn alpns(tcp: &Tcp, served: &[&str]) -> Vec<String> {
    let chosen = |alpn: &str| match &tcp.alpn {
        Some(chosen) => chosen.iter().any(|one| one == alpn),
        None => !QUIC_ONLY.contains(&alpn),
    };
    served.iter().filter(|alpn| chosen(alpn)).map(|alpn| (*alpn).to_owned()).collect()
}

/// What is chosen and cannot be served.
pub(super) fn problems(tcp: &Tcp, served: &[&str]) -> Problems {
    let refused = |alpn: &String| -> Option<Problem> {
        let place = tcp.alpn_place();
        if QUIC_ONLY.contains(&alpn.as_str()) {
            return Some(place.problem(
                format!("ALPN `{alpn}` is a protocol over QUIC and cannot be served over TCP"),
                "leave it out here; [endpoint.quic] serves it",
            ));
        }
        (!served.contains(&alpn.as_str())).then(|| {
            place.problem(
                format!("no plugin serves ALPN `{alpn}`"),
                "enable the plugin that does, or leave the ALPN out here",
            )
        })
    };
    let mut problems: Problems = tcp.alpn.iter().flatten().filter_map(refused).collect();
    if problems.is_empty() && alpns(tcp, served).is_empty() {
        problems.push(tcp.alpn_place().problem(
            "nothing that the node serves can be served over TCP",
            "enable a plugin with an ALPN such as `http/1.1`, or switch `[endpoint.tcp]` off",
        ));
    }
    problems
}

/// Listens over TCP, too.
pub(super) fn listen(
    endpoint: &Endpoint,
    tcp: &Tcp,
    key: &NodeKey,
    identity: &TlsIdentity,
    served: &[&str],
) -> Result<Vec<std::net::SocketAddr>, StartError> {
    let offered = alpns(tcp, served).into_iter().map(String::into_bytes).collect();
    let identities = ServerIdentities::new(key, identity.certificate.clone(), offered)
        .map_err(crate::endpoint::EndpointError::from)?;
    let config = TcpConfig {
        bind: tcp.listen.clone(),
        handshake_timeout: tcp.handshake_timeout,
        idle_timeout: tcp.idle_timeout,
        keep_alive: tcp.keep_alive,
    };
    Ok(endpoint.listen_tcp(config, identities, identity.challenges.clone())?)
}
