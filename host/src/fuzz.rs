//! The bodies of the fuzz targets; `cargo fuzz` and smoke tests drive the same.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crate::auth::{ApiKeyEntry, Policy, token};
use crate::config::{AccessConfig, KnownNodes, Mode, NodeAddress, NodeConfig, Problems};

/// No text panics a reader of configuration, what is wrong with one can be told,
/// and an access file that is accepted makes a policy.
pub fn fuzz_config(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    for mode in [Mode::Pinned, Mode::Development] {
        told(NodeConfig::parse(Path::new("/n/node.toml"), text, mode));
    }
    let file = Path::new("/n/access.toml");
    if let Some(access) = told(AccessConfig::parse(file, text)) {
        assert!(told(access.policy(file)).is_some(), "an accepted file makes no policy");
    }
    told(KnownNodes::parse(Path::new("/n/known-nodes"), text));
    if let Ok(address) = text.parse::<NodeAddress>() {
        assert_eq!(address.to_string().parse().ok(), Some(address), "it does not read back");
    }
}

fn told<T>(read: Result<T, Problems>) -> Option<T> {
    let problems = match read {
        Ok(read) => return Some(read),
        Err(problems) => problems,
    };
    assert!(!problems.is_empty() && !problems.to_string().is_empty(), "refused without a reason");
    assert!(serde_json::to_string(&problems).is_ok(), "a problem cannot be shown to a program");
    None
}

/// A token that the policy below knows.
const TOKEN: &str = "alk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// No bytes panic the look-up of a token, and none but the token itself is found; a
/// stored hash that was read is written the same.
pub fn fuzz_token(data: &[u8]) {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        let key = ApiKeyEntry {
            prefix: TOKEN[..token::VISIBLE_PREFIX_LEN].to_owned(),
            hash: token::stored(&token::digest(TOKEN.as_bytes())),
            ..ApiKeyEntry::default()
        };
        match Policy::new(Vec::new(), vec![key]) {
            Ok(policy) => policy,
            Err(errors) => panic!("no policy to fuzz: {errors:?}"),
        }
    });
    let found = policy.resolve_token(data, Duration::ZERO);
    assert_eq!(found.is_some(), data == TOKEN.as_bytes());
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(digest) = token::parse_stored(text) {
        assert_eq!(token::stored(&digest), text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text that is often nearly a valid file.
    fn nearly_toml() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            "=",
            "\"",
            "'",
            "\"\"\"",
            "\n",
            ".",
            ",",
            "#",
            " ",
            "-",
            "plugin",
            "peer",
            "endpoint.quic",
            "listen",
            "limits",
            "name",
            "config",
            "1",
            "0x",
            "1e9",
            "inf",
            "true",
            "2027-01-01",
            "T00:00:00Z",
            "\\u0000",
            "\u{e9}",
            "\t",
            "\r",
            "alk_",
            "capabilities",
            "expires_at",
            "api_key",
            "fingerprints",
            "ed25519:",
            "https://",
            "5s",
            "64 MiB",
        ]);
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    /// A file of the documentation with a few changes, so that most of it is read.
    fn nearly_documented() -> impl Strategy<Value = String> {
        let file = prop::sample::select(vec![
            include_str!("../../config/node.toml"),
            include_str!("../../config/access.toml"),
        ]);
        let change = (any::<prop::sample::Index>(), 0..8_usize, nearly_toml());
        (file, prop::collection::vec(change, 1..4)).prop_map(|(file, changes)| {
            let mut text: Vec<char> = file.chars().collect();
            for (at, length, with) in changes {
                let at = at.index(text.len());
                let end = (at + length).min(text.len());
                text.splice(at..end, with.chars().take(length));
            }
            text.into_iter().collect()
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz_config(&bytes);
            fuzz_token(&bytes);
        }

        #[test]
        fn no_text_makes_a_reader_panic(text in nearly_toml()) {
            fuzz_config(text.as_bytes());
        }

        #[test]
        fn no_change_of_a_file_makes_a_reader_panic(text in nearly_documented()) {
            fuzz_config(text.as_bytes());
        }

        #[test]
        fn k37_k39_no_change_of_a_token_is_found(
            at in any::<prop::sample::Index>(),
            byte: u8,
            length in 0..=TOKEN.len(),
        ) {
            let mut token = TOKEN.as_bytes().to_vec();
            fuzz_token(&token);
            fuzz_token(&token[..length]);
            let at = at.index(token.len());
            token[at] = byte;
            fuzz_token(&token);
        }

        #[test]
        fn a_stored_hash_is_written_as_it_is_read(text in "sha256:[0-9a-fA-F]{62,66}") {
            fuzz_token(text.as_bytes());
        }
    }
}
