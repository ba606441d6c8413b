//! `alknet token`: API keys, each of which is shown once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use super::{Global, Output, Table};
use crate::auth::{ApiKeyEntry, token};
use crate::config::{AccessConfig, AccessFile, parse_duration, utc_text};

/// Make, list and revoke API keys
#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an API key, print it once, and write its hash to access.toml
    #[command(after_help = "\
Example:
  alknet token new --scopes observe --expires 30d --description console")]
    New {
        /// What it may do, such as notes:read,notes:write
        #[arg(long, value_name = "SCOPE,…", value_delimiter = ',', required = true)]
        scopes: Vec<String>,
        /// After how long it ends, such as 12h, 30d or 4w [default: never]
        #[arg(long, value_name = "TIME", value_parser = lifetime)]
        expires: Option<Duration>,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        description: String,
    },
    /// List the API keys, by the part that people may see
    List,
    /// Take an API key out of access.toml
    Revoke {
        /// Its first eight characters, as `alknet token list` shows them
        prefix: String,
    },
}

impl Token {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let file = global.directory()?.access_config();
        match self.command {
            Command::New { scopes, expires, description } => {
                let expires_at = expires.map(|after| (now() + after).as_secs());
                let mut access = AccessFile::load(&file)?;
                let keys = &access.config().api_keys;
                let new = unused(&|prefix| keys.iter().any(|key| key.prefix == prefix))?;
                access.add_api_key(&ApiKeyEntry {
                    prefix: new.prefix.clone(),
                    hash: new.hash.clone(),
                    scopes: scopes.clone(),
                    description,
                    expires_at,
                });
                access.save()?;
                show(&new.token, &new.prefix, &scopes, expires_at, output)
            }
            Command::List => list(&AccessConfig::load(&file)?.api_keys, output),
            Command::Revoke { prefix } => {
                let mut access = AccessFile::load(&file)?;
                access.remove_api_key(&prefix)?;
                access.save()?;
                output.note(&format!("revoked {prefix}"));
                Ok(())
            }
        }
    }
}

/// A token whose prefix is nobody's yet: there are 16 million of them.
fn unused(taken: &dyn Fn(&str) -> bool) -> Result<token::NewToken, Failure> {
    loop {
        let new = token::generate().map_err(|error| {
            Failure::new(Exit::Internal, format!("no random bytes for a token: {error}"))
        })?;
        if !taken(&new.prefix) {
            return Ok(new);
        }
    }
}

fn show(
    token: &Zeroizing<String>,
    prefix: &str,
    scopes: &[String],
    expires_at: Option<u64>,
    output: &Output,
) -> Result<(), Failure> {
    let expires = expires_at.map(utc_text);
    if output.is_json() {
        return output.json(&json!({
            "token": &**token, "prefix": prefix, "scopes": scopes, "expires_at": expires,
        }));
    }
    output.line(token)?;
    output.note(&format!(
        "this is the only time that the token is shown; {prefix} in access.toml stands for it{}",
        expires.map(|at| format!(" until {at}")).unwrap_or_default()
    ));
    Ok(())
}

fn list(keys: &[ApiKeyEntry], output: &Output) -> Result<(), Failure> {
    let mut table = Table::new(["prefix", "scopes", "expires", "description"]);
    let mut objects = Vec::new();
    for key in keys {
        let expires = key.expires_at.map(utc_text);
        let expired = key.expires_at.is_some_and(|at| now().as_secs() >= at);
        let shown = match &expires {
            Some(at) if expired => format!("{at} (expired)"),
            Some(at) => at.clone(),
            None => "never".to_owned(),
        };
        table.row([&*key.prefix, &key.scopes.join(", "), &shown, &key.description]);
        objects.push(json!({
            "prefix": key.prefix, "scopes": key.scopes, "expires_at": expires,
            "expired": expired, "description": key.description,
        }));
    }
    output.table(&table, &json!({ "api_keys": objects }))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// For clap: a whole number and a unit, up to weeks.
fn lifetime(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 86_400;
    let days = |text: &str, each: u64| text.parse::<u64>().ok()?.checked_mul(each * DAY);
    let parsed = match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(number), _) => days(number, 1).map(Duration::from_secs),
        (_, Some(number)) => days(number, 7).map(Duration::from_secs),
        _ => parse_duration(text),
    };
    // A thousand years are "never", and leave room for the sum.
    parsed
        .filter(|time| time.as_secs() >= 1 && time.as_secs() < 365_000 * DAY)
        .ok_or_else(|| "write a whole number and a unit: 90m, 12h, 30d, 4w".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_a_number_and_a_unit() {
        assert_eq!(lifetime("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(lifetime("4w"), Ok(Duration::from_secs(28 * 86_400)));
        assert_eq!(lifetime("12h"), Ok(Duration::from_secs(12 * 3_600)));
        for wrong in ["", "30", "d", "-1d", "0d", "1ms", "1y", "99999999999999999999d", "400000d"] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_taken_prefix_is_not_given_again() {
        let asked = std::cell::Cell::new(0);
        let new = unused(&|_| {
            asked.set(asked.get() + 1);
            asked.get() < 3
        });
        assert_eq!(asked.get(), 3);
        assert!(new.unwrap().token.starts_with("alk_"));
    }
}
