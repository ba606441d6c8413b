//! What is wrong with a file, where, and what to do about it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::SerializeStruct;

/// A stretch of one line of a file, or the file as a whole.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    file: Arc<Path>,
    /// From 1; 0 stands for the whole file.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// In characters.
    width: usize,
    /// The line's text; absent where it may hold a secret.
    text: Option<Arc<str>>,
}

impl Place {
    /// The file as a whole.
    pub fn file_only(file: &Path) -> Self {
        Self { file: file.into(), line: 0, column: 0, width: 0, text: None }
    }

    /// `width` characters from `column` (from 1) of `line` (from 1).
    pub(crate) fn new(
        file: Arc<Path>,
        line: usize,
        column: usize,
        width: usize,
        text: &str,
    ) -> Self {
        Self { file, line, column, width, text: Some(text.into()) }
    }

    /// The same place, whose text is never shown.
    pub(crate) fn without_text(mut self) -> Self {
        self.text = None;
        self
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line, from 1; 0 when the whole file is meant.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column in characters, from 1; 0 when the whole file is meant.
    pub fn column(&self) -> usize {
        self.column
    }

    /// Something wrong here.
    pub fn problem(&self, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        let (what, remedy) = (what.into(), remedy.into());
        Problem { place: self.clone(), what, remedy, locked: false, note: false }
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::file_only(Path::new(""))
    }
}

/// `file:line:column`, as editors and terminals understand it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a table stands, and the value of each of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    table: Place,
    keys: BTreeMap<String, Place>,
}

impl Places {
    pub(super) fn new(table: Place, keys: impl Iterator<Item = (String, Place)>) -> Self {
        Self { table, keys: keys.collect() }
    }

    /// Where the table stands.
    pub(crate) fn table(&self) -> &Place {
        &self.table
    }

    /// Where the value of `key` stands, or else the table.
    pub(crate) fn of(&self, key: &str) -> &Place {
        self.key(key).unwrap_or(&self.table)
    }

    /// Where the value of `key` stands, if the table has it.
    pub(crate) fn key(&self, key: &str) -> Option<&Place> {
        self.keys.get(key)
    }
}

/// One thing that is wrong, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong, in one sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    locked: bool,
    note: bool,
}

impl Problem {
    /// `error`, or `note` for what is told beside errors.
    fn severity(&self) -> &'static str {
        if self.note { "note" } else { "error" }
    }

    /// The same, marked as this: it would keep nothing from starting by itself.
    pub(crate) fn into_note(mut self) -> Self {
        self.note = true;
        self
    }

    /// The same problem, marked as this: the files are in order, and the vault
    /// does not unlock.
    pub(crate) fn of_a_locked_vault(mut self) -> Self {
        self.locked = true;
        self
    }
}

/// In the manner of compilers: the sentence, the place, the line itself with
/// what is meant underlined, and the remedy.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column, width, .. } = self.place;
        let gutter = if line == 0 { 0 } else { line.to_string().len() };
        writeln!(f, "{}: {}", self.severity(), self.what)?;
        writeln!(f, "{:gutter$}--> {}", "", self.place)?;
        if let Some(text) = &self.place.text {
            // A tab counts as one character and is shown as one, so that the
            // underline stands below what it means.
            let text = text.replace('\t', " ");
            let room = (text.chars().count() + 1).saturating_sub(column);
            let width = width.clamp(1, room.max(1));
            writeln!(f, "{:gutter$} |", "")?;
            writeln!(f, "{line} | {}", text.trim_end())?;
            writeln!(f, "{:gutter$} | {:indent$}{:^<width$}", "", "", "", indent = column - 1)?;
        }
        write!(f, "{:gutter$} = help: {}", "", self.remedy)
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Problem", 6)?;
        object.serialize_field("severity", self.severity())?;
        object.serialize_field("file", &self.place.file.display().to_string())?;
        object.serialize_field("line", &(self.place.line > 0).then_some(self.place.line))?;
        object.serialize_field("column", &(self.place.line > 0).then_some(self.place.column))?;
        object.serialize_field("what", &self.what)?;
        object.serialize_field("remedy", &self.remedy)?;
        object.end()
    }
}

/// Everything that is wrong, in the order of files and lines.
///
/// It is an error only when it is not empty: see [`into_result`](Self::into_result).
/// As JSON it is the list of its problems, each with `severity`, `file`, `line`,
/// `column`, `what` and `remedy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl FromIterator<Problem> for Problems {
    fn from_iter<I: IntoIterator<Item = Problem>>(problems: I) -> Self {
        Self(problems.into_iter().collect())
    }
}

impl Problems {
    /// Nothing wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a problem, unless one is known at the very place, which it would follow from.
    pub(crate) fn push_first(&mut self, problem: Problem) {
        if !self.0.iter().any(|known| known.place == problem.place) {
            self.0.push(problem);
        }
    }

    /// Adds a problem.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In the order in which they were found, or by line after
    /// [`into_result`](Self::into_result).
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// Whether the files are in order, and only the vault does not unlock.
    pub fn is_a_locked_vault(&self) -> bool {
        let mut errors = self.0.iter().filter(|problem| !problem.note).peekable();
        errors.peek().is_some() && errors.all(|problem| problem.locked)
    }

    /// `value` when nothing is wrong.
    ///
    /// # Errors
    /// The problems, in the order of files and lines.
    pub fn into_result<T>(mut self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            return Ok(value);
        }
        self.0.sort_by(|a, b| {
            let key = |p: &Problem| (p.place.file.clone(), p.place.line, p.place.column);
            key(a).cmp(&key(b))
        });
        Err(self)
    }

    /// Keeps the value of a result, or its problems.
    pub fn take<T>(&mut self, result: Result<T, Self>) -> Option<T> {
        result.map_err(|problems| self.extend(problems)).ok()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl Extend<Problem> for Problems {
    fn extend<I: IntoIterator<Item = Problem>>(&mut self, problems: I) {
        self.0.extend(problems);
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}\n")?;
        }
        let notes = self.0.iter().filter(|problem| problem.note).count();
        match self.0.len() - notes {
            0 => write!(f, "no problems")?,
            1 => write!(f, "1 problem")?,
            n => write!(f, "{n} problems")?,
        }
        match notes {
            0 => Ok(()),
            1 => write!(f, ", 1 note"),
            n => write!(f, ", {n} notes"),
        }
    }
}

impl std::error::Error for Problems {}
