//! `[vault]`: the credential store, and where its phrase comes from at start.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::document::{Node, Read, Table};
use super::problem::{Place, Problem};
use super::values::choice;

/// A valid `[vault]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VaultConfig {
    /// The credential store's file. Default `credentials.json` beside `node.toml`.
    pub store: PathBuf,
    /// Where the phrase comes from.
    pub unlock: Unlock,
    /// Whether the phrase has a passphrase (BIP39), which comes from the same place:
    /// the line below it, or a question of its own. Default no.
    pub passphrase: bool,
    place: Place,
}

/// Where the phrase comes from. Never an argument or the environment, which
/// other processes can read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unlock {
    /// The terminal is asked.
    #[default]
    Prompt,
    /// A file descriptor that whoever starts the node has opened, read to its end.
    Descriptor(u32),
    /// A regular file of mode 0600 or narrower.
    File(PathBuf),
    /// A credential of this name that systemd passes.
    Credential(String),
}

impl VaultConfig {
    /// A vault that asks the terminal, with its store beside the file.
    pub fn beside(node_config: &Path) -> Self {
        Self {
            store: node_config.with_file_name("credentials.json"),
            unlock: Unlock::Prompt,
            passphrase: false,
            place: Place::file_only(node_config),
        }
    }

    /// What has to be readable for it to be unlocked.
    pub fn reads(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.store.clone()];
        match &self.unlock {
            Unlock::Prompt => {}
            Unlock::Descriptor(number) => {
                paths.extend(["fd", "fdinfo"].map(|of| format!("/proc/self/{of}/{number}").into()));
            }
            Unlock::File(file) => paths.push(file.clone()),
            Unlock::Credential(_) => {
                paths.extend(std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from));
            }
        }
        paths
    }

    /// Something wrong with the vault.
    pub fn problem(&self, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        self.place.problem(what, remedy)
    }
}

/// Which key of the vault is the node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultIdentity {
    /// The node's, at `m/74'/0'/0'/0'`.
    Node,
    /// Device `n`'s, at `m/74'/0'/0'/n'`; from 1.
    Device(u32),
}

/// Reads `[vault]`; `None` when there is none, or it is switched off.
pub(super) fn vault(file: &Path, table: &Table<'_>) -> Option<VaultConfig> {
    #[derive(Clone, Copy)]
    enum How {
        Prompt,
        Descriptor,
        File,
        Credential,
    }
    const KINDS: [(&str, How); 4] = [
        ("prompt", How::Prompt),
        ("descriptor", How::Descriptor),
        ("file", How::File),
        ("credential", How::Credential),
    ];
    let node = table.node("vault")?;
    let read = node.table(|table| {
        let default = VaultConfig::beside(file);
        let enabled = table.or("enabled", true);
        let how = table.node("unlock").and_then(|node| choice(&node, &KINDS));
        let descriptor = table.node("descriptor").as_ref().and_then(descriptor);
        let phrase_file: Option<PathBuf> = table.get("file");
        let credential = table.get("credential");
        let unlock = match how.unwrap_or(How::Prompt) {
            How::Prompt => Unlock::Prompt,
            How::Descriptor => Unlock::Descriptor(descriptor.unwrap_or(3)),
            How::Credential => {
                Unlock::Credential(credential.unwrap_or_else(|| "alknet-phrase".to_owned()))
            }
            How::File => {
                if phrase_file.is_none() && !table.has("file") && enabled {
                    table.problem(table.place_of("unlock").problem(
                        "the vault is unlocked by a file, and none is named",
                        "write `file = \"phrase\"`: a file of mode 0600 with the phrase in it",
                    ));
                }
                Unlock::File(phrase_file.unwrap_or_default())
            }
        };
        let store = table.or("store", default.store);
        let passphrase = table.node("passphrase").as_ref().and_then(passphrase).unwrap_or(false);
        enabled.then(|| VaultConfig { store, unlock, passphrase, place: table.place() })
    });
    read.flatten()
}

/// A descriptor that is for the phrase alone.
fn descriptor(node: &Node<'_>) -> Option<u32> {
    let number = u32::read(node)?;
    match number {
        0..=2 => node.refuse(
            format!("descriptor {number} is the node's own input, output or log"),
            "take another, as in `alknet run 3<phrase` with `descriptor = 3`",
        ),
        number => Some(number),
    }
}

/// Whether there is one. The passphrase itself is not written here.
fn passphrase(node: &Node<'_>) -> Option<bool> {
    match node.value() {
        DeValue::String(_) => node.refuse_secret(
            "the passphrase itself stands in this file",
            "write `passphrase = true`, give it where the phrase comes from, and move the secrets \
             to a new vault",
        ),
        _ => bool::read(node),
    }
}

/// `node`, or `device-N`.
impl Read for VaultIdentity {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = String::read(node)?;
        if text == "node" {
            return Some(Self::Node);
        }
        let number = text.strip_prefix("device-").filter(|digits| !digits.starts_with(['0', '+']));
        match number.and_then(|digits| digits.parse().ok()) {
            Some(number) if number < 1 << 31 => Some(Self::Device(number)),
            _ => node.refuse(
                format!("`{text}` is not one of the vault's identities"),
                "write `vault = \"node\"`, or `vault = \"device-1\"` on a further machine of yours",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CapabilitySource, Mode, NodeConfig, Problems};
    use super::*;

    const QUIC: &str = "[endpoint.quic]\nlisten = [\"[::]:1\"]\n";

    fn node(text: &str) -> Result<NodeConfig, Problems> {
        let text = format!("{QUIC}{text}");
        NodeConfig::parse(Path::new("/n/node.toml"), &text, Mode::Development)
    }

    fn unlock(text: &str) -> Unlock {
        node(text).unwrap().vault.unwrap().unlock
    }

    fn wrong(text: &str) -> Vec<String> {
        node(text).unwrap_err().iter().map(|problem| problem.what.clone()).collect()
    }

    #[test]
    fn a_phrase_comes_from_one_of_four_places() {
        assert_eq!(node("").unwrap().vault, None);
        assert_eq!(node("[vault]\nenabled = false\n").unwrap().vault, None);
        assert_eq!(unlock("[vault]\n"), Unlock::Prompt);
        assert_eq!(unlock("[vault]\nunlock = \"descriptor\"\n"), Unlock::Descriptor(3));
        let file = unlock("[vault]\nunlock = \"file\"\nfile = \"a\"\n");
        assert_eq!(file, Unlock::File("/n/a".into()));
        let credential = unlock("[vault]\nunlock = \"credential\"\ncredential = \"b\"\n");
        assert_eq!(credential, Unlock::Credential("b".into()));
        let config = node("[vault]\n").unwrap().vault.unwrap();
        assert_eq!(config.store, Path::new("/n/credentials.json"));
        assert_eq!(
            wrong("[vault]\nunlock = \"file\"\n"),
            ["the vault is unlocked by a file, and none is named"]
        );
        assert_eq!(wrong("[vault]\nunlock = \"environment\"\n").len(), 1);
        for number in 0..3 {
            let text = format!("[vault]\nunlock = \"descriptor\"\ndescriptor = {number}\n");
            let own = format!("descriptor {number} is the node's own input, output or log");
            assert_eq!(wrong(&text), [own]);
        }
    }

    #[test]
    fn a_passphrase_is_announced_and_not_written() {
        let announced = |text: &str| node(text).unwrap().vault.unwrap().passphrase;
        assert!(!announced("[vault]\n"));
        assert!(announced("[vault]\npassphrase = true\n"));
        let problems = node("[vault]\npassphrase = \"open sesame\"\n").unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(!problems.to_string().contains("sesame"), "{problems}");
    }

    #[test]
    fn an_identity_of_the_vault_needs_a_vault() {
        let identity = |text: &str| node(text).unwrap().identity_vault;
        assert_eq!(identity("[vault]\n[identity]\nvault = \"node\"\n"), Some(VaultIdentity::Node));
        assert_eq!(
            identity("[vault]\n[identity]\nvault = \"device-7\"\n"),
            Some(VaultIdentity::Device(7))
        );
        assert_eq!(
            wrong("[identity]\nvault = \"node\"\n"),
            ["the node's key is in the vault, and there is none"]
        );
        for text in ["device-0", "device-", "device-+1", "device-2147483648", "m/0'"] {
            let text = format!("[vault]\n[identity]\nvault = \"{text}\"\n");
            assert_eq!(wrong(&text).len(), 1, "{text}");
        }
        assert_eq!(
            wrong("[vault]\n[identity]\nvault = \"node\"\nkey = \"k\"\n"),
            ["the node's key is named twice"]
        );
    }

    #[test]
    fn requests_go_to_origins_as_urls_spell_them() {
        let stanza = |kind: &str, origin: &str| {
            format!(
                "[vault]\n[[plugin]]\nname = \"a\"\nartifact = \"x\"\noutbound = [\"{origin}\"]\n\
                 capabilities = {{ c = {{ entry = \"e\", {kind} }} }}\n"
            )
        };
        let bearer = |origin: &str| stanza("kind = \"bearer\"", origin);
        for origin in [
            "https://api.example.com",
            "https://api.example.com:8443",
            "https://192.0.2.1",
            "https://[2001:db8::1]:8443",
            "http://127.0.0.1:8080",
            "http://[::1]",
            "http://localhost",
        ] {
            let config = node(&bearer(origin)).unwrap();
            assert_eq!(config.plugins[0].outbound, [origin]);
        }
        for origin in [
            "",
            "https://",
            "api.example.com",
            "https://api.example.com/",
            "https://api.example.com:443",
            "https://api.example.com:08443",
            "https://api.example.com:",
            "https://api.example.com:99999",
            "https://API.example.com",
            "https://me@api.example.com",
            "https://*.example.com",
            "https://[2001:db8:0::1]",
            "https://[::1",
            "ftp://api.example.com",
        ] {
            let wrong = wrong(&bearer(origin));
            assert_eq!(wrong, [format!("`{origin}` is not an origin")]);
        }
        for origin in ["http://api.example.com", "http://127.0.0.1.example.com", "http://192.0.2.1"]
        {
            let wrong = wrong(&bearer(origin));
            assert_eq!(wrong, [format!("anybody on the way to `{origin}` could read the secret")]);
        }
        let unsent = stanza("kind = \"bytes\", reveal = true", "https://api.example.com");
        assert_eq!(wrong(&unsent), ["the plugin is lent nothing that could be sent"]);
    }

    #[test]
    fn a_grant_says_how_its_secret_is_used() {
        let stanza = |grant: &str| {
            format!(
                "[vault]\n[[plugin]]\nname = \"a\"\nartifact = \"x\"\ncapabilities = {{ c = {{ {grant} }} }}\n"
            )
        };
        let grant = |text: &str| {
            let mut config = node(&stanza(text)).unwrap();
            config.plugins[0].capabilities.remove("c").unwrap()
        };
        let header = grant("entry = \"e\", kind = \"header\", header = \"X-Key\"");
        assert_eq!(header.header.as_deref(), Some("X-Key"));
        assert_eq!(header.source, CapabilitySource::Entry("e".into()));
        let sign = grant("path = \"m/74'/3'/0'/0'\", kind = \"sign\"");
        assert_eq!(sign.source, CapabilitySource::Path("m/74'/3'/0'/0'".into()));
        assert!(grant("entry = \"e\", kind = \"bytes\", reveal = true").reveal);
        for text in [
            "kind = \"bearer\"",
            "entry = \"e\"",
            "entry = \"e\", path = \"m/1'\", kind = \"sign\"",
            "path = \"m/1'\", kind = \"bearer\"",
            "entry = \"e\", kind = \"header\"",
            "entry = \"e\", kind = \"header\", header = \"a: b\"",
            "entry = \"e\", kind = \"bearer\", header = \"X-Key\"",
            "entry = \"e\", kind = \"bytes\"",
            "entry = \"e\", kind = \"sign\", reveal = true",
            "entry = \"e\", kind = \"bearer\", secret = \"s3cret\"",
        ] {
            let problems = node(&stanza(text)).unwrap_err();
            assert_eq!(problems.len(), 1, "{text}: {problems}");
            assert!(!problems.to_string().contains("s3cret"));
        }
        let without = stanza("entry = \"e\", kind = \"bearer\"").replace("[vault]\n", "");
        assert_eq!(wrong(&without), ["capabilities are lent by the vault, and there is none"]);
    }
}
