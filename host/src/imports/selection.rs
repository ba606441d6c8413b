//! Which of a source's operations are imported, and under which names.

/// What the deployment file says of a source's operations.
///
/// ```
/// use alknet::imports::Selection;
///
/// let selection = Selection::new("peer/archive")
///     .include(["notes/*"])
///     .exclude(["notes/debug"])
///     .expose(["notes/find"]);
/// assert_eq!(selection.name("notes/find").as_deref(), Some("peer/archive/notes/find"));
/// assert_eq!(selection.name("notes/debug"), None);
/// assert_eq!(selection.name("clock/now"), None);
/// assert!(selection.exposes("peer/archive/notes/find"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Ends with a slash.
    prefix: String,
    include: Vec<String>,
    exclude: Vec<String>,
    expose: Vec<String>,
}

impl Selection {
    /// Everything that the source has, under `prefix`, and nothing exposed.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: format!("{}/", prefix.trim_matches('/')), ..Self::default() }
    }

    /// Only names like these: whole ones, or beginnings with a `*`. None at all
    /// means every name.
    #[must_use]
    pub fn include<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.include.extend(names.into_iter().map(Into::into));
        self
    }

    /// No names like these, whatever is included.
    #[must_use]
    pub fn exclude<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.exclude.extend(names.into_iter().map(Into::into));
        self
    }

    /// The wire reaches these names.
    #[must_use]
    pub fn expose<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.expose.extend(names.into_iter().map(Into::into));
        self
    }

    /// What the node's names for the source's operations begin with, without a
    /// slash at the end.
    pub fn prefix(&self) -> &str {
        self.prefix.trim_end_matches('/')
    }

    /// The node's name for the source's operation `name`; `None` if it is not
    /// wanted.
    pub fn name(&self, name: &str) -> Option<String> {
        let included = self.include.is_empty() || self.include.iter().any(|one| matches(one, name));
        let excluded = self.exclude.iter().any(|one| matches(one, name));
        (included && !excluded).then(|| format!("{}{name}", self.prefix))
    }

    /// The source's name for the node's operation `name`.
    pub fn source_name<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.prefix)
    }

    /// Whether the wire reaches the node's operation `name`.
    pub fn exposes(&self, name: &str) -> bool {
        let source_name = self.source_name(name);
        source_name.is_some_and(|name| self.expose.iter().any(|exposed| exposed == name))
    }

    /// Names that are exposed and not among these of the source.
    pub fn exposed_in_vain<'a>(
        &'a self,
        offered: impl Fn(&str) -> bool + 'a,
    ) -> impl Iterator<Item = &'a str> {
        self.expose.iter().map(String::as_str).filter(move |name| !offered(name))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_chosen_by_whole_names_and_beginnings() {
        let all = Selection::new("/w/");
        assert_eq!(all.name("a").as_deref(), Some("w/a"));
        assert_eq!(all.prefix(), "w");
        let some = Selection::new("w").include(["a/*", "b"]).exclude(["a/x*"]);
        let chosen = |name: &str| some.name(name).is_some();
        assert_eq!(["a/1", "a/x1", "a", "b", "b/c"].map(chosen), [true, false, false, true, false]);
        assert!(Selection::new("w").exclude(["*"]).name("a").is_none());
    }

    #[test]
    fn only_whole_names_are_exposed() {
        let selection = Selection::new("w").expose(["a", "b/*"]);
        assert!(selection.exposes("w/a"));
        assert!(!selection.exposes("a"));
        assert!(!selection.exposes("w/b/c"));
        let vain: Vec<_> = selection.exposed_in_vain(|name| name == "a").collect();
        assert_eq!(vain, ["b/*"]);
    }
}
