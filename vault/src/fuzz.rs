//! The bodies of the fuzz targets; `cargo fuzz` and smoke tests drive the same.

use std::sync::OnceLock;

use crate::{DerivationPath, EncryptedData, VaultServiceHandle};

/// No text panics the parser, and a path that was read reads the same once written.
pub fn fuzz_path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(path) = text.parse::<DerivationPath>() else { return };
    let written = path.to_string();
    assert_eq!(written, text.replace('h', "'"));
    assert_eq!(written.parse().ok(), Some(path), "what was written does not read back");
}

/// No entry panics the vault, and none opens: only who has the key can make one that does.
pub fn fuzz_entry(data: &[u8]) {
    static VAULT: OnceLock<VaultServiceHandle> = OnceLock::new();
    let vault = VAULT.get_or_init(|| {
        let vault = VaultServiceHandle::new();
        match vault.unlock_new(12) {
            Ok(_) => vault,
            Err(error) => panic!("no vault to fuzz: {error}"),
        }
    });
    let Ok(entry) = serde_json::from_slice::<EncryptedData>(data) else { return };
    assert!(vault.decrypt("name", &entry).is_err(), "an entry of nobody's opens");
    assert!(vault.decrypt_unbound(&entry).is_err(), "an entry of nobody's opens");
    match serde_json::to_vec(&entry).map(|written| serde_json::from_slice(&written)) {
        Ok(Ok(again)) => assert_eq!(entry, again),
        other => panic!("what was written does not read back: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn k62_any_text_parses_or_is_refused(text in "m?[/0-9'hHm+ -]{0,32}", bytes: Vec<u8>) {
            fuzz_path(text.as_bytes());
            fuzz_path(&bytes);
        }

        #[test]
        fn k64_no_entry_panics(
            version in 0..40_u32,
            salt in "[A-Za-z0-9+/]{42}[AEI]=|[A-Za-z0-9+/=]{0,48}",
            iv in "[A-Za-z0-9+/]{16}|[A-Za-z0-9+/=]{0,20}",
            data in "([A-Za-z0-9+/]{4}){0,20}|[A-Za-z0-9+/=]{0,64}",
            bound in any::<bool>(),
            bytes: Vec<u8>,
        ) {
            let context = bound.then(|| format!("v{version}:{salt}:name"));
            let entry = EncryptedData { key_version: version, salt, iv, data, context };
            fuzz_entry(&serde_json::to_vec(&entry).unwrap());
            fuzz_entry(&bytes);
        }
    }
}
