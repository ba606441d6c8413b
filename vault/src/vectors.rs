//! The official vectors of BIP-39, SLIP-0010 (Ed25519), BIP-32 and AES-256-GCM. Each file of
//! `tests/vectors/` says in `source` where it comes from.

use serde_json::Value;

use crate::{DerivationPath, Phrase, encrypted, slip10};

/// The vectors of a file.
fn vectors(text: &str) -> Vec<Value> {
    let mut file: Value = serde_json::from_str(text).unwrap();
    match file["vectors"].take() {
        Value::Array(vectors) => vectors,
        other => panic!("no vectors: {other}"),
    }
}

fn text<'v>(vector: &'v Value, field: &str) -> &'v str {
    vector[field].as_str().unwrap_or_else(|| panic!("no {field} in {vector}"))
}

fn bytes(vector: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(vector, field)).unwrap()
}

fn path(vector: &Value) -> DerivationPath {
    text(vector, "path").parse().unwrap()
}

#[test]
fn k58_bip39_official_vectors() {
    let vectors = vectors(include_str!("../tests/vectors/bip39.json"));
    assert_eq!(vectors.len(), 24);
    for vector in &vectors {
        let phrase = Phrase::parse(text(vector, "words")).unwrap();
        assert_eq!(hex::encode(phrase.to_seed("TREZOR").expose()), text(vector, "seed"));
        let same = Phrase::of_entropy(&bytes(vector, "entropy")).unwrap();
        assert_eq!(*same.reveal(), text(vector, "words"));
    }
}

#[test]
fn k59_slip10_official_vectors() {
    let vectors = vectors(include_str!("../tests/vectors/slip10_ed25519.json"));
    assert_eq!(vectors.len(), 12);
    for vector in &vectors {
        let node = slip10::derive(&bytes(vector, "seed"), &path(vector)).unwrap();
        assert_eq!(hex::encode(&node[..32]), text(vector, "private"), "{vector}");
        assert_eq!(hex::encode(&node[32..]), text(vector, "chain_code"), "{vector}");
        let secret: [u8; 32] = node[..32].try_into().unwrap();
        let signing = ed25519_dalek::SigningKey::from_bytes(&secret);
        let public = hex::encode(signing.verifying_key().as_bytes());
        assert_eq!(public, text(vector, "public"), "{vector}");
    }
}

#[cfg(feature = "secp256k1")]
#[test]
fn k60_bip32_official_vectors() {
    let vectors = vectors(include_str!("../tests/vectors/bip32.json"));
    assert_eq!(vectors.len(), 12);
    for vector in &vectors {
        let node = crate::bip32::derive(&bytes(vector, "seed"), &path(vector)).unwrap();
        assert_eq!(hex::encode(&node[..32]), text(vector, "private"), "{vector}");
        assert_eq!(hex::encode(&node[32..]), text(vector, "chain_code"), "{vector}");
        let public = crate::bip32::public_of(&node[..32]).unwrap();
        assert_eq!(hex::encode(public), text(vector, "public"), "{vector}");
    }
}

/// The inputs of BIP-32's vectors 3 and 4, whose keys begin with zeros; what to expect was computed by the
/// Python package `slip10`.
#[cfg(feature = "secp256k1")]
#[test]
fn k60_bip32_keys_that_begin_with_zeros() {
    for (seed, path, key, public) in ZEROS {
        let node =
            crate::bip32::derive(&hex::decode(seed).unwrap(), &path.parse().unwrap()).unwrap();
        assert_eq!(hex::encode(&node[..32]), *key, "{path}");
        assert_eq!(hex::encode(crate::bip32::public_of(&node[..32]).unwrap()), *public, "{path}");
    }
}

#[test]
fn aes_256_gcm_official_vectors() {
    let vectors = vectors(include_str!("../tests/vectors/aes256gcm.json"));
    assert_eq!(vectors.len(), 75);
    for vector in &vectors {
        let key: [u8; 32] = bytes(vector, "key").try_into().unwrap();
        let nonce: [u8; 12] = bytes(vector, "nonce").try_into().unwrap();
        let (plain, aad) = (bytes(vector, "plaintext"), bytes(vector, "aad"));
        let sealed = encrypted::seal_bytes(&key, &nonce, &aad, &plain).unwrap();
        let expected = text(vector, "ciphertext").to_owned() + text(vector, "tag");
        assert_eq!(hex::encode(&sealed), expected);
        assert_eq!(encrypted::open_bytes(&key, &nonce, &aad, &sealed).unwrap(), plain);
        for at in [0, sealed.len() - 1] {
            let mut other = sealed.clone();
            other[at] ^= 1;
            assert!(encrypted::open_bytes(&key, &nonce, &aad, &other).is_err());
        }
    }
}

#[cfg(feature = "secp256k1")]
const ZEROS: &[(&str, &str, &str, &str)] = &[
    (
        "4b381541583be4423346c643850da4b320e46a87ae3d2a4e6da11eba819cd4acba45d239319ac14f863b8d5ab5a0d0c64d2e8a1e7d1457df2e5a3c51c73235be",
        "m",
        "00ddb80b067e0d4993197fe10f2657a844a384589847602d56f0c629c81aae32",
        "03683af1ba5743bdfc798cf814efeeab2735ec52d95eced528e692b8e34c4e5669",
    ),
    (
        "4b381541583be4423346c643850da4b320e46a87ae3d2a4e6da11eba819cd4acba45d239319ac14f863b8d5ab5a0d0c64d2e8a1e7d1457df2e5a3c51c73235be",
        "m/0'",
        "491f7a2eebc7b57028e0d3faa0acda02e75c33b03c48fb288c41e2ea44e1daef",
        "026557fdda1d5d43d79611f784780471f086d58e8126b8c40acb82272a7712e7f2",
    ),
    (
        "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678",
        "m",
        "12c0d59c7aa3a10973dbd3f478b65f2516627e3fe61e00c345be9a477ad2e215",
        "026f6fedc9240f61daa9c7144b682a430a3a1366576f840bf2d070101fcbc9a02d",
    ),
    (
        "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678",
        "m/0'",
        "00d948e9261e41362a688b916f297121ba6bfb2274a3575ac0e456551dfd7f7e",
        "039382d2b6003446792d2917f7ac4b3edf079a1a94dd4eb010dc25109dda680a9d",
    ),
    (
        "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678",
        "m/0'/1'",
        "3a2086edd7d9df86c3487a5905a1712a9aa664bce8cc268141e07549eaa8661d",
        "032edaf9e591ee27f3c69c36221e3c54c38088ef34e93fbb9bb2d4d9b92364cbbd",
    ),
];
