use super::*;

const NOW: Duration = Duration::from_secs(1_000_000);

fn fingerprint(byte: u8) -> String {
    format!("ed25519:{}", hex::encode([byte; 32]))
}

fn peer(id: &str, keys: &[u8]) -> PeerEntry {
    PeerEntry {
        peer_id: id.into(),
        fingerprints: keys.iter().copied().map(fingerprint).collect(),
        scopes: vec!["notes:read".into()],
        resources: BTreeMap::from([("note".into(), vec!["read".into()])]),
        enabled: true,
        ..PeerEntry::default()
    }
}

fn key(new: &token::NewToken, expires_at: Option<u64>) -> ApiKeyEntry {
    ApiKeyEntry {
        prefix: new.prefix.clone(),
        hash: new.hash.clone(),
        scopes: vec!["notes:read".into()],
        description: String::new(),
        expires_at,
    }
}

#[test]
fn k32_an_unknown_key_has_no_identity() {
    let policy = Policy::new(vec![peer("dora", &[1])], vec![]).unwrap();
    assert_eq!(policy.resolve_fingerprint(&fingerprint(2)), None);
    assert_eq!(policy.resolve_fingerprint(""), None);
}

#[test]
fn k33_two_keys_are_one_peer_and_rotation_keeps_it() {
    let before = Policy::new(vec![peer("dora", &[1, 2])], vec![]).unwrap();
    let after = Policy::new(vec![peer("dora", &[2, 3])], vec![]).unwrap();
    let ids = [
        before.resolve_fingerprint(&fingerprint(1)),
        before.resolve_fingerprint(&fingerprint(2)),
        after.resolve_fingerprint(&fingerprint(2)),
        after.resolve_fingerprint(&fingerprint(3)),
    ];
    for id in ids {
        assert_eq!(id.unwrap().id, "dora");
    }
    assert_eq!(after.resolve_fingerprint(&fingerprint(1)), None);
}

#[test]
fn k34_duplicates_are_all_reported() {
    let token = token::generate().unwrap();
    let mut emil = peer("emil", &[1]);
    emil.auth_token_hash = Some(token.hash.clone());
    let problems = Policy::new(
        vec![peer("dora", &[1]), peer("dora", &[]), emil],
        vec![key(&token, None), key(&token, None)],
    )
    .unwrap_err();
    assert!(problems.contains(&PolicyError::DuplicatePeerId("dora".into())));
    assert!(problems.contains(&PolicyError::DuplicateFingerprint {
        fingerprint: fingerprint(1),
        first: "dora".into(),
        second: "emil".into(),
    }));
    assert!(problems.contains(&PolicyError::DuplicatePrefix(token.prefix.clone())));
    assert!(problems.iter().any(|problem| matches!(problem, PolicyError::DuplicateToken { .. })));
    assert_eq!(problems.len(), 5, "{problems:?}");
}

#[test]
fn k34_malformed_entries_are_all_reported() {
    let mut upper = peer("upper", &[]);
    upper.fingerprints.push(fingerprint(0xab).to_uppercase());
    let mut hashed = peer("hashed", &[]);
    hashed.auth_token_hash = Some("md5:00".into());
    let short = ApiKeyEntry {
        prefix: "alk_".into(),
        hash: token::stored(&[1; 32]),
        ..ApiKeyEntry::default()
    };
    let problems = Policy::new(vec![peer("", &[]), peer("alk_x", &[]), upper, hashed], vec![short])
        .unwrap_err();
    assert!(problems.contains(&PolicyError::EmptyPeerId));
    assert!(problems.contains(&PolicyError::ReservedPeerId("alk_x".into())));
    assert!(problems.contains(&PolicyError::Hash { owner: "hashed".into() }));
    assert!(problems.contains(&PolicyError::Prefix("alk_".into())));
    assert!(problems.iter().any(|problem| matches!(problem, PolicyError::Fingerprint { .. })));
}

#[test]
fn k35_a_disabled_peer_resolves_by_neither_key_nor_token() {
    let token = token::generate().unwrap();
    let mut dora = peer("dora", &[1]);
    dora.auth_token_hash = Some(token.hash.clone());
    let enabled = Policy::new(vec![dora.clone()], vec![]).unwrap();
    assert!(enabled.resolve_fingerprint(&fingerprint(1)).is_some());
    assert!(enabled.resolve_token(token.token.as_bytes(), NOW).is_some());
    dora.enabled = false;
    let disabled = Policy::new(vec![dora], vec![]).unwrap();
    assert_eq!(disabled.resolve_fingerprint(&fingerprint(1)), None);
    assert_eq!(disabled.resolve_token(token.token.as_bytes(), NOW), None);
    assert_eq!(disabled.identity("dora"), None);
}

#[test]
fn k36_fingerprints_match_exactly() {
    let policy = Policy::new(vec![peer("dora", &[0xab])], vec![]).unwrap();
    assert!(policy.resolve_fingerprint(&fingerprint(0xab)).is_some());
    assert_eq!(policy.resolve_fingerprint(&fingerprint(0xab).to_uppercase()), None);
    assert_eq!(policy.resolve_fingerprint(&format!(" {}", fingerprint(0xab))), None);
    assert_eq!(policy.resolve_fingerprint(&hex::encode([0xab; 32])), None);
}

#[test]
fn k37_wrong_prefix_wrong_hash_and_expired_resolve_to_nothing() {
    let token = token::generate().unwrap();
    let text = token.token.as_bytes();
    let policy = Policy::new(vec![], vec![key(&token, Some(NOW.as_secs()))]).unwrap();
    let before = NOW - Duration::from_nanos(1);
    assert_eq!(policy.resolve_token(text, before).unwrap().id, token.prefix);
    assert_eq!(policy.resolve_token(text, NOW), None, "expired at exactly expires_at");
    assert_eq!(policy.resolve_token(&text[4..], before), None);
    let mut other = text.to_vec();
    other[20] ^= 1;
    assert_eq!(policy.resolve_token(&other, before), None);
    assert_eq!(policy.resolve_token(token.hash.as_bytes(), before), None);
}

#[test]
fn k38_a_prefix_authenticates_nobody_and_shadows_nobody() {
    let (a, b) = (token::generate().unwrap(), token::generate().unwrap());
    let mut dora = peer("dora", &[]);
    // A peer's token may happen to begin as an API key's does.
    let shared = format!("{}{}", a.prefix, &b.token[8..]);
    dora.auth_token_hash = Some(token::stored(&token::digest(shared.as_bytes())));
    let policy = Policy::new(vec![dora], vec![key(&a, None)]).unwrap();
    assert_eq!(policy.resolve_token(a.prefix.as_bytes(), NOW), None);
    assert_eq!(policy.resolve_token(shared.as_bytes(), NOW).unwrap().id, "dora");
    assert_eq!(policy.resolve_token(a.token.as_bytes(), NOW).unwrap().id, a.prefix);
}

#[test]
fn k40_api_keys_carry_no_resources() {
    let token = token::generate().unwrap();
    let policy = Policy::new(vec![], vec![key(&token, None)]).unwrap();
    let identity = policy.resolve_token(token.token.as_bytes(), NOW).unwrap();
    assert_eq!(identity.scopes, ["notes:read"]);
    assert!(identity.resources.is_empty());
    let file = serde_json::json!({ "prefix": "alk_abcd", "hash": "", "resources": {} });
    assert!(serde_json::from_value::<ApiKeyEntry>(file).is_err());
}

#[test]
fn tokens_are_random_and_print_without_themselves() {
    let (a, b) = (token::generate().unwrap(), token::generate().unwrap());
    assert_ne!(*a.token, *b.token);
    assert_eq!(a.token.len(), 4 + 43);
    assert!(a.token.starts_with(&a.prefix) && a.prefix.starts_with("alk_"));
    assert_eq!(a.hash.len(), "sha256:".len() + 64);
    assert_eq!(token::parse_stored(&a.hash), Some(token::digest(a.token.as_bytes())));
    assert!(!format!("{a:?}").contains(&*a.token));
}

#[test]
fn k47_a_reload_is_seen_by_the_next_decision_alone() {
    use crate::auth::{IdentityProvider, PolicyStore};
    let first = Policy::new(vec![peer("dora", &[1])], vec![]).unwrap();
    let store = PolicyStore::new(first, Arc::new(|| NOW));
    let snapshot = store.load();
    store.replace(Policy::new(vec![peer("emil", &[1])], vec![]).unwrap());
    let id = fingerprint(1);
    assert_eq!(snapshot.resolve_fingerprint(&id).unwrap().id, "dora");
    assert_eq!(store.resolve_from_fingerprint(&id).unwrap().id, "emil");
}
