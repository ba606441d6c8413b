//! The vault against others: official vectors; random phrases and paths, computed once more by the
//! Python packages `mnemonic` and `slip10`, which share no code with it.

// A test's panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use alknet_vault::{Phrase, VaultServiceHandle};
use serde_json::{Value, json};

/// One JSON answer a line for each JSON question: the seed, and keys.
const OTHERS: &str = r#"
import json, sys
from mnemonic import Mnemonic
from slip10 import SLIP10
english = Mnemonic("english")
for line in sys.stdin:
    asked = json.loads(line)
    seed = Mnemonic.to_seed(asked["words"], asked["passphrase"])
    answer = {"valid": english.check(asked["words"]), "seed": seed.hex(), "ed25519": []}
    tree = SLIP10.from_seed(Mnemonic.to_seed(asked["words"], ""), curve_name="ed25519")
    for path in asked["ed25519"]:
        public = tree.get_pubkey_from_path(path)
        answer["ed25519"].append([tree.get_privkey_from_path(path).hex(), public.hex()])
    print(json.dumps(answer), flush=True)
"#;

/// The Python of `config/setup.sh`.
fn python() -> PathBuf {
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(3).unwrap().to_owned();
    let python = target.join("python/bin/python");
    assert!(
        target.join("python/installed").exists(),
        "the Python packages of the tests are missing; install them with `make setup`"
    );
    python
}

fn ask(questions: &[Value]) -> Vec<Value> {
    let mut child = Command::new(python())
        .args(["-c", OTHERS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text: String = questions.iter().map(|question| format!("{question}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "the Python packages failed");
    let answers = String::from_utf8(output.stdout).unwrap();
    answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn k58_k59_independent_implementations_agree() {
    let ed25519 = ["m", "m/74'/0'/0'/0'", "m/74'/0'/1'/0'", "m/74'/2'/0'/0'", "m/2147483647'/1'"];
    let passphrases = ["", "TREZOR", "pässwörd \u{212b}", "パスワード"];
    let mut questions = Vec::new();
    for (n, words) in [12, 15, 18, 21, 24].into_iter().cycle().take(20).enumerate() {
        let phrase = Phrase::generate(words).unwrap();
        questions.push(json!({
            "words": &*phrase.reveal(), "passphrase": passphrases[n % passphrases.len()],
            "ed25519": ed25519,
        }));
    }
    let answers = ask(&questions);
    assert_eq!(answers.len(), questions.len());
    for (question, answer) in questions.iter().zip(&answers) {
        assert_eq!(answer["valid"], true, "{question}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let words = text(&question["words"]);
        let seed = Phrase::parse(&words).unwrap().to_seed(&text(&question["passphrase"]));
        assert_eq!(hex(seed.expose()), text(&answer["seed"]), "{question}");
        let vault = VaultServiceHandle::new();
        vault.unlock(&words, "").unwrap();
        for (path, keys) in ed25519.iter().zip(answer["ed25519"].as_array().unwrap()) {
            let key = vault.derive_ed25519(path).unwrap();
            assert_eq!(hex(&*key.expose_secret()), text(&keys[0]), "{path} of {words}");
            // The package puts SLIP-0010's zero byte in front.
            let public = text(&keys[1]);
            assert_eq!(hex(key.public_key()), public[public.len() - 64..], "{path} of {words}");
        }
    }
}

/// The curve is built for those who ask for it. Asking here for all tests would change
/// what everything else is built with, so the vault is built once more, by itself.
#[test]
fn k60_bip_32s_vectors_hold_where_the_curve_is_built() {
    let vault = concat!(env!("CARGO_MANIFEST_DIR"), "/../vault/Cargo.toml");
    let target = python().ancestors().nth(3).unwrap().join("secp256k1");
    let output = Command::new(env!("CARGO"))
        .args(["test", "--features", "secp256k1", "--lib", "--manifest-path", vault])
        .arg("--target-dir")
        .arg(target)
        .args(["k60_", "--", "--test-threads", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("test result: ok. 3 passed"), "{said}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
