//! The vault from outside: official phrases, locking, sealed entries, the store's mode.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the report.

use std::os::unix::fs::PermissionsExt;

use alknet_vault::{
    CredentialStore, EncryptedData, Phrase, StoreError, VaultError, VaultServiceHandle, path,
};

const PHRASE: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";

#[test]
fn k58_bip39_official_phrase_and_refusals() {
    let seed = Phrase::parse(PHRASE).unwrap().to_seed("TREZOR");
    assert_eq!(
        hex::encode(seed.expose()),
        "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e53495531f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04"
    );
    for bad in
        [PHRASE.replace("about", "abandon"), PHRASE.replace("about", "alknet"), "abandon".into()]
    {
        assert!(matches!(Phrase::parse(&bad), Err(VaultError::Mnemonic(_))), "{bad}");
    }
}

fn unlocked() -> VaultServiceHandle {
    let vault = VaultServiceHandle::new();
    vault.unlock(PHRASE, "").unwrap();
    vault
}

#[test]
fn k56_a_locked_vault_does_nothing() {
    let blob = unlocked().encrypt("a", "b").unwrap();
    let never = VaultServiceHandle::new();
    let again = unlocked();
    again.lock();
    for vault in [never, again] {
        assert!(!vault.is_unlocked());
        let outcomes = [
            vault.derive_ed25519(path::NODE_IDENTITY).map(drop),
            vault.derive_ed25519("no path").map(drop),
            vault.derive_ethereum_key(path::ETHEREUM).map(drop),
            vault.derive_encryption_key().map(drop),
            vault.derive_encryption_key_for_version(0).map(drop),
            vault.encrypt("a", "b").map(drop),
            vault.encrypt_for_version(3, "a", "b").map(drop),
            vault.decrypt("a", &blob).map(drop),
            vault.decrypt_unbound(&blob).map(drop),
            vault.rotate("a", &blob, 3).map(drop),
        ];
        for (n, outcome) in outcomes.iter().enumerate() {
            assert!(matches!(outcome, Err(VaultError::VaultLocked)), "{n}: {outcome:?}");
        }
    }
}

#[test]
fn k57_a_second_unlock_changes_nothing_and_a_second_lock_is_fine() {
    let vault = unlocked();
    let before = vault.derive_ed25519(path::NODE_IDENTITY).unwrap();
    assert!(matches!(vault.unlock(PHRASE, "other"), Err(VaultError::AlreadyUnlocked)));
    assert!(matches!(vault.unlock_new(12), Err(VaultError::AlreadyUnlocked)));
    let after = vault.derive_ed25519(path::NODE_IDENTITY).unwrap();
    assert_eq!(before.public_key(), after.public_key());
    vault.lock();
    vault.lock();
    // A key of the old seed would still be in a cache that was kept.
    vault.unlock(PHRASE, "other").unwrap();
    let other = vault.derive_ed25519(path::NODE_IDENTITY).unwrap();
    assert_ne!(before.public_key(), other.public_key());
    // Handles share the one state.
    vault.clone().lock();
    assert!(!vault.is_unlocked());
}

#[test]
fn k63_k64_k65_an_entry_opens_as_it_was_sealed_and_no_other_way() {
    let vault = unlocked();
    let blob = vault.encrypt("name", "text").unwrap();
    let again = vault.encrypt("name", "text").unwrap();
    assert!(blob.iv != again.iv && blob.salt != again.salt);
    let mut bad = vec![blob.clone(); 6];
    bad[0].salt = again.salt.clone();
    bad[1].iv = again.iv.clone();
    bad[2].data = again.data.clone();
    bad[3].key_version = 3;
    bad[4].context = None;
    bad[5].context = again.context;
    for blob in &bad {
        assert!(matches!(vault.decrypt("name", blob), Err(VaultError::Encryption)));
    }
    assert!(matches!(vault.decrypt("other", &blob), Err(VaultError::Encryption)));
    assert!(matches!(vault.decrypt_unbound(&blob), Err(VaultError::Encryption)));
}

#[test]
fn k66_rotation_moves_an_entry_and_leaves_the_old_one_readable() {
    let vault = unlocked();
    let old = vault.encrypt("name", "text").unwrap();
    let new = vault.rotate("name", &old, 3).unwrap();
    assert_eq!((old.key_version, new.key_version), (2, 3));
    for blob in [&old, &new] {
        assert_eq!(vault.decrypt("name", blob).unwrap().as_str(), "text");
    }
    // Another key sealed it: neither opens as if it were of the other version.
    for (blob, version) in [(&old, 3), (&new, 2)] {
        let renamed = EncryptedData { key_version: version, ..blob.clone() };
        assert!(vault.decrypt("name", &renamed).is_err());
    }
    // It moves back as well, under its own name alone, and never below 2.
    assert_eq!(vault.rotate("name", &new, 2).unwrap().key_version, 2);
    assert!(matches!(vault.rotate("other", &old, 3), Err(VaultError::Encryption)));
    assert!(matches!(vault.rotate("name", &old, 1), Err(VaultError::InvalidPath(_))));
}

#[test]
fn k68_nothing_that_is_printed_or_written_holds_a_key() {
    let vault = unlocked();
    let phrase = Phrase::parse(PHRASE).unwrap();
    let seed = phrase.to_seed("");
    let mut secrets = vec!["abandon".to_owned(), "s3cret-text".into(), hex::encode(seed.expose())];
    let mut shown = format!("{vault:?} {phrase:?} {seed:?}");
    for path in [path::NODE_IDENTITY, path::SSH_HOST, path::SIGNING] {
        let key = vault.derive_ed25519(path).unwrap();
        secrets.push(hex::encode(*key.expose_secret()));
        shown += &format!("{key:?}");
    }
    let sealing = vault.derive_ed25519("m/74'/2'/0'/0'").unwrap();
    secrets.push(hex::encode(*sealing.expose_secret()));
    let blob = vault.encrypt("name", "s3cret-text").unwrap();
    shown += &format!("{:?} {blob:?}", vault.derive_encryption_key().unwrap());
    shown += &serde_json::to_string(&blob).unwrap();
    let errors = [
        vault.decrypt("other", &blob).map(drop).unwrap_err(),
        Phrase::parse("abandon abandon").map(drop).unwrap_err(),
        vault.derive_ed25519("m/1").map(drop).unwrap_err(),
    ];
    shown += &format!("{errors:?}");
    shown += &errors.map(|error| error.to_string()).join(" ");
    assert!(shown.contains("REDACTED"), "{shown}");
    for secret in secrets {
        assert!(!shown.contains(&secret), "{secret} is shown");
        // Nor as Rust prints bytes.
        if let Ok(bytes) = hex::decode(&secret) {
            assert!(!shown.contains(format!("{:?}", &bytes[..8]).trim_matches(['[', ']'])));
        }
    }
}

#[test]
fn k62_malformed_paths() {
    for bad in
        ["", "/", "m/", "n/0", "m/+1", "m/0''", "m/2147483648", "m/-1", "m/ 1", "m//1", "M/0"]
    {
        assert!(bad.parse::<path::DerivationPath>().is_err(), "{bad}");
    }
    assert!(path::DerivationPath::device(0).is_err());
    assert_eq!("m/74h/0'".parse::<path::DerivationPath>().unwrap().to_string(), "m/74'/0'");
}

#[test]
fn k71_a_wider_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.json");
    CredentialStore::new(&file).save().unwrap();
    CredentialStore::load(&file).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(matches!(CredentialStore::load(&file), Err(StoreError::Mode { mode: 0o640, .. })));
}
