//! Pebble, Let's Encrypt's own ACME test server, and the DNS server that comes
//! with it, both as child processes on loopback.
//!
//! `make setup` fetches them from Debian.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::daemon::{Running, reserve_address, reserve_tcp};

/// The server, until this is dropped.
pub struct Pebble {
    folder: TempDir,
    directory: SocketAddr,
    /// Kept so that the server can be stopped and started again.
    dns: SocketAddr,
    validity: u64,
    _names: Running,
    server: Option<Running>,
}

/// Where the server looks when it validates.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// For HTTP-01.
    pub http: u16,
    /// For TLS-ALPN-01.
    pub tls: u16,
}

impl Pebble {
    /// Starts a server whose certificates are valid for `validity` seconds, and
    /// for which every name leads to 127.0.0.1.
    ///
    /// # Panics
    /// If it is not there: run `make setup`.
    pub async fn start(ports: Ports, validity: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (dns, management) = (reserve_address(), reserve_tcp());
        let mut names = Command::new(program("pebble-challtestsrv"));
        names.args(["-defaultIPv6", "", "-defaultIPv4", "127.0.0.1"]);
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        names.args(["-dns01", &dns.to_string(), "-management", &management.to_string()]);
        let names = spawn(&mut names);
        names.said("Starting management server").await;

        let directory = reserve_tcp();
        own_certificate(folder.path());
        let config = json!({ "pebble": {
            "listenAddress": directory.to_string(),
            "managementListenAddress": reserve_tcp().to_string(),
            "certificate": folder.path().join("server.pem"),
            "privateKey": folder.path().join("server.key"),
            "httpPort": ports.http,
            "tlsPort": ports.tls,
            "certificateValidityPeriod": validity,
        }});
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let mut pebble = Self { folder, directory, dns, validity, _names: names, server: None };
        pebble.resume().await;
        pebble
    }

    /// Starts the server again. It has forgotten every account and order.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn resume(&mut self) {
        let mut server = Command::new(program("pebble"));
        server.arg("-config").arg(self.folder.path().join("config.json"));
        server.args(["-dnsserver", &self.dns.to_string(), "-strict"]);
        // At once, and always: nothing is taken as validated from before.
        server.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        let server = spawn(&mut server);
        server.said("ACME directory available at").await;
        self.server = Some(server);
    }

    /// Stops the server.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn pause(&mut self) {
        let server = self.server.take().expect("it runs");
        server.signal("KILL").await;
        server.ended().await;
    }

    /// What the server has said.
    pub fn log(&self) -> String {
        self.server.as_ref().map_or_else(String::new, Running::stdout)
    }

    /// Waits until the server says this.
    pub async fn said(&self, text: &str) {
        self.server.as_ref().expect("it runs").said(text).await;
    }

    /// The lines for a node's `[identity.acme]`.
    pub fn identity(&self, domain: &str) -> String {
        format!(
            "[identity.acme]\ndomains = [\"{domain}\"]\ndirectory = \"https://localhost:{}/dir\"\n\
             authority = {:?}\ncontact = [\"mailto:operator@node.test\"]\n",
            self.directory.port(),
            self.folder.path().join("authority.pem"),
        )
    }

    /// For how many seconds its certificates are valid.
    pub fn validity(&self) -> u64 {
        self.validity
    }
}

fn spawn(command: &mut Command) -> Running {
    use std::process::Stdio;

    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Running::spawn(command)
}

/// The server's own certificate, and the authority that a client must believe.
fn own_certificate(folder: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    std::fs::write(folder.join("authority.pem"), authority.pem()).unwrap();
    std::fs::write(folder.join("server.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
}

/// A program of the package, from this machine or from what `make setup` fetched.
fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let fetched = here.ancestors().map(|folder| folder.join("tools/pebble/usr/bin").join(name));
    let installed = Path::new("/usr/bin").join(name);
    fetched
        .chain([installed])
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: run `make setup`, which fetches it"))
}
