//! JSON kept as text.
//!
//! A call's input passes through the node on its way from a caller to a
//! handler; only the handler, or a schema, has to look inside. [`Json`] is that
//! text, reference counted, so that passing it on neither parses nor copies it.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One JSON value as text. Cloning is cheap and shares the text.
///
/// ```
/// use alknet_plugin_api::Json;
/// let json = Json::parse(r#"{"a": [1, 2]}"#)?;
/// let value: serde_json::Value = json.to()?;
/// assert_eq!(value["a"][1], 2);
/// # Ok::<(), alknet_plugin_api::JsonError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Bytes);

/// Text that is not one JSON value, or not of the shape asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(#[from] serde_json::Error);

impl Json {
    /// Checks that `text` is exactly one JSON value and keeps it.
    ///
    /// # Errors
    /// Malformed JSON or invalid UTF-8, with line and column. Nesting is not
    /// limited here; [`Json::to`] refuses more than 128 levels.
    pub fn parse(text: impl Into<Bytes>) -> Result<Self, JsonError> {
        let text = text.into();
        serde_json::from_slice::<IgnoredAny>(&text)?;
        // `IgnoredAny` skips over string contents without decoding them.
        std::str::from_utf8(&text)
            .map_err(|error| <serde_json::Error as serde::de::Error>::custom(error.to_string()))?;
        Ok(Self(text))
    }

    /// Keeps text that the caller has already checked, such as a slice that a
    /// parser took out of a larger document. Handing over anything but one JSON
    /// value is memory-safe but makes whatever the text is put into malformed.
    pub fn from_checked(text: impl Into<Bytes>) -> Self {
        Self(text.into())
    }

    /// Writes `value` as JSON.
    ///
    /// # Errors
    /// A value that JSON cannot hold, such as a map whose keys are not strings.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, JsonError> {
        Ok(Self(serde_json::to_vec(value)?.into()))
    }

    /// The value `null`.
    pub const fn null() -> Self {
        Self(Bytes::from_static(b"null"))
    }

    /// The value `{}`.
    pub const fn empty_object() -> Self {
        Self(Bytes::from_static(b"{}"))
    }

    /// Reads the text as `T`.
    ///
    /// # Errors
    /// The text does not have the shape of `T`, or nests deeper than 128 levels.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, JsonError> {
        Ok(serde_json::from_slice(&self.0)?)
    }

    /// Reads the text as `T`, borrowing strings from it where they need no
    /// unescaping.
    ///
    /// # Errors
    /// As for [`Json::to`].
    pub fn borrow<'a, T: Deserialize<'a>>(&'a self) -> Result<T, JsonError> {
        Ok(serde_json::from_slice(&self.0)?)
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, without copying it.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        Self(value.to_string().into())
    }
}

impl From<Box<RawValue>> for Json {
    fn from(raw: Box<RawValue>) -> Self {
        Self(String::from(Box::<str>::from(raw)).into())
    }
}

impl From<&RawValue> for Json {
    fn from(raw: &RawValue) -> Self {
        Self(Bytes::copy_from_slice(raw.get().as_bytes()))
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_slice(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_whole_value_is_json() {
        for good in ["null", " 1 ", r#""x""#, r#"{"a":[{}]}"#] {
            Json::parse(good).unwrap();
        }
        for bad in [&b""[..], b"{", b"1 2", b"{\"a\"}", b"\"\xff\"", b"nul"] {
            assert!(Json::parse(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn deep_nesting_is_kept_but_not_entered() {
        let text = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let json = Json::parse(text).unwrap();
        assert!(json.to::<serde_json::Value>().is_err());
    }
}
