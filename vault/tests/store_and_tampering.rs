//! Writes cut short by SIGKILL, tampered entries, arbitrary paths, entries of older writers.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the report.

use std::{
    env,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use aes_gcm::{Aes256Gcm, KeyInit, aead::Aead};
use alknet_vault::{CredentialStore, EncryptedData, VaultError, VaultServiceHandle};
use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;

const PHRASE: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
const STORE: &str = "ALKNET_VAULT_TEST_STORE";
const ENTRIES: usize = 200;

fn unlocked() -> VaultServiceHandle {
    let vault = VaultServiceHandle::new();
    vault.unlock(PHRASE, "").unwrap();
    vault
}

fn fill(store: &mut CredentialStore, key_version: u32) {
    let mut blob = unlocked().encrypt("x", "text").unwrap();
    blob.key_version = key_version;
    store.entries = (0..ENTRIES).map(|n| (n.to_string(), blob.clone())).collect();
}

#[test]
#[ignore = "the process that k70 kills"]
fn writer() {
    let Some(file) = env::var_os(STORE) else { return };
    let (mut old, mut new) = (CredentialStore::new(&file), CredentialStore::new(&file));
    fill(&mut old, 2);
    fill(&mut new, 3);
    loop {
        new.save().unwrap();
        old.save().unwrap();
    }
}

#[test]
fn k70_kill_9_leaves_the_old_or_the_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.json");
    let mut first = CredentialStore::new(&file);
    fill(&mut first, 9);
    first.save().unwrap();
    let mut moved = 0;
    for round in 0..25u64 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "writer", "--ignored"])
            .env(STORE, &file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The moment of the kill, not a wait: any moment will do.
        thread::sleep(Duration::from_micros(20_000 + round * 7_919 % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = CredentialStore::load(&file).unwrap();
        assert_eq!(store.entries.len(), ENTRIES);
        let version = store.entries["0"].key_version;
        assert!(store.entries.values().all(|e| e.key_version == version));
        moved += usize::from(version != 9);
    }
    assert!(moved > 0, "no writer ever got as far as a write");
}

#[test]
fn k65_an_entry_without_context_opens_only_unbound() {
    let vault = unlocked();
    let key = vault.derive_ed25519("m/74'/2'/0'/0'").unwrap().expose_secret();
    let iv = [7; 12];
    let data = Aes256Gcm::new((&*key).into()).encrypt(&iv.into(), &b"old"[..]).unwrap();
    let blob = EncryptedData {
        key_version: 2,
        salt: STANDARD.encode([1; 32]),
        iv: STANDARD.encode(iv),
        data: STANDARD.encode(data),
        context: None,
    };
    assert_eq!(vault.decrypt_unbound(&blob).unwrap().as_str(), "old");
    assert!(matches!(vault.decrypt("name", &blob), Err(VaultError::Encryption)));
}

#[test]
fn k63_field_names_and_lengths() {
    let blob = unlocked().encrypt("name", "text").unwrap();
    let json = serde_json::to_value(&blob).unwrap();
    let mut names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["context", "data", "iv", "key_version", "salt"]);
    for (text, length) in [(&blob.salt, 32), (&blob.iv, 12), (&blob.data, 4 + 16)] {
        assert_eq!(STANDARD.decode(text).unwrap().len(), length);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn k64_one_changed_byte_is_noticed(field in 0usize..3, at in any::<prop::sample::Index>(), flip in 1u8..) {
        let vault = unlocked();
        let mut blob = vault.encrypt("name", "text").unwrap();
        let text = match field { 0 => &mut blob.salt, 1 => &mut blob.iv, _ => &mut blob.data };
        let mut bytes = STANDARD.decode(&*text).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        *text = STANDARD.encode(bytes);
        prop_assert!(matches!(vault.decrypt("name", &blob), Err(VaultError::Encryption)));
    }
}
