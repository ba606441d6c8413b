//! Commands, run as they are written, page by page, each in a fresh folder.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use alknet_tests::daemon::{Daemon, LIMIT, NodeFolder, Running, built};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::process::Command;

use super::{Block, Page, root};

/// The page whose commands are run where the gateway is tested.
const ELSEWHERE: &str = "docs/http.md";

/// Where a page's commands run.
struct Place {
    /// Beside the binaries, so that plugins can be linked there.
    folder: TempDir,
    running: Vec<Running>,
    _node: Option<Daemon>,
}

impl Place {
    async fn new(page: &Page) -> Self {
        let target = built().alknet.parent().unwrap();
        let folder = tempfile::Builder::new().prefix("page-").tempdir_in(target).unwrap();
        let path = folder.path();
        for name in ["bin", "plugins", "home", "here"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        let link = |file: &Path, to: &str| {
            std::fs::hard_link(file, path.join(to).join(file.file_name().unwrap())).unwrap();
        };
        link(&built().alknet, "bin");
        let plugins = [&built().call, &built().echo, &built().files, &built().http, &built().clock];
        for plugin in plugins {
            link(plugin, "plugins");
        }
        // As `make run` leaves it.
        let with_node = page.text.contains("<!-- a node from `make run` serves -->");
        let mut node = None;
        if with_node {
            let made = NodeFolder::developed_with(&[
                ("call", &built().call),
                ("echo", &built().echo),
                ("files", &built().files),
                ("clock", &built().clock),
            ]);
            std::os::unix::fs::symlink(made.directory().path(), path.join("here/.node")).unwrap();
            node = Some(made.start(&[]).await);
        }
        Self { folder, running: Vec::new(), _node: node }
    }

    fn command(&self, script: &str) -> Command {
        let path = self.folder.path();
        let mut programs = OsString::from(path.join("bin"));
        programs.push(":");
        programs.push(std::env::var_os("PATH").unwrap());
        let mut command = Command::new("sh");
        command
            .args(["-euc", script])
            .current_dir(path.join("here"))
            .env("PATH", programs)
            .env("HOME", path.join("home"))
            .env("PLUGINS", path.join("plugins"))
            .env("ALKNET_SOURCE", root())
            .env_remove("RUST_LOG")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&mut self, page: &Page, block: &Block) {
        let place = format!("{}:{}\n{}", page.name, block.line, block.text);
        if let Some(ready) = block.told("goes on once it says") {
            let script = format!("exec 2>&1\n{}", block.text);
            let running = Running::spawn(self.command(&script).process_group(0));
            running.said(ready).await;
            self.running.push(running);
            return;
        }
        let expected = block.told("ends with").map_or(0, |status| status.parse().unwrap());
        let script = format!("exec 2>&1\n{}", block.text);
        let ended = tokio::time::timeout(LIMIT, self.command(&script).output()).await;
        let ended = ended.unwrap_or_else(|_| panic!("has no end: {place}")).unwrap();
        let said = String::from_utf8(ended.stdout).unwrap();
        assert_eq!(ended.status.code(), Some(expected), "{place}\n{said}");
        if let Some(answer) = &block.answer {
            assert!(fits(&said, answer), "{place}\nsays\n{said}\nand not\n{answer}");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for running in &self.running {
            // A shell does not end what it has started.
            let group = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Whether a text is this, where … stands for anything.
fn fits(text: &str, pattern: &str) -> bool {
    let mut rest = text.trim_end();
    let mut parts = pattern.trim_end().split('…');
    let Some(left) = rest.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    rest = left;
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[test]
fn an_ellipsis_stands_for_anything() {
    for (text, pattern) in [("abc\n", "abc\n"), ("abc", "a…c"), ("abcbc", "…bc"), ("ab", "ab…")]
    {
        assert!(fits(text, pattern), "{text} {pattern}");
    }
    for (text, pattern) in [("abc", "ab"), ("abc", "a…d"), ("abc", "b…"), ("abab", "…ab…ab…ab")]
    {
        assert!(!fits(text, pattern), "{text} {pattern}");
    }
}

/// Runs a page's commands; how many blocks those were.
async fn run(name: &str) -> usize {
    let page = Page::read(name);
    let blocks: Vec<_> = page.blocks().into_iter().filter(|block| block.kind == "sh").collect();
    let mut place = Place::new(&page).await;
    for block in &blocks {
        place.run(&page, block).await;
    }
    blocks.len()
}

/// One test a page, so that they run side by side and each can be run alone.
macro_rules! pages {
    ($($test:ident: $page:literal, $blocks:literal;)*) => {
        $(#[tokio::test]
        async fn $test() {
            let ran = run($page).await;
            assert!(ran >= $blocks, "{ran} blocks were found");
        })*

        const RUN: &[&str] = &[$($page),*];
    };
}

pages! {
    the_readme: "README.md", 1;
    the_first_node: "docs/first-node.md", 3;
    concepts: "docs/concepts.md", 3;
    deployment: "docs/operators/deployment.md", 3;
    access: "docs/operators/access.md", 3;
    secrets: "docs/operators/secrets.md", 3;
    certificates: "docs/operators/certificates.md", 2;
    service: "docs/operators/service.md", 1;
    backup: "docs/operators/backup.md", 3;
    troubleshooting: "docs/operators/troubleshooting.md", 4;
    command_line: "docs/operators/command-line.md", 2;
    rust_plugins: "docs/authors/rust.md", 1;
    javascript_plugins: "docs/authors/javascript.md", 1;
    python_plugins: "docs/authors/python.md", 1;
    c_plugins: "docs/authors/c.md", 1;
    packages: "docs/packages.md", 3;
    the_plugin_clock: "plugins/clock/README.md", 1;
    the_plugin_echo: "plugins/echo/README.md", 1;
}

#[test]
fn every_pages_commands_are_run() {
    for page in Page::all() {
        let known = RUN.contains(&&*page.name) || page.name == ELSEWHERE;
        let commands = page.blocks().iter().filter(|block| block.kind == "sh").count();
        assert!(known || commands == 0, "{} has commands that no test runs", page.name);
    }
}

/// `console` marks commands that are not run, and says why.
#[test]
fn few_commands_are_not_run_and_a_reason_is_given() {
    let mut left_out = 0;
    for page in Page::all() {
        for block in page.blocks().iter().filter(|block| block.kind == "console") {
            let reason = block.told("not run");
            let place = format!("{}:{}", page.name, block.line);
            assert!(reason.is_some_and(|reason| reason.len() > 10), "{place} gives no reason");
            left_out += 1;
        }
        for block in page.blocks() {
            let other = ["bash", "shell", "shell-session", ""].contains(&&*block.kind);
            let commands = block.text.lines().any(|line| line.trim().starts_with("alknet "));
            assert!(!(other && commands), "{}:{} is not marked `sh`", page.name, block.line);
        }
    }
    assert!(left_out <= 20, "{left_out} blocks of commands are not run");
}
