//! The vault at start: unlock it, take out what the deployment file lends, lock it.

use std::fs::File;

use alknet_vault::{
    CredentialStore, DerivationPath, PhraseSource, StoreError, VaultServiceHandle, path,
};
use zeroize::Zeroizing;

use crate::capabilities::{Bundle, Lent, Use};
use crate::config::{
    CapabilityGrant, CapabilitySource, NodeConfig, PluginStanza, Problem, Problems, Unlock,
    VaultConfig, VaultIdentity,
};

/// The vault while a node is put together. It is locked again when this is
/// dropped, which is before the node serves.
pub(super) struct Lender {
    vault: VaultServiceHandle,
    store: Result<CredentialStore, StoreError>,
}

impl Lender {
    /// Unlocks the vault of the deployment file, which waits for its phrase;
    /// `None` where there is none.
    ///
    /// # Errors
    /// The phrase cannot be had, or is none.
    pub(super) fn open(config: &NodeConfig) -> Result<Option<Self>, Problem> {
        let Some(config) = &config.vault else { return Ok(None) };
        let vault = unlock(config)?;
        Ok(Some(Self { vault, store: CredentialStore::load(&config.store) }))
    }

    /// The seed of the node's key.
    ///
    /// # Errors
    /// There is no such key.
    pub(super) fn identity(
        &self,
        config: &NodeConfig,
        which: VaultIdentity,
    ) -> Result<Zeroizing<[u8; 32]>, Problem> {
        let path = match which {
            VaultIdentity::Node => Ok(path::NODE_IDENTITY.to_owned()),
            VaultIdentity::Device(n) => DerivationPath::device(n).map(|path| path.to_string()),
        };
        path.and_then(|path| self.vault.derive_ed25519(&path))
            .map(|key| key.expose_secret())
            .map_err(|error| {
                config.identity_place().problem(error.to_string(), "name another identity")
            })
    }

    /// One secret, as its grant says.
    ///
    /// # Errors
    /// The vault does not have it, or it is not what the grant says it is.
    pub(super) fn lend(&self, grant: &CapabilityGrant) -> Result<Lent, Problem> {
        let name = match &grant.source {
            CapabilitySource::Entry(name) => name,
            CapabilitySource::Path(path) => {
                let key = self.vault.derive_ed25519(path).map_err(|error| {
                    grant.problem(error.to_string(), "name another path, or an entry")
                })?;
                return Ok(Lent::signing(&key.expose_secret()));
            }
        };
        let add = || format!("add it with `alknet vault add {name}`");
        let store = match &self.store {
            Ok(store) => store,
            Err(StoreError::Io { source, path, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                let what = format!("there is no credential store {}", path.display());
                return Err(grant.problem(what, add()));
            }
            Err(error) => return Err(grant.problem(error.to_string(), "mend the store first")),
        };
        let Some(blob) = store.entries.get(name) else {
            return Err(grant.problem(format!("the vault has no entry `{name}`"), add()));
        };
        let text = self.vault.decrypt(name, blob).map_err(|error| {
            let what = format!("the vault entry `{name}` does not open: {error}");
            grant.problem(what, add())
        })?;
        let how = Use { header: grant.header.as_deref(), reveal: grant.reveal };
        Lent::new(grant.kind, how, &text).map_err(|error| {
            let what = format!("the vault entry `{name}` does not fit its kind: {error}");
            grant.problem(what, add())
        })
    }

    /// All that a plugin is lent.
    ///
    /// # Errors
    /// Every secret that cannot be lent.
    pub(super) fn bundle(&self, stanza: &PluginStanza) -> Result<Bundle, Problems> {
        let mut problems = Problems::default();
        let mut bundle = Bundle::default();
        #[cfg(feature = "imports")]
        match crate::outbound::Outbound::new(&stanza.outbound) {
            Ok(outbound) => bundle.send(outbound),
            Err(error) => {
                let remedy = "without `outbound`, nothing is sent";
                problems.push(stanza.problem("outbound", error.to_string(), remedy));
            }
        }
        for (name, grant) in &stanza.capabilities {
            match self.lend(grant) {
                Ok(lent) => bundle.lend(name, lent, &grant.operations),
                Err(problem) => problems.push(problem),
            }
        }
        problems.into_result(bundle)
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        self.vault.lock();
    }
}

/// Asks for the phrase where the configuration says, and unlocks a vault with it.
///
/// # Errors
/// The phrase cannot be had, or is none.
pub fn unlock(config: &VaultConfig) -> Result<VaultServiceHandle, Problem> {
    let (phrase, passphrase) = words(config)?;
    let vault = VaultServiceHandle::new();
    vault.unlock(&phrase, &passphrase).map_err(|error| locked(config, error))?;
    Ok(vault)
}

/// The phrase, and its passphrase, which is empty where it has none.
fn words(config: &VaultConfig) -> Result<(Zeroizing<String>, Zeroizing<String>), Problem> {
    let source = match &config.unlock {
        Unlock::Prompt => {
            let phrase = asked(config, "phrase")?;
            return Ok(match config.passphrase {
                true => (phrase, asked(config, "passphrase")?),
                false => (phrase, Zeroizing::default()),
            });
        }
        Unlock::Descriptor(number) => {
            let file = inherited(*number).map_err(|why| locked(config, why))?;
            PhraseSource::Descriptor(file.into())
        }
        Unlock::File(file) => PhraseSource::File(file.clone()),
        Unlock::Credential(name) => PhraseSource::SystemdCredential(name.clone()),
    };
    let read = match config.passphrase {
        true => source.read_with_passphrase(),
        false => source.read().map(|phrase| (phrase, Zeroizing::default())),
    };
    read.map_err(|error| locked(config, error))
}

fn asked(config: &VaultConfig, what: &str) -> Result<Zeroizing<String>, Problem> {
    let answer = rpassword::prompt_password(format!("{what} of the vault: "));
    answer.map(Zeroizing::new).map_err(|error| {
        locked(config, format!("the terminal cannot be asked for the {what}: {error}"))
    })
}

/// A descriptor that whoever started this process has left open for it.
///
/// It is opened anew by its number, because taking a number for a descriptor that is
/// one's own is a promise that nobody can check. What this process has opened itself
/// is closed on exec; what it was left was not, or it would not be here.
fn inherited(number: u32) -> Result<File, String> {
    let missing = || {
        format!(
            "file descriptor {number} is not open; start the node with it, as in \
             `alknet run {number}<phrase`"
        )
    };
    match std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")) {
        Ok(info) => match flags(&info) {
            Some(flags) if flags & libc::O_CLOEXEC != 0 => {
                return Err(format!(
                    "file descriptor {number} is one of the node's own, and was not handed to it; \
                     start the node with it, as in `alknet run {number}<phrase`"
                ));
            }
            Some(flags) if flags & libc::O_ACCMODE == libc::O_WRONLY => {
                return Err(format!("file descriptor {number} is open for writing alone"));
            }
            _ => {}
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        // Linux before 5.14 does not show it to a process without core dumps.
        Err(_) => {}
    }
    File::open(format!("/proc/self/fd/{number}")).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing(),
        _ => format!("file descriptor {number} cannot be read: {error}"),
    })
}

/// The flags in the text of an `fdinfo`, in octal there.
fn flags(info: &str) -> Option<i32> {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    i32::from_str_radix(flags.trim(), 8).ok()
}

fn locked(config: &VaultConfig, error: impl ToString) -> Problem {
    let what = format!("the vault does not unlock: {}", error.to_string());
    config
        .problem(what, "see `[vault]` in node.toml for where the phrase comes from")
        .of_a_locked_vault()
}

#[cfg(test)]
mod tests {
    use rustls::SignatureScheme;
    use rustls_pki_types::PrivatePkcs8KeyDer;

    use super::*;
    use crate::endpoint::NodeKey;

    #[test]
    fn k61_a_derived_key_reproduces_its_public_key_in_tls() {
        let vault = VaultServiceHandle::new();
        vault.unlock_new(24).unwrap();
        for path in [path::NODE_IDENTITY, path::SSH_HOST, path::SIGNING, "m/74'/0'/0'/3'"] {
            let derived = vault.derive_ed25519(path).unwrap();
            let key = NodeKey::from_seed(*derived.expose_secret());
            assert_eq!(key.public().0, derived.public_key());
            // As the TLS library reads it.
            let der = PrivatePkcs8KeyDer::from(key.pkcs8().to_vec());
            let tls = rustls::crypto::ring::sign::any_eddsa_type(&der).unwrap();
            let public = tls.public_key().unwrap();
            assert_eq!(&public[public.len() - 32..], derived.public_key());
            let signer = tls.choose_scheme(&[SignatureScheme::ED25519]).unwrap();
            let signature = signer.sign(b"hello").unwrap().try_into().unwrap();
            let public = ed25519_dalek::VerifyingKey::from_bytes(&key.public().0).unwrap();
            public
                .verify_strict(b"hello", &ed25519_dalek::Signature::from_bytes(&signature))
                .unwrap();
        }
    }
}
