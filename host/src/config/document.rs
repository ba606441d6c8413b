//! Reading a TOML file so that everything wrong with it is found at once.
//!
//! Deriving a deserialiser stops at the first error and loses the line. Here a
//! file is parsed into a tree that knows where each value stands, and a type
//! says how it is [`Read`] from a [`Node`] of that tree. What does not fit is
//! noted as a [`Problem`] and replaced by a default, so that reading goes on; a
//! document with problems never becomes a configuration.
//!
//! ```ignore
//! impl Read for Authority {
//!     fn read(node: &Node<'_>) -> Option<Self> {
//!         node.table(|table| Self {
//!             label: table.required("label", "name the authority"),
//!             scopes: table.or_default("scopes"),
//!             resources: table.or_default("resources"),
//!         })
//!     }
//! }
//! ```
//!
//! A table's reader asks for the keys that it knows. When it is done, every key
//! that it never asked for is an unknown one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Places, Problem, Problems};

/// How a type is read from a value of a document.
pub(crate) trait Read: Sized {
    /// The value, or `None` with at least one problem noted.
    fn read(node: &Node<'_>) -> Option<Self>;
}

/// Reads a whole document, calling `read` with its top-level table.
///
/// # Errors
/// Everything that is wrong with it, in the order of lines.
pub(crate) fn read_document<T>(
    file: &Path,
    text: &str,
    read: impl FnOnce(&Table<'_>) -> T,
) -> Result<T, Problems> {
    read_tracing(file, text, read).0
}

/// [`read_document`] for those who look further in spite of mistakes: gives what could
/// be read, with defaults in place of what could not.
pub(crate) fn read_partly<T>(
    file: &Path,
    text: &str,
    read: impl FnOnce(&Table<'_>) -> T,
) -> (Option<T>, Problems) {
    let mut partly = None;
    let problems = read_document(file, text, |table| partly = Some(read(table))).err();
    (partly, problems.unwrap_or_default())
}

/// [`read_document`], which also tells the path of each key that was asked for,
/// such as `plugin[].authority.label`.
pub(crate) fn read_tracing<T>(
    file: &Path,
    text: &str,
    read: impl FnOnce(&Table<'_>) -> T,
) -> (Result<T, Problems>, BTreeSet<String>) {
    let document = Document::new(file, text);
    // What could be parsed in spite of syntax errors is not looked at: half a
    // table gives more false problems than true ones.
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            let place = document.place(error.span().unwrap_or(0..0));
            document.problem(place.problem(
                format!("this is not TOML: {}", error.message()),
                "correct the line; strings stand in quotes, and https://toml.io shows the syntax",
            ));
        }
        return (Err(document.finish()), BTreeSet::new());
    }
    let span = root.span();
    let value = DeValue::Table(root.into_inner());
    let node = Node { document: &document, value: &value, span, path: String::new() };
    let read = node.table(read);
    let asked = document.asked.take();
    let problems = document.finish();
    let result = match read {
        Some(value) => problems.into_result(value),
        None => Err(problems),
    };
    (result, asked)
}

/// A file's text and what was found in it so far.
struct Document<'d> {
    file: Arc<Path>,
    text: &'d str,
    problems: RefCell<Problems>,
    asked: RefCell<BTreeSet<String>>,
}

impl<'d> Document<'d> {
    fn new(file: &Path, text: &'d str) -> Self {
        Self { file: file.into(), text, problems: RefCell::default(), asked: RefCell::default() }
    }

    /// The place of a byte range, cut at the end of its first line.
    fn place(&self, span: Range<usize>) -> Place {
        let start = floor_boundary(self.text, span.start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |n| start + n);
        let end = floor_boundary(self.text, span.end).clamp(start, line_end);
        Place::new(
            self.file.clone(),
            before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            self.text[line_start..start].chars().count() + 1,
            self.text[start..end].chars().count(),
            &self.text[line_start..line_end],
        )
    }

    fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    fn finish(self) -> Problems {
        match self.problems.into_inner().into_result(()) {
            Ok(()) => Problems::new(),
            Err(sorted) => sorted,
        }
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// One value of a document, which knows where it stands.
#[derive(Clone)]
pub(crate) struct Node<'d> {
    document: &'d Document<'d>,
    value: &'d DeValue<'d>,
    span: Range<usize>,
    path: String,
}

impl<'d> Node<'d> {
    /// The parsed value.
    pub(crate) fn value(&self) -> &'d DeValue<'d> {
        self.value
    }

    /// Where it stands.
    pub(crate) fn place(&self) -> Place {
        self.document.place(self.span.clone())
    }

    /// Notes that the value cannot stand, and gives `None`.
    pub(crate) fn refuse<T>(
        &self,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Option<T> {
        self.document.problem(self.place().problem(what, remedy));
        None
    }

    /// Notes a problem without showing the line, which may hold a secret.
    pub(crate) fn refuse_secret<T>(
        &self,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Option<T> {
        self.document.problem(self.place().without_text().problem(what, remedy));
        None
    }

    /// Notes that the value is of another type than `expected`.
    pub(crate) fn refuse_type<T>(&self, expected: &str, example: &str) -> Option<T> {
        let key = self.path.rsplit('.').next().unwrap_or_default().trim_end_matches("[]");
        let found = type_name(self.value);
        self.refuse(
            format!("`{key}` takes {expected}, not {found}"),
            format!("write it as in `{key} = {example}`"),
        )
    }

    /// Reads a table, and then notes every key that `read` did not ask for.
    pub(crate) fn table<T>(&self, read: impl FnOnce(&Table<'d>) -> T) -> Option<T> {
        let DeValue::Table(entries) = self.value else {
            return self.refuse_type("a table", "{ … }");
        };
        let table = Table { node: self.clone(), entries, known: RefCell::default() };
        let value = read(&table);
        table.refuse_unknown();
        Some(value)
    }

    /// The elements of an array.
    pub(crate) fn elements(&self) -> Option<Vec<Node<'d>>> {
        let DeValue::Array(array) = self.value else {
            return None;
        };
        Some(
            array
                .iter()
                .map(|element| Node {
                    document: self.document,
                    value: element.get_ref(),
                    span: element.span(),
                    path: format!("{}[]", self.path),
                })
                .collect(),
        )
    }

    /// The entries of a table whose keys are names that the operator chose.
    pub(crate) fn entries(&self) -> Option<Vec<(&'d str, Node<'d>)>> {
        let DeValue::Table(table) = self.value else {
            return None;
        };
        let node = |(key, value): (&'d Spanned<_>, &'d Spanned<DeValue<'d>>)| {
            let key: &std::borrow::Cow<'d, str> = key.get_ref();
            (
                &**key,
                Node {
                    document: self.document,
                    value: value.get_ref(),
                    span: value.span(),
                    path: format!("{}.*", self.path),
                },
            )
        };
        Some(table.iter().map(node).collect())
    }
}

/// What a value is, with its article.
fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A table that is being read.
pub(crate) struct Table<'d> {
    node: Node<'d>,
    entries: &'d DeTable<'d>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'d> Table<'d> {
    /// The value of `key`, if it is there and fits.
    pub(crate) fn get<T: Read>(&self, key: &'static str) -> Option<T> {
        self.node(key).as_ref().and_then(T::read)
    }

    /// The value of `key`, or `default`.
    pub(crate) fn or<T: Read>(&self, key: &'static str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }

    /// The value of `key`, or its type's default.
    pub(crate) fn or_default<T: Read + Default>(&self, key: &'static str) -> T {
        self.get(key).unwrap_or_default()
    }

    /// The value of `key`; that it is missing is a problem with this remedy.
    pub(crate) fn required<T: Read + Default>(&self, key: &'static str, remedy: &str) -> T {
        match self.node(key) {
            Some(node) => T::read(&node).unwrap_or_default(),
            None => {
                self.problem(self.place().problem(format!("`{key}` is missing"), remedy));
                T::default()
            }
        }
    }

    /// Reads every table of an array of tables; one that is missing is empty.
    pub(crate) fn tables<T: Read>(&self, key: &'static str) -> Vec<T> {
        let Some(node) = self.node(key) else { return Vec::new() };
        match node.elements() {
            Some(elements) => elements.iter().filter_map(T::read).collect(),
            None => node
                .refuse(
                    format!("`{key}` is a list of tables"),
                    format!("write its header with two brackets: `[[{key}]]`"),
                )
                .unwrap_or_default(),
        }
    }

    /// Whether the key is there, whatever its value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Where the table begins.
    pub(crate) fn place(&self) -> Place {
        self.node.place()
    }

    /// Where the value of `key` stands, or else the table.
    pub(crate) fn place_of(&self, key: &str) -> Place {
        match self.entries.get(key) {
            Some(value) => self.node.document.place(value.span()),
            None => self.place(),
        }
    }

    /// Where the table and all keys that are there stand.
    pub(crate) fn places(&self) -> Places {
        let document = self.node.document;
        let keys = self.entries.iter();
        Places::new(
            self.place(),
            keys.map(|(key, value)| (key.get_ref().to_string(), document.place(value.span()))),
        )
    }

    /// Notes a problem.
    pub(crate) fn problem(&self, problem: Problem) {
        self.node.document.problem(problem);
    }

    /// How many problems the document has so far.
    pub(crate) fn problem_count(&self) -> usize {
        self.node.document.problems.borrow().len()
    }

    /// The value of `key` as a node; the key counts as known from now on.
    pub(crate) fn node(&self, key: &'static str) -> Option<Node<'d>> {
        let path = match self.node.path.as_str() {
            "" => key.to_owned(),
            parent => format!("{parent}.{key}"),
        };
        self.known.borrow_mut().insert(key);
        self.node.document.asked.borrow_mut().insert(path.clone());
        let value = self.entries.get(key)?;
        Some(Node {
            document: self.node.document,
            value: value.get_ref(),
            span: value.span(),
            path,
        })
    }

    fn refuse_unknown(&self) {
        let known = self.known.borrow();
        for (key, _) in self.entries {
            let name: &str = key.get_ref();
            if known.contains(name) {
                continue;
            }
            let place = self.node.document.place(key.span());
            let problem = if is_secret_name(name) {
                place.without_text().problem(
                    format!("`{name}` would be a secret in this file"),
                    "keep the secret in the vault, name its entry here, and replace the secret",
                )
            } else {
                place.problem(format!("unknown key `{name}`"), suggestion(name, &known))
            };
            self.problem(problem);
        }
    }
}

/// Names under which people put secrets, which are refused without being shown.
fn is_secret_name(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "mnemonic",
        "passphrase",
        "password",
        "private_key",
        "secret",
        "secret_key",
        "seed",
        "token",
        "auth_token",
    ];
    NAMES.contains(&name.to_ascii_lowercase().replace('-', "_").as_str())
}

fn suggestion(name: &str, known: &BTreeSet<&'static str>) -> String {
    let near = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None => {
            let known: Vec<_> = known.iter().map(|key| format!("`{key}`")).collect();
            format!("remove it; this table takes {}", known.join(", "))
        }
    }
}
