//! Pages in Chromium, which scripts of `tests/browser` drive.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::daemon::{Ended, within};
use crate::service::target;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/call/bindings/web");

/// A page that runs. Its browser ends with this.
pub struct Page {
    _driver: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// Puts the page and the built client into a folder to be served.
///
/// # Panics
/// If the client has not been built.
pub fn page(folder: &Path) {
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        for file in std::fs::read_dir(from).unwrap_or_else(|error| {
            panic!("{}: {error}; the web client is built by `make setup`", from.display())
        }) {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    copy(Path::new(FOLDER), folder);
    copy(&Path::new(CLIENT).join("dist"), &folder.join("call"));
}

fn chromium() -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&folders).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut found =
        names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    found.find(|path| path.exists()).expect("Chromium is installed: `apt-get install chromium`")
}

/// How long a script may take.
const BROWSING: Duration = Duration::from_secs(240);

/// Runs a script of `tests/browser` to its end. Its pictures go to a folder of the
/// target directory that has the script's name.
///
/// # Panics
/// If it takes longer than four minutes.
pub async fn run(script: &str, arguments: &[&str]) -> Ended {
    let mut command = Command::new("node");
    command
        .arg(Path::new(FOLDER).join(script))
        .args(arguments)
        .env("BROWSER", chromium())
        .env("PICTURES", target().join(script.trim_end_matches(".mjs")))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(BROWSING, command.output()).await;
    Ended::from(output.expect("the script ends in time").expect("node is installed"))
}

impl Page {
    /// Opens the page at this address.
    ///
    /// # Panics
    /// If it does not open.
    pub async fn open(url: &str) -> Self {
        let mut driver = Command::new("node")
            .arg(Path::new(FOLDER).join("driver.mjs"))
            .arg(chromium())
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Node.js is installed: `apt-get install nodejs npm`");
        let commands = driver.stdin.take().unwrap();
        let mut answers = BufReader::new(driver.stdout.take().unwrap()).lines();
        let ready = within(answers.next_line()).await.unwrap();
        assert_eq!(ready.as_deref(), Some("ready"), "the page opens");
        Self { _driver: driver, commands, answers }
    }

    /// Has the page run a function of `page.mjs`.
    ///
    /// # Panics
    /// If the function fails.
    pub async fn run(&mut self, function: &str, argument: Value) -> Value {
        let command = format!("{}\n", json!({ "run": function, "with": argument }));
        self.commands.write_all(command.as_bytes()).await.unwrap();
        let answer = within(self.answers.next_line()).await.unwrap().expect("the browser runs");
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer.get("failed").is_none(), "{function}: {}", answer["failed"]);
        answer["result"].take()
    }
}
