//! What commands print: tables and objects for people, JSON for programs.
//!
//! Text that comes from elsewhere loses its control characters, so that a node
//! cannot write escape sequences to the terminal of whoever asks it.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;

use super::failure::{Exit, Failure};
use crate::observe::terminal::coloured;

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[1;31m";
const PLAIN: &str = "\x1b[0m";

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    colour: bool,
    error_colour: bool,
    pretty: bool,
}

impl Output {
    /// For this process's standard streams, with colour where [`coloured`] says so.
    /// JSON has none.
    pub fn of_process(json: bool) -> Self {
        Self {
            json,
            colour: !json && coloured(&io::stdout()),
            error_colour: !json && coloured(&io::stderr()),
            pretty: !json && io::stdout().is_terminal(),
        }
    }

    /// Whether `--json` was given.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a line to standard output.
    ///
    /// # Errors
    /// Standard output cannot be written. That its reader has gone away, as
    /// `head` does, is none.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
    }

    /// Prints JSON: indented on a terminal, otherwise one line.
    ///
    /// # Errors
    /// As for [`line`](Self::line).
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = match self.pretty {
            true => serde_json::to_string_pretty(value),
            false => serde_json::to_string(value),
        };
        match text {
            Ok(text) => self.line(&visible_json(&text)),
            Err(error) => Err(Failure::new(Exit::Internal, format!("cannot write JSON: {error}"))),
        }
    }

    /// Prints a table, or with `--json` the value that it shows.
    ///
    /// # Errors
    /// As for [`line`](Self::line).
    pub fn table(&self, table: &Table, value: &impl Serialize) -> Result<(), Failure> {
        match self.json {
            true => self.json(value),
            false => self.line(&table.render(self.colour)),
        }
    }

    /// Prints an object of any shape: plain values as lines, lists of objects as
    /// tables below their names; or with `--json` the value itself.
    ///
    /// # Errors
    /// As for [`line`](Self::line).
    pub fn object(&self, value: &Value) -> Result<(), Failure> {
        match self.json {
            true => self.json(value),
            false => self.line(&render_object(value, self.colour)),
        }
    }

    /// A line that stands above what belongs to it.
    pub(super) fn heading(&self, text: &str) -> String {
        match self.colour {
            true => format!("{BOLD}{}{PLAIN}", visible(text)),
            false => visible(text),
        }
    }

    /// Text that is to be noticed.
    pub(super) fn alarming(&self, text: &str) -> String {
        match self.colour {
            true => format!("{RED}{}{PLAIN}", visible(text)),
            false => visible(text),
        }
    }

    /// A table as it is printed to standard output.
    pub(super) fn rendered(&self, table: &Table) -> String {
        table.render(self.colour)
    }

    /// Prints a failure to standard error.
    pub fn failure(&self, failure: &Failure) {
        let text = match self.json {
            true => failure.to_json().to_string(),
            false => {
                let text = visible_lines(&failure.to_string());
                match self.error_colour {
                    true => paint_errors(&text),
                    false => text,
                }
            }
        };
        // Without a standard error there is nobody left to tell.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Prints a remark to standard error.
    pub fn note(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{}", visible_lines(text));
    }
}

fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Internal, format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn paint_errors(text: &str) -> String {
    let paint = |line: &str| match line.strip_prefix("error:") {
        Some(rest) => format!("{RED}error:{PLAIN}{BOLD}{rest}{PLAIN}"),
        None => line.to_owned(),
    };
    text.lines().map(paint).collect::<Vec<_>>().join("\n")
}

/// Text with its control characters replaced.
pub(super) fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn visible_lines(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
}

/// JSON writes control characters below U+0020 as escapes already; the ones at
/// and above U+007F it leaves, and so they are written as escapes here.
pub(super) fn visible_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => shown.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    shown
}

/// Rows under a heading, in columns as wide as their widest cell.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new<C: Into<String>>(columns: impl IntoIterator<Item = C>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; what is missing of it is empty.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(|cell| visible(&cell.into())).collect());
    }

    /// The table as text without a final newline.
    pub fn render(&self, colour: bool) -> String {
        let heading: Vec<_> = self.columns.iter().map(|name| name.to_uppercase()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.chain(heading.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..heading.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded = widths.iter().enumerate().map(|(column, width)| {
                let cell = cells.get(column).map_or("", String::as_str);
                format!("{cell:width$}")
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut lines = vec![match colour {
            true => format!("{BOLD}{}{PLAIN}", line(&heading)),
            false => line(&heading),
        }];
        lines.extend(self.rows.iter().map(|row| line(row)));
        lines.join("\n")
    }
}

fn render_object(value: &Value, colour: bool) -> String {
    let Some(object) = value.as_object() else {
        return visible_json(&value.to_string());
    };
    let (lists, plain): (Vec<_>, Vec<_>) =
        object.iter().partition(|(_, value)| is_list_of_objects(value));
    let width = plain.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut blocks = Vec::new();
    let lines: Vec<_> = plain
        .iter()
        .map(|(name, value)| format!("{:width$}  {}", visible(name), cell(value)))
        .collect();
    if !lines.is_empty() {
        blocks.push(lines.join("\n"));
    }
    for (name, list) in lists {
        let rows: Vec<_> = list.as_array().into_iter().flatten().collect();
        let mut columns: Vec<&String> = Vec::new();
        for key in rows.iter().filter_map(|row| row.as_object()).flat_map(|row| row.keys()) {
            if !columns.contains(&key) {
                columns.push(key);
            }
        }
        let mut table = Table::new(columns.iter().map(|column| visible(column)));
        for row in rows {
            table.row(columns.iter().map(|column| cell(&row[column.as_str()])));
        }
        blocks.push(format!("{}:\n{}", visible(name), table.render(colour)));
    }
    blocks.join("\n\n")
}

fn is_list_of_objects(value: &Value) -> bool {
    value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_object))
}

/// A value as it stands in a cell: strings bare, lists of strings with commas.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => visible(text),
        Value::Array(list) if list.iter().all(Value::is_string) => {
            list.iter().map(cell).collect::<Vec<_>>().join(", ")
        }
        other => visible_json(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_shown() {
        let mut table = Table::new(["name", "kind"]);
        table.row(["a", "native"]);
        table.row(["l\u{e9}ger\x1b[31m", "component"]);
        table.row(["short"]);
        assert_eq!(
            table.render(false),
            "NAME        KIND\n\
             a           native\n\
             l\u{e9}ger\u{fffd}[31m  component\n\
             short"
        );
        assert!(table.render(true).starts_with("\x1b[1mNAME"));
    }

    #[test]
    fn an_object_is_shown_as_lines_and_tables() {
        let value = json!({
            "key": "ed25519:0a",
            "listen": ["[::]:1", "0.0.0.0:1"],
            "plugins": [{ "name": "echo", "alpns": ["a"] }, { "name": "clock", "late": true }],
        });
        assert_eq!(
            render_object(&value, false),
            "key     ed25519:0a\n\
             listen  [::]:1, 0.0.0.0:1\n\
             \n\
             plugins:\n\
             ALPNS  NAME   LATE\n\
             a      echo\n       \
                    clock  true"
        );
        assert_eq!(render_object(&json!([1]), false), "[1]");
    }

    #[test]
    fn json_stays_json_without_control_characters() {
        let text = json!({ "a": "\u{9b}31m\u{7f}" }).to_string();
        let shown = visible_json(&text);
        assert!(!shown.chars().any(char::is_control));
        assert_eq!(
            serde_json::from_str::<Value>(&shown).unwrap(),
            serde_json::from_str::<Value>(&text).unwrap()
        );
    }
}
