//! The book says what is so: its commands run as they are written, its code is
//! compiled code, its reference follows the schemas, and its links lead somewhere.
//!
//! What a page tells these tests stands in comments of HTML on the line before a
//! block, where readers do not see it; `docs/writing.md` lists them.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

mod commands;
mod contents;
mod manual;
mod reference;
mod snippets;

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A page, by its name within the workspace.
struct Page {
    name: String,
    text: String,
}

/// A block of code.
#[derive(Debug)]
struct Block {
    /// The line of its fence, from 1.
    line: usize,
    /// What the fence says.
    kind: String,
    text: String,
    /// The comment on the line before it.
    told: Option<String>,
    /// The block of text that follows it at once.
    answer: Option<String>,
}

impl Block {
    /// What the comment before it says after this word.
    fn told(&self, word: &str) -> Option<&str> {
        self.told.as_deref()?.strip_prefix(word)?.strip_prefix(':').map(str::trim)
    }
}

impl Page {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(root().join(name)).unwrap();
        Self { name: name.to_owned(), text }
    }

    /// Every page of the book, the README, and those of the plugins.
    fn all() -> Vec<Self> {
        let mut names = vec!["README.md".to_owned()];
        for plugin in ["call", "clock", "echo", "files", "http"] {
            names.push(format!("plugins/{plugin}/README.md"));
        }
        let mut folders = vec![root().join("docs")];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir().unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "md") {
                    names.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        names.sort();
        names.iter().map(|name| Self::read(name)).collect()
    }

    /// The page's name from the book's folder.
    fn in_book(&self) -> Option<&str> {
        self.name.strip_prefix("docs/")
    }

    fn blocks(&self) -> Vec<Block> {
        let lines: Vec<_> = self.text.lines().collect();
        let mut blocks: Vec<Block> = Vec::new();
        let mut at = 0;
        // Where the last block of commands ended.
        let mut ended = None;
        while at < lines.len() {
            let Some(kind) = lines[at].strip_prefix("```") else {
                at += 1;
                continue;
            };
            let length = lines[at + 1..].iter().position(|line| *line == "```");
            let length = length.unwrap_or_else(|| panic!("{}:{} has no end", self.name, at + 1));
            let text = lines[at + 1..=at + length].iter().map(|line| format!("{line}\n")).collect();
            let told = at.checked_sub(1).and_then(|before| {
                let comment = lines[before].strip_prefix("<!-- ")?.strip_suffix(" -->")?;
                Some(comment.to_owned())
            });
            let after_commands = ended
                .is_some_and(|end| lines[end + 1..at].iter().all(|line| line.trim().is_empty()));
            let last = blocks.last_mut().filter(|_| after_commands && kind == "text");
            let end = at + 1 + length;
            match last {
                Some(commands) => {
                    commands.answer = Some(text);
                    ended = None;
                }
                None => {
                    ended = (kind == "sh").then_some(end);
                    let kind = kind.to_owned();
                    blocks.push(Block { line: at + 1, kind, text, told, answer: None });
                }
            }
            at = end + 1;
        }
        blocks
    }
}
