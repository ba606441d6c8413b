//! The vault from outside: official phrases, locking, sealed entries, the store's mode.

use std::os::unix::fs::PermissionsExt;

use alknet_vault::{CredentialStore, Phrase, StoreError, VaultError, VaultServiceHandle, path};

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

#[test]
fn k56_k57_locking() {
    let vault = VaultServiceHandle::new();
    assert!(matches!(vault.derive_ed25519(path::NODE_IDENTITY), Err(VaultError::VaultLocked)));
    assert!(matches!(vault.encrypt("a", "b"), Err(VaultError::VaultLocked)));
    vault.unlock(PHRASE, "").unwrap();
    let before = vault.derive_ed25519(path::NODE_IDENTITY).unwrap();
    assert!(matches!(vault.unlock_new(12), Err(VaultError::AlreadyUnlocked)));
    let after = vault.derive_ed25519(path::NODE_IDENTITY).unwrap();
    assert_eq!(before.public_key(), after.public_key());
    assert!(!format!("{before:?}").contains(&hex::encode(&before.expose_secret()[..])));
    vault.lock();
    vault.lock();
    assert!(matches!(vault.derive_ed25519(path::NODE_IDENTITY), Err(VaultError::VaultLocked)));
}

#[test]
fn k63_k64_k65_k66_sealed_entries() {
    let vault = VaultServiceHandle::new();
    vault.unlock(PHRASE, "").unwrap();
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
    let rotated = vault.rotate("name", &blob, 3).unwrap();
    assert_eq!(rotated.key_version, 3);
    assert_eq!(vault.decrypt("name", &rotated).unwrap().as_str(), "text");
    assert_eq!(vault.decrypt("name", &blob).unwrap().as_str(), "text");
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
