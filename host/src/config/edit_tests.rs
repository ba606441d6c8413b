use super::*;

fn digits(digit: &str) -> String {
    digit.repeat(64)
}

fn fingerprint(digit: &str) -> String {
    format!("ed25519:{}", digits(digit))
}

fn file_with(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.toml");
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

/// The text after a change that must be valid.
fn edited(text: &str, change: impl FnOnce(&mut AccessFile)) -> String {
    let (_folder, file) = file_with(text);
    let mut access = AccessFile::load(&file).unwrap();
    change(&mut access);
    access.save().unwrap();
    std::fs::read_to_string(&file).unwrap()
}

fn peer(id: &str, digit: &str) -> PeerEntry {
    PeerEntry {
        peer_id: id.into(),
        fingerprints: vec![fingerprint(digit)],
        scopes: vec!["notes:read".into()],
        enabled: true,
        ..PeerEntry::default()
    }
}

fn example() -> String {
    format!(
        "# Who may do what.\n\
         \n\
         # Ada looks after the node.\n\
         [[peer]]\n\
         peer_id = \"ada\" # do not rename\n\
         fingerprints = [\n  \"{}\", # laptop\n  \"{}\", # desk\n]\n\
         \n\
         [peer.resources]\n\
         folder = [\"read\"]\n\
         \n\
         # Emil is on leave.\n\
         [[peer]]\n\
         peer_id = \"emil\"\n\
         fingerprints = [\"{}\"]\n\
         enabled = false # until June\n\
         \n\
         [limits] # odd   spacing stays\n\
         connections  =  50\n\
         # the end\n",
        fingerprint("1"),
        fingerprint("2"),
        fingerprint("3"),
    )
}

#[test]
fn nothing_changed_is_the_same_text() {
    assert_eq!(edited(&example(), |_| {}), example());
}

#[test]
fn a_peer_is_added_after_the_others() {
    let text = edited(&example(), |file| {
        let mut dora = peer("dora", "4");
        dora.display_name = Some("Dora \"D\"".into());
        dora.resources.insert("folder".into(), vec!["read".into(), "write".into()]);
        file.add_peer(&dora).unwrap();
    });
    let added = format!(
        "\n[[peer]]\npeer_id = \"dora\"\ndisplay_name = 'Dora \"D\"'\nfingerprints = [\"{}\"]\n\
         scopes = [\"notes:read\"]\nresources = {{ folder = [\"read\", \"write\"] }}\n",
        fingerprint("4")
    );
    assert_eq!(text, example().replace("\n[limits]", &format!("{added}\n[limits]")));
    let config = AccessConfig::parse("f".as_ref(), &text).unwrap();
    assert_eq!(config.peers[2].resources["folder"], ["read", "write"]);
}

#[test]
fn what_is_added_to_a_file_of_comments_stands_below_them() {
    let text = edited("# Nobody yet.\n", |file| file.add_peer(&peer("ada", "1")).unwrap());
    assert!(text.starts_with("# Nobody yet.\n\n[[peer]]\npeer_id = \"ada\"\n"), "{text}");
    let text = edited("", |file| file.add_peer(&peer("ada", "1")).unwrap());
    assert!(text.starts_with("[[peer]]\n"), "{text}");
    let text = edited("[limits]\nconnections = 1\n# end\n", |file| {
        file.add_peer(&peer("ada", "1")).unwrap();
    });
    assert!(text.starts_with("[limits]\nconnections = 1\n# end\n\n[[peer]]\n"), "{text}");
}

#[test]
fn k33_a_key_is_rotated_and_the_peer_stays() {
    let text = edited(&example(), |file| {
        file.add_fingerprint("ada", &fingerprint("4")).unwrap();
        file.remove_fingerprint("ada", &fingerprint("1")).unwrap();
        file.add_fingerprint("emil", &fingerprint("5")).unwrap();
    });
    let config = AccessConfig::parse("f".as_ref(), &text).unwrap();
    assert_eq!(config.peers[0].peer_id, "ada");
    assert_eq!(config.peers[0].fingerprints, [fingerprint("2"), fingerprint("4")]);
    assert_eq!(config.peers[1].fingerprints, [fingerprint("3"), fingerprint("5")]);
    assert!(text.contains("# desk"), "{text}");
    assert!(text.contains(&format!("\n  \"{}\"", fingerprint("4"))), "{text}");
    let one_line = format!("[\"{}\", \"{}\"]", fingerprint("3"), fingerprint("5"));
    assert!(text.contains(&one_line), "{text}");
}

#[test]
fn a_peer_is_disabled_and_enabled_again() {
    let disabled = edited(&example(), |file| file.set_enabled("ada", false).unwrap());
    assert!(!AccessConfig::parse("f".as_ref(), &disabled).unwrap().peers[0].enabled);
    let enabled = edited(&example(), |file| file.set_enabled("emil", true).unwrap());
    assert_eq!(enabled, example().replace("enabled = false #", "enabled = true #"));
    assert_eq!(edited(&example(), |file| file.set_enabled("ada", true).unwrap()), example());
}

#[test]
fn a_removed_peer_takes_its_own_comment_along_and_no_other() {
    let text = edited(&example(), |file| file.remove_peer("ada").unwrap());
    assert!(text.starts_with("# Who may do what.\n\n# Emil is on leave.\n[[peer]]\n"), "{text}");
    assert!(!text.contains("folder") && !text.contains("Ada"), "{text}");
    let text = edited(&text, |file| file.remove_peer("emil").unwrap());
    assert_eq!(
        text,
        "# Who may do what.\n\n[limits] # odd   spacing stays\nconnections  =  50\n# the end\n"
    );
    let last = format!(
        "# Top.\n\n[[peer]]\npeer_id = \"a\"\nfingerprints = [\"{}\"]\n# end\n",
        fingerprint("1")
    );
    assert_eq!(edited(&last, |file| file.remove_peer("a").unwrap()), "# Top.\n# end\n");
}

#[test]
fn lists_of_inline_tables_are_changed_too() {
    let text =
        format!("peer = [{{ peer_id = \"a\", fingerprints = [\"{}\"] }}]\n", fingerprint("1"));
    let text = edited(&text, |file| {
        file.add_peer(&peer("b", "2")).unwrap();
        file.set_enabled("a", false).unwrap();
    });
    let config = AccessConfig::parse("f".as_ref(), &text).unwrap();
    assert_eq!(config.peers.len(), 2, "{text}");
    assert!(!config.peers[0].enabled);
    let text = edited(&text, |file| file.remove_peer("a").unwrap());
    assert_eq!(AccessConfig::parse("f".as_ref(), &text).unwrap().peers, [peer("b", "2")]);
}

#[test]
fn api_keys_and_tokens_are_written_by_their_hashes() {
    let key = ApiKeyEntry {
        prefix: "alk_Zm9v".into(),
        hash: format!("sha256:{}", digits("a")),
        scopes: vec!["x".into()],
        description: "nightly".into(),
        expires_at: Some(1_798_761_600),
    };
    let hash = format!("sha256:{}", digits("b"));
    let text = edited(&example(), |file| {
        file.add_api_key(&key);
        file.set_token("ada", Some(&hash)).unwrap();
    });
    assert!(text.contains("expires_at = 2027-01-01T00:00:00Z\n"), "{text}");
    let config = AccessConfig::parse("f".as_ref(), &text).unwrap();
    assert_eq!(config.api_keys, [key]);
    assert_eq!(config.peers[0].auth_token_hash.as_ref(), Some(&hash));
    let text = edited(&text, |file| {
        file.remove_api_key("alk_Zm9v").unwrap();
        file.set_token("ada", None).unwrap();
    });
    assert!(!text.contains("sha256"), "{text}");
}

#[test]
fn a_change_that_breaks_the_file_is_not_written() {
    let (_folder, path) = file_with(&example());
    let mut file = AccessFile::load(&path).unwrap();
    assert!(matches!(file.add_peer(&peer("ada", "9")), Err(EditError::PeerExists(_))));
    assert!(matches!(file.remove_peer("nobody"), Err(EditError::UnknownPeer(_))));
    assert!(matches!(file.remove_api_key("alk_none"), Err(EditError::UnknownApiKey(_))));
    assert!(matches!(
        file.remove_fingerprint("ada", &fingerprint("3")),
        Err(EditError::UnknownFingerprint { .. })
    ));
    file.add_peer(&peer("dora", "1")).unwrap();
    let error = file.save().unwrap_err();
    assert!(matches!(&error, EditError::Refused(problems) if problems.len() == 1), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), example());

    std::fs::write(&path, "[[peer]]\n").unwrap();
    assert!(matches!(AccessFile::load(&path), Err(EditError::Invalid(_))));
}

#[test]
fn another_change_in_the_meantime_is_not_undone() {
    let (_folder, path) = file_with(&example());
    let mut file = AccessFile::load(&path).unwrap();
    file.remove_peer("ada").unwrap();
    std::fs::write(&path, "# by an editor\n").unwrap();
    assert!(matches!(file.save(), Err(EditError::Changed(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "# by an editor\n");
}

#[test]
fn commands_at_the_same_time_wait_for_each_other() {
    let (_folder, path) = file_with("");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = AccessFile::load(path).unwrap();
                file.add_peer(&peer(&format!("p{n}"), &n.to_string())).unwrap();
                file.save().unwrap();
            });
        }
    });
    assert_eq!(AccessConfig::load(&path).unwrap().peers.len(), 8);
}
