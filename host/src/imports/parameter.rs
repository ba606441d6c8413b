//! How one value of an input becomes a part of an HTTP request: the styles that
//! OpenAPI defines, in their default forms and in the others.

use serde_json::Value;

/// Where in the request a parameter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Path,
    Query,
    Header,
    Cookie,
}

impl Location {
    /// The word for it in an OpenAPI document.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
            Self::Cookie => "cookie",
        }
    }

    /// The location of this name.
    pub(super) fn of(name: &str) -> Option<Self> {
        [Self::Path, Self::Query, Self::Header, Self::Cookie]
            .into_iter()
            .find(|location| location.name() == name)
    }
}

/// How lists and objects are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Simple,
    Label,
    Matrix,
    Form,
    SpaceDelimited,
    PipeDelimited,
    DeepObject,
    /// The value as JSON text.
    Json,
}

impl Style {
    /// The style of a parameter that names none.
    pub(super) fn default_of(location: Location) -> Self {
        match location {
            Location::Path | Location::Header => Self::Simple,
            Location::Query | Location::Cookie => Self::Form,
        }
    }

    /// The style of this name, where a parameter in `location` may have it.
    pub(super) fn of(name: &str, location: Location) -> Option<Self> {
        let style = match name {
            "simple" => Self::Simple,
            "label" => Self::Label,
            "matrix" => Self::Matrix,
            "form" => Self::Form,
            "spaceDelimited" => Self::SpaceDelimited,
            "pipeDelimited" => Self::PipeDelimited,
            "deepObject" => Self::DeepObject,
            _ => return None,
        };
        let fits = match location {
            Location::Path => matches!(style, Self::Simple | Self::Label | Self::Matrix),
            Location::Header => style == Self::Simple,
            Location::Cookie => style == Self::Form,
            Location::Query => !matches!(style, Self::Simple | Self::Label | Self::Matrix),
        };
        fits.then_some(style)
    }
}

/// One parameter of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    /// Its key in the input.
    pub(super) key: String,
    /// Its name in the request.
    pub(super) name: String,
    pub(super) location: Location,
    pub(super) style: Style,
    pub(super) explode: bool,
    /// Whether the characters that structure a URL stand as they are.
    pub(super) allow_reserved: bool,
}

impl Parameter {
    /// A parameter in its location's default form, under its own name.
    pub(super) fn new(name: &str, location: Location) -> Self {
        let style = Style::default_of(location);
        Self {
            key: name.to_owned(),
            name: name.to_owned(),
            location,
            style,
            explode: style == Style::Form,
            allow_reserved: false,
        }
    }

    /// What stands in a path for `value`.
    pub(super) fn in_path(&self, value: &Value) -> String {
        let name = encode(&self.name, false);
        let (before, between) = match self.style {
            Style::Label => (".", if self.explode { "." } else { "," }),
            Style::Matrix => (";", if self.explode { ";" } else { "," }),
            _ => ("", ","),
        };
        let named = self.style == Style::Matrix;
        let text = |value: &Value| encode(&plain(value), false);
        match value {
            Value::Array(items) if named && self.explode => {
                let items = items.iter().map(|item| format!(";{name}={}", text(item)));
                items.collect()
            }
            Value::Object(members) if self.explode && self.style != Style::Json => {
                let members: Vec<_> = members
                    .iter()
                    .map(|(key, value)| format!("{}={}", encode(key, false), text(value)))
                    .collect();
                format!("{before}{}", members.join(between))
            }
            _ => {
                let list =
                    self.flat(value).iter().map(|item| encode(item, false)).collect::<Vec<_>>();
                let name = if named { format!("{name}=") } else { String::new() };
                format!("{before}{name}{}", list.join(between))
            }
        }
    }

    /// The value of a header.
    pub(super) fn in_header(&self, value: &Value) -> String {
        match value {
            Value::Object(members) if self.explode && self.style != Style::Json => {
                let members: Vec<_> =
                    members.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
                members.join(",")
            }
            _ => self.flat(value).join(","),
        }
    }

    /// The pairs, percent-encoded, that a query, a form or a cookie holds for
    /// `value`.
    pub(super) fn pairs(&self, value: &Value) -> Vec<(String, String)> {
        let encode = |text: &str| encode(text, self.allow_reserved);
        let name = encode(&self.name);
        let pair = |key: &str, value: &Value| (encode(key), encode(&plain(value)));
        let separator = match self.style {
            Style::SpaceDelimited => "%20",
            Style::PipeDelimited => "%7C",
            _ => ",",
        };
        match value {
            // A parameter that is null is one that is not there.
            Value::Null => Vec::new(),
            Value::Object(members) if self.style == Style::DeepObject => {
                let mut pairs = Vec::new();
                for (key, value) in members {
                    deep(format!("{}[{key}]", self.name), value, &mut pairs);
                }
                pairs.into_iter().map(|(key, value)| (encode(&key), encode(&value))).collect()
            }
            Value::Array(items) if self.explode && self.style != Style::Json => {
                items.iter().map(|item| (name.clone(), encode(&plain(item)))).collect()
            }
            Value::Object(members) if self.explode && self.style != Style::Json => {
                members.iter().map(|(key, value)| pair(key, value)).collect()
            }
            Value::Array(items) if items.is_empty() && self.style != Style::Json => Vec::new(),
            _ => {
                let list: Vec<_> = self.flat(value).iter().map(|item| encode(item)).collect();
                vec![(name, list.join(separator))]
            }
        }
    }

    /// A value as a list of texts: itself, its items, or its members one after
    /// the other.
    fn flat(&self, value: &Value) -> Vec<String> {
        match value {
            _ if self.style == Style::Json => vec![value.to_string()],
            Value::Array(items) => items.iter().map(plain).collect(),
            Value::Object(members) => {
                members.iter().flat_map(|(key, value)| [key.clone(), plain(value)]).collect()
            }
            value => vec![plain(value)],
        }
    }
}

/// The members of an object, and of those in it, as `a[b][c]`.
fn deep(name: String, value: &Value, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (key, value) in members {
                deep(format!("{name}[{key}]"), value, pairs);
            }
        }
        Value::Array(items) => {
            for item in items {
                deep(name.clone(), item, pairs);
            }
        }
        value => pairs.push((name, plain(value))),
    }
}

/// A value as text: strings without quotes, what nests as JSON.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Percent-encodes all but the unreserved characters (RFC 3986), and with
/// `reserved` all but those and the ones that structure a query's value.
pub(super) fn encode(text: &str, reserved: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        let stands = byte.is_ascii_alphanumeric()
            || b"-._~".contains(&byte)
            // `#`, `&` and `+` would end the value, or become something else.
            || (reserved && b":/?[]@!$'()*,;=".contains(&byte));
        if stands {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parameter(location: Location, style: &str, explode: bool) -> Parameter {
        let style = Style::of(style, location).unwrap();
        Parameter { style, explode, ..Parameter::new("color", location) }
    }

    /// The table of style examples in the OpenAPI specification.
    #[test]
    fn styles_are_as_the_specification_shows_them() {
        let array = json!(["blue", "black", "brown"]);
        let object = json!({"B": 150, "G": 200, "R": 100});
        let path = |style: &str, explode, value: &Value| {
            parameter(Location::Path, style, explode).in_path(value)
        };
        for (style, explode, of_string, of_array, of_object) in [
            ("matrix", false, ";color=blue", ";color=blue,black,brown", ";color=B,150,G,200,R,100"),
            (
                "matrix",
                true,
                ";color=blue",
                ";color=blue;color=black;color=brown",
                ";B=150;G=200;R=100",
            ),
            ("label", false, ".blue", ".blue,black,brown", ".B,150,G,200,R,100"),
            ("label", true, ".blue", ".blue.black.brown", ".B=150.G=200.R=100"),
            ("simple", false, "blue", "blue,black,brown", "B,150,G,200,R,100"),
            ("simple", true, "blue", "blue,black,brown", "B=150,G=200,R=100"),
        ] {
            assert_eq!(path(style, explode, &json!("blue")), of_string, "{style} {explode}");
            assert_eq!(path(style, explode, &array), of_array, "{style} {explode}");
            assert_eq!(path(style, explode, &object), of_object, "{style} {explode}");
        }
        let query = |style: &str, explode, value: &Value| {
            let pairs = parameter(Location::Query, style, explode).pairs(value);
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
            pairs.join("&")
        };
        for (style, explode, of_array, of_object) in [
            ("form", false, "color=blue,black,brown", "color=B,150,G,200,R,100"),
            ("form", true, "color=blue&color=black&color=brown", "B=150&G=200&R=100"),
            (
                "spaceDelimited",
                false,
                "color=blue%20black%20brown",
                "color=B%20150%20G%20200%20R%20100",
            ),
            (
                "pipeDelimited",
                false,
                "color=blue%7Cblack%7Cbrown",
                "color=B%7C150%7CG%7C200%7CR%7C100",
            ),
        ] {
            assert_eq!(query(style, explode, &array), of_array, "{style} {explode}");
            assert_eq!(query(style, explode, &object), of_object, "{style} {explode}");
        }
        assert_eq!(
            query("deepObject", true, &object),
            "color%5BB%5D=150&color%5BG%5D=200&color%5BR%5D=100"
        );
        let nested = json!({"a": {"b": [1, 2]}, "c": null});
        assert_eq!(
            query("deepObject", true, &nested),
            "color%5Ba%5D%5Bb%5D=1&color%5Ba%5D%5Bb%5D=2"
        );
        let header = |explode, value: &Value| {
            parameter(Location::Header, "simple", explode).in_header(value)
        };
        assert_eq!(header(false, &object), "B,150,G,200,R,100");
        assert_eq!(header(true, &object), "B=150,G=200,R=100");
        assert_eq!(header(true, &array), "blue,black,brown");
    }

    #[test]
    fn a_value_cannot_leave_its_place() {
        let query = Parameter::new("q", Location::Query);
        assert_eq!(
            query.pairs(&json!("a&b=c #/?é")),
            [("q".into(), "a%26b%3Dc%20%23%2F%3F%C3%A9".into())]
        );
        let open = Parameter { allow_reserved: true, ..query };
        assert_eq!(open.pairs(&json!("a/b?c&d+e")), [("q".into(), "a/b?c%26d%2Be".into())]);
        let path = Parameter::new("id", Location::Path);
        assert_eq!(path.in_path(&json!("../a?b")), "..%2Fa%3Fb");
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let query = Parameter::new("q", Location::Query);
        assert_eq!(query.pairs(&json!(null)), []);
        assert_eq!(query.pairs(&json!([])), []);
        assert_eq!(query.pairs(&json!("")), [("q".into(), String::new())]);
        assert_eq!(query.pairs(&json!(true)), [("q".into(), "true".into())]);
    }
}
