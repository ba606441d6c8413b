//! Request bodies: how the value of an input becomes the bytes of a request.

use alknet_plugin_api::{CallError, Json};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::parameter::{Location, Parameter, encode, plain};

/// How the body is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As JSON, untouched.
    Json,
    /// As `application/x-www-form-urlencoded`.
    Form,
    /// As `multipart/form-data`; the named members hold base64.
    Multipart { binary: Vec<String> },
    /// A string, as it is.
    Text,
    /// A string of base64, as the bytes it stands for.
    Binary,
}

impl Encoding {
    /// The encoding that a media type asks for, `None` where it has none here.
    /// Lower ranks are preferred where a service takes several.
    pub(super) fn of(media_type: &str) -> Option<(u8, Self)> {
        let essence = essence(media_type);
        Some(match &*essence {
            json if is_json(json) => (0, Self::Json),
            "application/x-www-form-urlencoded" => (1, Self::Form),
            "multipart/form-data" => (2, Self::Multipart { binary: Vec::new() }),
            text if is_text(text) => (3, Self::Text),
            multipart if multipart.starts_with("multipart/") => return None,
            _ => (4, Self::Binary),
        })
    }
}

/// A media type without its parameters, in lower case.
pub(super) fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether values of this media type are JSON.
pub(super) fn is_json(essence: &str) -> bool {
    matches!(essence, "application/json" | "text/json" | "*/*" | "application/*")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Whether values of this media type are text.
pub(super) fn is_text(essence: &str) -> bool {
    essence.starts_with("text/")
        || essence.ends_with("+xml")
        || matches!(essence, "application/xml" | "application/javascript" | "application/yaml")
}

/// The body of an endpoint's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) encoding: Encoding,
    /// The media type, as the service calls it.
    pub(super) media_type: String,
}

impl Body {
    /// The content type and the bytes for `value`.
    ///
    /// # Errors
    /// `INVALID_INPUT` for a value that the encoding cannot hold.
    pub(super) fn write(&self, value: &Json) -> Result<(String, Vec<u8>), CallError> {
        let media_type = match self.media_type.contains('*') {
            true => "application/json".to_owned(),
            false => self.media_type.clone(),
        };
        Ok(match &self.encoding {
            Encoding::Json => (media_type, value.as_bytes().to_vec()),
            Encoding::Form => (media_type, form(&object(value)?).into_bytes()),
            Encoding::Multipart { binary } => {
                let boundary = uuid::Uuid::new_v4().simple().to_string();
                let parts = multipart(&object(value)?, binary, &boundary)?;
                (format!("multipart/form-data; boundary={boundary}"), parts)
            }
            Encoding::Text => (media_type, string(value)?.into_bytes()),
            Encoding::Binary => (media_type, base64("body", &string(value)?)?),
        })
    }
}

fn object(value: &Json) -> Result<Map<String, Value>, CallError> {
    value.to().map_err(|_| CallError::invalid_input("`body` is no object, which its form needs"))
}

fn string(value: &Json) -> Result<String, CallError> {
    value.to().map_err(|_| CallError::invalid_input("`body` is no string, which its form needs"))
}

fn base64(key: &str, text: &str) -> Result<Vec<u8>, CallError> {
    BASE64_STANDARD
        .decode(text)
        .map_err(|_| CallError::invalid_input(format!("`{key}` is not base64, with its padding")))
}

fn form(members: &Map<String, Value>) -> String {
    let pairs =
        members.iter().flat_map(|(key, value)| Parameter::new(key, Location::Query).pairs(value));
    let pairs: Vec<_> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join("&")
}

fn multipart(
    members: &Map<String, Value>,
    binary: &[String],
    boundary: &str,
) -> Result<Vec<u8>, CallError> {
    let mut bytes = Vec::new();
    for (key, value) in members {
        // A list of strings or files is a part each; anything else is one part.
        let parts = match value {
            Value::Null => &[][..],
            Value::Array(items) if items.iter().all(|item| !item.is_object()) => items,
            one => std::slice::from_ref(one),
        };
        for part in parts {
            let is_binary = binary.contains(key);
            let name = encode(key, false);
            let (more, content) = match part {
                Value::String(text) if is_binary => (
                    format!("; filename=\"{name}\"\r\ncontent-type: application/octet-stream"),
                    base64(key, text)?,
                ),
                Value::Object(_) | Value::Array(_) => {
                    ("\r\ncontent-type: application/json".to_owned(), part.to_string().into_bytes())
                }
                value => (String::new(), plain(value).into_bytes()),
            };
            let head = format!(
                "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"{more}\r\n\r\n"
            );
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend_from_slice(&content);
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(media_type: &str, value: Value) -> Result<(String, String), CallError> {
        let (_, encoding) = Encoding::of(media_type).unwrap();
        let body = Body { encoding, media_type: media_type.to_owned() };
        let (media_type, bytes) = body.write(&value.into())?;
        Ok((media_type, String::from_utf8_lossy(&bytes).into_owned()))
    }

    #[test]
    fn the_media_type_decides() {
        assert_eq!(write("application/merge-patch+json", json!({"a": 1})).unwrap().1, r#"{"a":1}"#);
        let form = write("application/x-www-form-urlencoded", json!({"a": [1, 2], "b": "x y"}));
        assert_eq!(form.unwrap().1, "a=1&a=2&b=x%20y");
        assert_eq!(write("text/csv", json!("a,b")).unwrap(), ("text/csv".into(), "a,b".into()));
        assert_eq!(write("image/png", json!("aGk=")).unwrap().1, "hi");
        assert_eq!(write("*/*", json!([1])).unwrap(), ("application/json".into(), "[1]".into()));
        assert!(Encoding::of("multipart/mixed").is_none());
    }

    #[test]
    fn a_value_of_the_wrong_shape_is_the_callers_mistake() {
        for (media_type, value) in [
            ("application/x-www-form-urlencoded", json!(["a"])),
            ("text/plain", json!({"a": 1})),
            ("image/png", json!("not base64!")),
        ] {
            assert_eq!(write(media_type, value).unwrap_err().code, "INVALID_INPUT", "{media_type}");
        }
    }

    #[test]
    fn parts_hold_text_json_and_files() {
        let encoding = Encoding::Multipart { binary: vec!["file".into()] };
        let body = Body { encoding, media_type: "multipart/form-data".into() };
        let value = json!({"file": "aGk=", "meta": {"a": 1}, "n": 3, "tag\"\r\n": ["x"]});
        let (media_type, bytes) = body.write(&value.into()).unwrap();
        let boundary = media_type.split("boundary=").nth(1).unwrap();
        let text = String::from_utf8(bytes).unwrap().replace(boundary, "B").replace("\r\n", "|");
        let expected = "--B|content-disposition: form-data; name=\"file\"; filename=\"file\"|\
            content-type: application/octet-stream||hi|\
            --B|content-disposition: form-data; name=\"meta\"|content-type: application/json||{\"a\":1}|\
            --B|content-disposition: form-data; name=\"n\"||3|\
            --B|content-disposition: form-data; name=\"tag%22%0D%0A\"||x|\
            --B--|";
        assert_eq!(text, expected);
    }
}
