//! How plain values are read: strings, numbers, durations, sizes, keys.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::de::DeValue;

use super::document::{Node, Read};

/// An artifact's SHA-256 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// An Ed25519 public key, written as `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

/// An Ed25519 signature, written as 128 hexadecimal digits, with `ed25519:` before
/// them or without.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

/// A number of bytes, written as an integer or with `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) u64);

/// Seconds since the Unix epoch, written as a date with an offset, such as
/// `2027-01-01T00:00:00Z`; fractions are cut off, and dates before 1970 are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timestamp(pub(crate) u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        lower_hex(text).map(Self).ok_or("a SHA-256 digest is 64 lower-case hexadecimal digits")
    }
}

impl FromStr for PublicKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("ed25519:");
        digits
            .and_then(lower_hex)
            .map(Self)
            .ok_or("a public key is `ed25519:` and 64 lower-case hexadecimal digits")
    }
}

impl FromStr for Signature {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("ed25519:").unwrap_or(text);
        lower_hex(digits)
            .map(Self)
            .ok_or("a signature is `ed25519:` and 128 lower-case hexadecimal digits")
    }
}

/// As text, as files and listings have it.
macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(Digest, PublicKey, Signature);

impl Default for Signature {
    fn default() -> Self {
        Self([0; 64])
    }
}

/// One of a few words, each with what it stands for.
pub(crate) fn choice<T: Copy>(node: &Node<'_>, choices: &[(&str, T)]) -> Option<T> {
    let text = String::read(node)?;
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let words: Vec<_> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
    node.refuse(format!("`{text}` is not a choice here"), format!("write {}", words.join(" or ")))
}

/// Lower-case hexadecimal digits of exactly `N` bytes.
pub(crate) fn lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// Whether a text looks like one of the node's own API tokens, which must not
/// stand in a file.
pub(crate) fn is_token(text: &str) -> bool {
    text.starts_with("alk_") && text.len() > 20
}

impl Read for String {
    fn read(node: &Node<'_>) -> Option<Self> {
        let DeValue::String(text) = node.value() else {
            return node.refuse_type("a string", "\"…\"");
        };
        if is_token(text) {
            return node.refuse_secret(
                "an API token stands in this file",
                "revoke the token, which counts as known to others, and write only hashes of tokens",
            );
        }
        if text.chars().any(char::is_control) {
            return node.refuse("the string holds a control character", "remove it");
        }
        Some(text.to_string())
    }
}

impl Read for bool {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value() {
            DeValue::Boolean(value) => Some(*value),
            _ => node.refuse_type("a boolean", "true"),
        }
    }
}

impl Read for u64 {
    fn read(node: &Node<'_>) -> Option<Self> {
        let DeValue::Integer(integer) = node.value() else {
            return node.refuse_type("an integer", "100");
        };
        let digits = integer.as_str().replace('_', "");
        match Self::from_str_radix(&digits, integer.radix()) {
            Ok(value) => Some(value),
            Err(_) => node.refuse(
                format!("{integer} is out of range"),
                format!("write a number from 0 to {}", i64::MAX),
            ),
        }
    }
}

impl Read for u32 {
    fn read(node: &Node<'_>) -> Option<Self> {
        let value = u64::read(node)?;
        Self::try_from(value).ok().or_else(|| {
            node.refuse(
                format!("{value} is out of range"),
                format!("write a number from 0 to {}", Self::MAX),
            )
        })
    }
}

impl Read for Duration {
    fn read(node: &Node<'_>) -> Option<Self> {
        let DeValue::String(text) = node.value() else {
            return node.refuse_type("a duration", "\"5s\"");
        };
        parse_duration(text).or_else(|| {
            node.refuse(
                format!("`{text}` is not a duration"),
                "write a whole number and a unit: `200ms`, `5s`, `10m`, `1h`",
            )
        })
    }
}

/// A whole number and a unit: `200ms`, `5s`, `10m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(milliseconds).map(Duration::from_millis)
}

impl Read for Bytes {
    fn read(node: &Node<'_>) -> Option<Self> {
        const REMEDY: &str = "write bytes as an integer, or a whole number and a unit: `64 MiB`";
        let text = match node.value() {
            DeValue::Integer(_) => return u64::read(node).map(Self),
            DeValue::String(text) => text,
            _ => return node.refuse_type("a size", "\"64 MiB\""),
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim() {
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return node.refuse(format!("`{text}` is not a size"), REMEDY),
        };
        match number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
            Some(total) => Some(Self(total)),
            None => node.refuse(format!("`{text}` is not a size"), REMEDY),
        }
    }
}

impl Read for SocketAddr {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = String::read(node)?;
        text.parse().ok().or_else(|| {
            node.refuse(
                format!("`{text}` is not an address with a port"),
                "write an IP address and a port: `0.0.0.0:4433`, `[::]:4433`",
            )
        })
    }
}

impl Read for PathBuf {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = String::read(node)?;
        if text.is_empty() {
            return node.refuse("the path is empty", "name a file, relative to this file's folder");
        }
        // Relative to the file that names it, wherever the daemon was started.
        let base = node.place().file().parent().map(Self::from).unwrap_or_default();
        Some(base.join(text))
    }
}

impl Read for Digest {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = String::read(node)?;
        text.parse().ok().or_else(|| {
            node.refuse(
                "a SHA-256 digest is 64 lower-case hexadecimal digits",
                "copy what `sha256sum FILE` prints",
            )
        })
    }
}

impl Read for PublicKey {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = String::read(node)?;
        text.parse().ok().or_else(|| {
            node.refuse(
                format!("`{text}` is not a public key"),
                "write `ed25519:` and the key's 64 lower-case hexadecimal digits",
            )
        })
    }
}

impl Read for Signature {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = String::read(node)?;
        text.parse().ok().or_else(|| {
            node.refuse(
                "a signature is `ed25519:` and 128 lower-case hexadecimal digits",
                "copy the Ed25519 signature that the plugin's publisher gives with the file",
            )
        })
    }
}

impl Read for Timestamp {
    fn read(node: &Node<'_>) -> Option<Self> {
        let DeValue::Datetime(datetime) = node.value() else {
            return node.refuse_type("a date without quotes", "2027-01-01T00:00:00Z");
        };
        let (Some(date), Some(time), Some(offset)) =
            (datetime.date, datetime.time, datetime.offset)
        else {
            return node.refuse(
                "the date lacks its time or its offset from UTC",
                "write both: `2027-01-01T00:00:00Z`",
            );
        };
        let offset_minutes = match offset {
            toml::value::Offset::Z => 0,
            toml::value::Offset::Custom { minutes } => i64::from(minutes),
        };
        let days = days_from_epoch(date.year.into(), date.month.into(), date.day.into());
        let seconds = days * 86_400
            + i64::from(time.hour) * 3_600
            + i64::from(time.minute) * 60
            + i64::from(time.second.unwrap_or(0))
            - offset_minutes * 60;
        Some(Self(u64::try_from(seconds).unwrap_or(0)))
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that begin
/// in March so that the leap day is the last of its year.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

impl Timestamp {
    /// As a file has it. What lies after the year 9999, which TOML cannot write,
    /// becomes that year's end.
    pub(crate) fn to_datetime(self) -> toml::value::Datetime {
        const LAST: u64 = 253_402_300_799;
        let seconds = self.0.min(LAST);
        let (year, month, day) = date_from_days((seconds / 86_400) as i64);
        let of_day = seconds % 86_400;
        toml::value::Datetime {
            date: Some(toml::value::Date { year, month, day }),
            time: Some(toml::value::Time {
                hour: (of_day / 3_600) as u8,
                minute: (of_day / 60 % 60) as u8,
                second: Some((of_day % 60) as u8),
                nanosecond: None,
            }),
            offset: Some(toml::value::Offset::Z),
        }
    }
}

/// The inverse of [`days_from_epoch`], from 1970 to the year 9999.
fn date_from_days(days: i64) -> (u16, u8, u8) {
    let mut year = 1970 + days / 366;
    while days_from_epoch(year + 1, 1, 1) <= days {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days_from_epoch(year, *month, 1) <= days).unwrap_or(1);
    let day = days - days_from_epoch(year, month, 1) + 1;
    (year as u16, month as u8, day as u8)
}

/// A time since the Unix epoch as [`Timestamp`] is written.
pub(crate) fn utc_text(seconds: u64) -> String {
    Timestamp(seconds).to_datetime().to_string()
}

impl<T: Read> Read for Vec<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.elements() {
            Some(elements) => Some(elements.iter().filter_map(T::read).collect()),
            None => node.refuse_type("a list", "[…]"),
        }
    }
}

impl<T: Read> Read for BTreeMap<String, T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        let Some(entries) = node.entries() else {
            return node.refuse_type("a table", "{ name = … }");
        };
        let read = |(key, node): &(&str, Node<'_>)| Some(((*key).to_owned(), T::read(node)?));
        Some(entries.iter().filter_map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::read_document;
    use super::*;

    fn read<T: Read + Default>(value: &str) -> Result<T, String> {
        let text = format!("key = {value}");
        read_document("f".as_ref(), &text, |table| table.required::<T>("key", ""))
            .map_err(|problems| problems.iter().map(|p| p.what.clone()).collect())
    }

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(read("\"200ms\""), Ok(Duration::from_millis(200)));
        assert_eq!(read("\"2 h\""), Ok(Duration::from_secs(7_200)));
        for wrong in ["5", "\"5\"", "\"s\"", "\"-5s\"", "\"5 weeks\"", "\"99999999999999999999s\""]
        {
            assert!(read::<Duration>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read("\"64 MiB\""), Ok(Bytes(64 << 20)));
        assert_eq!(read("0x10"), Ok(Bytes(16)));
        assert!(read::<Bytes>("\"64 MB\"").is_err());
        assert!(read::<Bytes>("-1").is_err());
    }

    #[test]
    fn dates_become_seconds() {
        let read = |text| read::<Timestamp>(text).ok().map(|timestamp| timestamp.0);
        assert_eq!(read("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(read("2000-02-29T12:00:00Z"), Some(951_825_600));
        assert_eq!(read("2027-01-01T02:00:00+02:00"), Some(1_798_761_600));
        assert_eq!(read("1901-01-01T00:00:00Z"), Some(0));
        assert_eq!(utc_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc_text(951_825_600), "2000-02-29T12:00:00Z");
        assert_eq!(utc_text(u64::MAX), "9999-12-31T23:59:59Z");
        // Every day of 800 years, at another time of day.
        for day in 0..292_194 {
            let at = day * 86_400 + day % 86_400;
            let text = utc_text(at);
            let document = format!("key = {text}\n");
            let read =
                read_document("f".as_ref(), &document, |table| table.get::<Timestamp>("key"));
            assert_eq!(read.unwrap().map(|timestamp| timestamp.0), Some(at));
        }
        assert_eq!(read("2027-01-01"), None);
        assert_eq!(read("2027-01-01T00:00:00"), None);
        assert_eq!(read("\"2027-01-01T00:00:00Z\""), None);
    }

    #[test]
    fn seconds_become_dates() {
        let date = |seconds| Timestamp(seconds).to_datetime().to_string();
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_825_600), "2000-02-29T12:00:00Z");
        assert_eq!(date(1_798_761_599), "2026-12-31T23:59:59Z");
        assert_eq!(date(u64::MAX), "9999-12-31T23:59:59Z");
        for seconds in (0..8_000_000_000).step_by(77_777_777) {
            assert_eq!(read(&date(seconds)), Ok(Timestamp(seconds)));
        }
    }

    #[test]
    fn keys_and_digests_have_one_spelling() {
        let digits = "0a".repeat(32);
        assert_eq!(read(&format!("\"{digits}\"")), Ok(Digest([10; 32])));
        assert_eq!(read(&format!("\"ed25519:{digits}\"")), Ok(PublicKey([10; 32])));
        assert!(read::<Digest>(&format!("\"{}\"", digits.to_uppercase())).is_err());
        assert!(read::<Digest>("\"0a\"").is_err());
        assert!(read::<PublicKey>(&format!("\"{digits}\"")).is_err());
        assert!(read::<Signature>(&format!("\"{digits}\"")).is_err());
        let signature = format!("\"{digits}{digits}\"");
        assert_eq!(read(&signature), Ok(Signature([10; 64])));
        assert_eq!(read(&signature.replacen('"', "\"ed25519:", 1)), Ok(Signature([10; 64])));
    }

    #[test]
    fn a_token_is_refused_without_being_shown() {
        let text = "key = \"alk_0123456789012345678901234567890123456789\"";
        let result = read_document("f".as_ref(), text, |table| table.get::<String>("key"));
        let shown = result.unwrap_err().to_string();
        assert!(shown.contains("an API token"), "{shown}");
        assert!(!shown.contains("0123456789"), "{shown}");
    }
}
