//! The node as a service manager runs it: what it says on the manager's socket,
//! what it gives up, and the unit file that says how.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use alknet_tests::daemon::{NodeFolder, Running, within};
use tokio::net::UnixDatagram;

/// The manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    _folder: tempfile::TempDir,
}

impl Manager {
    /// Starts the node under the manager.
    fn start(node: &NodeFolder, environment: &[(&str, &str)]) -> (Self, Running) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut command = node.command(["run"]);
        command.env("NOTIFY_SOCKET", &path).envs(environment.iter().copied());
        (Self { socket, _folder: folder }, Running::spawn(&mut command))
    }

    /// The next message, as its lines.
    async fn told(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = within(self.socket.recv(&mut buffer)).await.unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The next message that is no sign of life.
    async fn told_news(&self) -> Vec<String> {
        loop {
            let lines = self.told().await;
            if lines != ["WATCHDOG=1"] {
                return lines;
            }
        }
    }
}

#[tokio::test]
async fn a_manager_is_told_of_start_reload_and_end() {
    let node = NodeFolder::developed();
    let (manager, running) = Manager::start(&node, &[]);
    assert_eq!(manager.told().await, ["READY=1", "STATUS=serving"]);
    // Told before anybody could be refused.
    node.alknet(["call", "/echo/say", r#"{"text":"hi"}"#]).await.text();

    running.signal("HUP").await;
    let lines = manager.told().await;
    assert_eq!(lines[0], "RELOADING=1");
    let time = lines[1].strip_prefix("MONOTONIC_USEC=").expect("systemd 253 asks for it");
    assert!(time.parse::<u64>().unwrap() > 0);
    assert_eq!(manager.told().await, ["READY=1", "STATUS=serving"]);

    node.append("access.toml", "nonsense = 1\n");
    running.signal("HUP").await;
    assert_eq!(manager.told().await[0], "RELOADING=1");
    let lines = manager.told().await;
    assert_eq!(lines[0], "READY=1", "a service that refused a file is no dead one");
    assert!(lines[1].contains("access.toml is refused"), "{lines:?}");

    running.signal("TERM").await;
    assert_eq!(manager.told().await[0], "STOPPING=1");
    assert_eq!(running.ended().await.status, Some(0));
}

#[tokio::test]
async fn a_manager_that_watches_gets_signs_of_life() {
    let node = NodeFolder::developed();
    let (manager, running) = Manager::start(&node, &[("WATCHDOG_USEC", "50000")]);
    assert_eq!(manager.told_news().await[0], "READY=1");
    for _ in 0..5 {
        assert_eq!(manager.told().await, ["WATCHDOG=1"]);
    }
    running.signal("TERM").await;
    assert_eq!(manager.told_news().await[0], "STOPPING=1");
    assert_eq!(running.ended().await.status, Some(0));

    // Meant for another process.
    let (manager, running) =
        Manager::start(&node, &[("WATCHDOG_USEC", "50000"), ("WATCHDOG_PID", "1")]);
    assert_eq!(manager.told().await[0], "READY=1");
    running.signal("TERM").await;
    assert_eq!(manager.told().await[0], "STOPPING=1", "and nothing in between");
    running.ended().await;
}

#[tokio::test]
async fn a_node_that_does_not_start_is_never_ready() {
    let node = NodeFolder::developed();
    node.append("node.toml", "nonsense = 1\n");
    let (manager, running) = Manager::start(&node, &[]);
    assert_eq!(running.ended().await.status, Some(78));
    let told = manager.socket.try_recv(&mut [0; 64]);
    assert_eq!(told.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_manager_that_is_gone_stops_nothing() {
    let node = NodeFolder::developed();
    let (manager, running) = Manager::start(&node, &[]);
    manager.told().await;
    drop(manager);
    running.signal("HUP").await;
    running.logged("service manager cannot be told").await;
    node.alknet(["call", "/echo/say", r#"{"text":"hi"}"#]).await.text();
    running.signal("TERM").await;
    assert_eq!(running.ended().await.status, Some(0));
}

#[tokio::test]
async fn the_daemon_leaves_no_core_dump() {
    let node = NodeFolder::developed();
    let (manager, running) = Manager::start(&node, &[]);
    manager.told().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let words: Vec<_> = core.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{core}");
}

/// The unit file, whose directives an older systemd may not know.
fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/alknet.service");
    std::fs::read_to_string(path).unwrap()
}

/// Runs systemd-analyze on the unit; `None` where there is none.
fn analyze(arguments: &[&str], text: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("alknet.service");
    std::fs::write(&path, text).unwrap();
    let output = Command::new("systemd-analyze").args(arguments).arg(&path).output();
    match output {
        Ok(output) => {
            Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        }
        Err(_) => {
            eprintln!(
                "NOT CHECKED: systemd-analyze is missing; install it with `apt-get install systemd`"
            );
            None
        }
    }
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    // The binary need not be installed where the test runs, and the type is known
    // from systemd 253 on.
    let binary = &alknet_tests::daemon::built().alknet;
    let text = unit().replace("/usr/local/bin/alknet", binary.to_str().unwrap());
    let Some(said) = analyze(&["verify", "--man=no"], &text) else { return };
    let complaints: Vec<_> = said
        .lines()
        .filter(|line| line.contains("alknet.service"))
        .filter(|line| !line.contains("notify-reload"))
        .collect();
    assert_eq!(complaints, Vec::<&str>::new());
}

#[test]
fn the_unit_exposes_little() {
    let Some(said) = analyze(&["security", "--offline=true", "--no-pager"], &unit()) else {
        return;
    };
    let verdict = said.lines().find(|line| line.contains("Overall exposure level")).expect(&said);
    println!("{verdict}");
    assert!(verdict.contains("OK"), "{said}");
}
