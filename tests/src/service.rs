//! Services that others wrote, as a node's imports meet them: Python programs of
//! `tests/python`, run as child processes.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::daemon::{Ended, Running};

/// A service that runs. It is killed when this is dropped.
pub struct Service {
    running: Running,
    port: u16,
}

/// A TCP port of loopback that is free.
pub fn free_port() -> u16 {
    // The system gives another one each time, until all had their turn.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// The directory that this test was built in.
pub(crate) fn target() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    // target/debug/deps/test-…
    executable.ancestors().nth(3).expect("a test lies in a target directory").to_owned()
}

/// A folder that `make setup` has installed packages into.
///
/// # Panics
/// If it has not.
pub fn installed(language: &str) -> PathBuf {
    let folder = target().join(language);
    assert!(
        folder.join("installed").exists(),
        "the {language} packages of the tests are missing; install them with `make setup`"
    );
    folder
}

/// The Python that has the tests' packages.
fn python() -> PathBuf {
    installed("python").join("bin/python")
}

/// Runs a program that is among the tests' Python packages to its end.
pub async fn run_python_tool(program: &str, arguments: &[&str]) -> Ended {
    let packages = installed("python");
    let mut command = Command::new(packages.join("bin").join(program));
    // What it keeps for the next time is nobody's.
    Running::spawn(captured(command.args(arguments).current_dir(packages))).ended().await
}

/// Starts a program of `tests/node`, which trusts this certificate. Its standard
/// input is open.
pub fn start_node(program: &str, certificate: &Path, arguments: &[&str]) -> Running {
    let packages = installed("node");
    let mut command = Command::new(packages.join("node_modules/.bin/node"));
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("node").join(program))
        .args(arguments)
        .current_dir(packages)
        .env("NODE_EXTRA_CA_CERTS", certificate);
    Running::spawn(captured(&mut command).stdin(Stdio::piped()))
}

/// Has the command's output captured, and its process end with the test.
fn captured(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true)
}

/// A file of `tests/python`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}

/// A program of `tests/python`, about to run.
pub fn python_program(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python());
    captured(command.arg(fixture(program)).args(arguments));
    command
}

/// Runs a program of `tests/python` to its end.
pub async fn run_python(program: &str, arguments: &[&str]) -> Ended {
    Running::spawn(&mut python_program(program, arguments)).ended().await
}

impl Service {
    /// Starts a program of `tests/python` and waits until it serves.
    pub async fn start(program: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_at(free_port(), program, environment).await
    }

    /// Starts it at a port.
    pub async fn start_at(port: u16, program: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(python());
        command.arg(fixture(program)).arg(port.to_string()).envs(environment.iter().copied());
        let running = Running::spawn(captured(&mut command));
        running.said("serving").await;
        Self { running, port }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// An address below it.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Waits until it has said this.
    pub async fn said(&self, text: &str) {
        self.running.said(text).await;
    }

    /// Everything that it has said and complained of so far.
    pub fn output(&self) -> String {
        self.running.stdout() + &self.running.stderr()
    }

    /// Ends it at once, and gives its port back.
    pub async fn killed(self) -> u16 {
        self.running.signal("KILL").await;
        self.running.ended().await;
        self.port
    }
}
