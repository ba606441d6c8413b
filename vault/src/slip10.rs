//! SLIP-0010 for Ed25519: hardened derivation only.

use hmac::{Hmac, Mac};
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::{DerivationPath, VaultError};

/// Left half the key, right half the chain code.
pub(crate) type Extended = Zeroizing<[u8; 64]>;

/// HMAC-SHA512 over the parts, in order.
pub(crate) fn hmac_sha512(key: &[u8], parts: &[&[u8]]) -> Result<Extended, VaultError> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key)
        .map_err(|_| VaultError::Derivation("HMAC refused its key"))?;
    parts.iter().for_each(|part| mac.update(part));
    let mut out = Zeroizing::new([0; 64]);
    out.copy_from_slice(&mac.finalize().into_bytes());
    Ok(out)
}

/// The extended key at `path`.
pub(crate) fn derive(seed: &[u8], path: &DerivationPath) -> Result<Extended, VaultError> {
    if !path.is_hardened() {
        return Err(VaultError::InvalidPath("every Ed25519 index must be hardened"));
    }
    let mut node = hmac_sha512(b"ed25519 seed", &[seed])?;
    for index in path.indices() {
        let (key, chain) = node.split_at(32);
        node = hmac_sha512(chain, &[&[0], key, &index.to_be_bytes()])?;
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seed: &str, rows: &[(&str, &str, &str, &str)]) {
        for (path, chain, key, public) in rows {
            let node = derive(&hex::decode(seed).unwrap(), &path.parse().unwrap()).unwrap();
            assert_eq!(hex::encode(&node[32..]), *chain, "{path}");
            assert_eq!(hex::encode(&node[..32]), *key, "{path}");
            let secret: [u8; 32] = node[..32].try_into().unwrap();
            let signing = ed25519_dalek::SigningKey::from_bytes(&secret);
            assert_eq!(hex::encode(signing.verifying_key().as_bytes()), *public, "{path}");
        }
    }

    #[test]
    fn k59_slip10_vector_1() {
        check(
            "000102030405060708090a0b0c0d0e0f",
            &[
                (
                    "m",
                    "90046a93de5380a72b5e45010748567d5ea02bbf6522f979e05c0d8d8ca9fffb",
                    "2b4be7f19ee27bbf30c667b642d5f4aa69fd169872f8fc3059c08ebae2eb19e7",
                    "a4b2856bfec510abab89753fac1ac0e1112364e7d250545963f135f2a33188ed",
                ),
                (
                    "m/0'",
                    "8b59aa11380b624e81507a27fedda59fea6d0b779a778918a2fd3590e16e9c69",
                    "68e0fe46dfb67e368c75379acec591dad19df3cde26e63b93a8e704f1dade7a3",
                    "8c8a13df77a28f3445213a0f432fde644acaa215fc72dcdf300d5efaa85d350c",
                ),
            ],
        );
    }

    #[test]
    fn k59_unhardened_is_refused() {
        let path = "m/74'/0".parse().unwrap();
        assert!(matches!(derive(&[0; 64], &path), Err(VaultError::InvalidPath(_))));
    }
}
