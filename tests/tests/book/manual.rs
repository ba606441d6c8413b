//! What the program says of itself: completions, manual pages, colour, and signs of
//! work that lasts.

use std::path::Path;
use std::process::{Command, Output};

use alknet_tests::daemon::{Ended, NodeFolder, built};

fn alknet(arguments: &[&str]) -> Ended {
    let output = Command::new(&built().alknet).args(arguments).output().unwrap();
    output.into()
}

/// Runs a tool that CI has.
fn tool(program: &str, arguments: &[&str], file: &Path) -> Output {
    let ran = Command::new(program).args(arguments).arg(file).output();
    ran.unwrap_or_else(|error| panic!("{program}: {error}; install it with config/setup.sh"))
}

#[test]
fn completions_parse_in_their_shells() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = alknet(&["completions", shell]);
        assert!(script.text().contains("subscribe"), "{shell}");
        let file = folder.path().join(shell);
        std::fs::write(&file, &script.stdout).unwrap();
        let judged = tool(shell, &["-n"], &file);
        assert!(judged.status.success() && judged.stderr.is_empty(), "{shell}: {judged:?}");
    }
    for shell in ["elvish", "powershell"] {
        assert!(alknet(&["completions", shell]).text().contains("subscribe"), "{shell}");
    }
    assert!(alknet(&["completions", "tcsh"]).refused(64).contains("possible values"));
}

/// A shell asks the script what may follow, as pressing the key twice does.
#[test]
fn bash_completes_commands_and_options() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("script");
    let ask = |line: &str| {
        let words = line.split(' ').collect::<Vec<_>>();
        let (last, previous) = (words[words.len() - 1], words[words.len() - 2]);
        format!(
            "COMP_WORDS=({line}); COMP_CWORD={}; _alknet alknet '{last}' '{previous}'; \
             echo \"${{COMPREPLY[*]}}\"\n",
            words.len() - 1
        )
    };
    let script = alknet(&["completions", "bash"]).text().to_owned();
    std::fs::write(
        &file,
        script + &ask("alknet sub") + &ask("alknet peer ad") + &ask("alknet run --de"),
    )
    .unwrap();
    let said = Ended::from(tool("bash", &[], &file));
    assert_eq!(said.text(), "subscribe\nadd\n--dev\n", "{said:?}");
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    alknet(&["man", pages.to_str().unwrap()]).text();
    let mut names = Vec::new();
    for entry in pages.read_dir().unwrap() {
        let file = entry.unwrap().path();
        let shown = tool("man", &["--warnings", "-l", "-P", "cat"], &file);
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(shown.status.success() && shown.stderr.is_empty(), "{name}: {shown:?}");
        for part in ["NAME", "SYNOPSIS", "DESCRIPTION"] {
            assert!(text.contains(part), "{name} has no {part}: {text}");
        }
        names.push(name);
    }
    let all = ["alknet", "alknet-run", "alknet-peer-add", "alknet-vault-rotate", "alknet-man"];
    for name in all {
        assert!(names.iter().any(|one| one == name), "{name} is not among {names:?}");
    }
    let first = folder.path().join("man1/alknet.1");
    let text = std::fs::read_to_string(first).unwrap();
    assert!(text.contains("Exit status"), "{text}");

    std::fs::write(folder.path().join("file"), "").unwrap();
    let file = folder.path().join("file");
    let refused = alknet(&["man", file.to_str().unwrap()]);
    assert!(refused.refused(64).contains("name a folder"), "{refused:?}");
}

/// Runs a command on a terminal of its own.
fn on_a_terminal(node: &NodeFolder, arguments: &str, variables: &[(&str, &str)]) -> String {
    let line = format!(
        "{} --node {} {arguments}",
        built().alknet.display(),
        node.directory().path().display()
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env_remove("NO_COLOR").env("TERM", "xterm");
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.output().expect("util-linux is there");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn colour_is_on_terminals_unless_it_is_not_wanted() {
    let node = NodeFolder::developed();
    let coloured = |text: &str| text.contains("\x1b[1m") || text.contains("\x1b[1;31m");
    for command in ["plugin list", "peer remove nobody"] {
        assert!(coloured(&on_a_terminal(&node, command, &[])), "{command}");
        for (name, value) in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
            let said = on_a_terminal(&node, command, &[(name, value)]);
            assert!(!said.contains('\x1b') && said.len() > 20, "{command} {name}: {said:?}");
        }
    }
    let plain = |force: &str| {
        let mut command = Command::new(&built().alknet);
        command.arg("--node").arg(node.directory().path()).args(["plugin", "list"]);
        command.env_remove("NO_COLOR").env("CLICOLOR_FORCE", force);
        Ended::from(command.output().unwrap()).text().to_owned()
    };
    assert!(!plain("0").contains('\x1b'));
    assert!(coloured(&plain("1")));
}

#[tokio::test]
async fn compiling_a_component_is_shown_on_a_terminal_and_logged_elsewhere() {
    let made = || {
        let call_and_clock = [("call", &*built().call), ("clock", &*built().clock)];
        NodeFolder::developed_with(&call_and_clock)
    };
    let node = made();
    let shown = on_a_terminal(&node, "check", &[]);
    assert!(shown.contains("compiling alknet_plugin_clock.wasm ("), "{shown:?}");
    assert!(shown.contains("no problems"), "{shown:?}");
    // From the cache.
    let again = on_a_terminal(&node, "check", &[]);
    assert!(!again.contains("compiling"), "{again:?}");

    let node = made().start(&[]).await;
    node.logged("compiling alknet_plugin_clock.wasm").await;
    assert!(!node.process().stderr().contains('\x1b'));
}
