//! BIP-32 for secp256k1: hardened and plain derivation of private keys.

use k256::{NonZeroScalar, SecretKey, elliptic_curve::sec1::ToEncodedPoint};
use zeroize::Zeroizing;

use crate::{
    DerivationPath, VaultError,
    slip10::{Extended, hmac_sha512},
};

/// The extended private key at `path`.
pub(crate) fn derive(seed: &[u8], path: &DerivationPath) -> Result<Extended, VaultError> {
    let mut node = hmac_sha512(b"Bitcoin seed", &[seed])?;
    secret(&node[..32])?;
    for index in path.indices() {
        let parent = secret(&node[..32])?;
        let number = index.to_be_bytes();
        let mut child = if index >> 31 == 1 {
            hmac_sha512(&node[32..], &[&[0], &node[..32], &number])?
        } else {
            hmac_sha512(&node[32..], &[&public(&parent), &number])?
        };
        let tweak = secret(&child[..32])?;
        let sum = *parent.to_nonzero_scalar() + *tweak.to_nonzero_scalar();
        let key: SecretKey = Option::<NonZeroScalar>::from(NonZeroScalar::new(sum))
            .ok_or(VaultError::Derivation("the index gives no valid key"))?
            .into();
        child[..32].copy_from_slice(&Zeroizing::new(key.to_bytes())[..]);
        node = child;
    }
    Ok(node)
}

/// The compressed public key, 33 bytes.
pub(crate) fn public_of(key: &[u8]) -> Result<Vec<u8>, VaultError> {
    Ok(public(&secret(key)?))
}

fn secret(bytes: &[u8]) -> Result<SecretKey, VaultError> {
    SecretKey::from_slice(bytes).map_err(|_| VaultError::Derivation("the index gives no valid key"))
}

fn public(key: &SecretKey) -> Vec<u8> {
    key.public_key().to_encoded_point(true).as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k60_bip32_vector_1() {
        let seed = hex::decode("000102030405060708090a0b0c0d0e0f").unwrap();
        for (path, chain, key) in [
            (
                "m",
                "873dff81c02f525623fd1fe5167eac3a55a049de3d314bb42ee227ffed37d508",
                "e8f32e723decf4051aefac8e2c93c9c5b214313817cdb01a1494b917c8436b35",
            ),
            (
                "m/0'",
                "47fdacbd0f1097043b78c63c20c34ef4ed9a111d980047ad16282c7ae6236141",
                "edb2e14f9ee77d26dd93b4ecede8d16ed408ce149b6cd80b0715a2d911a0afea",
            ),
            (
                "m/0'/1",
                "2a7857631386ba23dacac34180dd1983734e444fdbf774041578e9b6adb37c19",
                "3c6cb8d0f6a264c91ea8b5030fadaa8e538b020f0a387421a12de9319dc93368",
            ),
        ] {
            let node = derive(&seed, &path.parse().unwrap()).unwrap();
            assert_eq!(hex::encode(&node[32..]), chain, "{path}");
            assert_eq!(hex::encode(&node[..32]), key, "{path}");
        }
    }
}
