//! The input of a call, as it stands on the command line.

use std::io::Read;
use std::time::Duration;

use alknet_plugin_api::Json;

use super::failure::{Exit, Failure};

/// Where a call's input comes from.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// The argument itself.
    Text(Json),
    /// Standard input, for `-`.
    Standard,
}

impl Input {
    /// The input, which for `-` is read now.
    ///
    /// # Errors
    /// Standard input cannot be read or is not JSON.
    pub(super) fn read(self) -> Result<Json, Failure> {
        match self {
            Self::Text(json) => Ok(json),
            Self::Standard => read_from(std::io::stdin().lock()),
        }
    }
}

/// For clap: JSON, or `-`.
pub(super) fn parse(text: &str) -> Result<Input, String> {
    match text {
        "-" => Ok(Input::Standard),
        text => Json::parse(text.to_owned())
            .map(Input::Text)
            .map_err(|error| format!("this is not JSON: {error}")),
    }
}

/// For clap: a whole number and a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "write a whole number and a unit: 200ms, 5s, 10m, 1h".to_owned())
}

fn read_from(mut reader: impl Read) -> Result<Json, Failure> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|error| {
        Failure::new(Exit::Usage, format!("standard input cannot be read: {error}"))
    })?;
    Json::parse(bytes).map_err(|error| {
        Failure::new(Exit::Usage, format!("standard input is not JSON: {error}"))
            .remedy("pipe one JSON value into the command")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_holds_one_json_value() {
        assert_eq!(
            read_from(&b" {\"a\":1}\n"[..]).unwrap().to::<serde_json::Value>().unwrap()["a"],
            1
        );
        for wrong in [&b""[..], b"{}{}", b"\xff"] {
            assert_eq!(read_from(wrong).unwrap_err().exit(), Exit::Usage);
        }
    }
}
