//! A node's vault, as its operator has filled it.

use std::os::unix::fs::PermissionsExt;

use alknet_vault::{CredentialStore, VaultServiceHandle};

use crate::daemon::NodeFolder;

/// The phrase of every vault in these tests: BIP39's first official vector.
pub const PHRASE: &str =
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";

/// Gives a node a vault that is unlocked by a file, with these entries.
pub fn add_vault(node: &NodeFolder, entries: &[(&str, &str)]) {
    let phrase = node.file("phrase");
    std::fs::write(&phrase, PHRASE).unwrap();
    std::fs::set_permissions(&phrase, PermissionsExt::from_mode(0o600)).unwrap();
    let vault = VaultServiceHandle::new();
    vault.unlock(PHRASE, "").unwrap();
    let mut store = CredentialStore::new(node.file("credentials.json"));
    for (name, text) in entries {
        store.entries.insert((*name).to_owned(), vault.encrypt(name, text).unwrap());
    }
    store.save().unwrap();
    // In front, where no other section's keys can follow it.
    let text = node.read("node.toml");
    let vault = "[vault]\nunlock = \"file\"\nfile = \"phrase\"\n\n[endpoint.quic]";
    node.write("node.toml", &text.replace("[endpoint.quic]", vault));
}

/// Makes the vault's key the node's own, and says what it is.
pub fn use_the_vaults_key(node: &NodeFolder) -> &'static str {
    // m/74'/0'/0'/0' of the phrase, by Python, from the two specifications.
    let public = "e78c2766a792f09bfccb51493968ac322283e8d021a30063784d806929762ecc";
    node.replace("node.toml", "key = \"node.key\"", "vault = \"node\"");
    let before: String = node.key().0.iter().map(|byte| format!("{byte:02x}")).collect();
    node.replace("known-nodes", &before, public);
    public
}
