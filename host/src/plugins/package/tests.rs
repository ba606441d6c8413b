use std::path::PathBuf;

use alknet_plugin_api::Manifest;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::archive::Writer;
use super::*;

fn digest(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

const ARTIFACT: &str = "artifacts/wasm32-wasip2.wasm";

/// A package as text and bytes, which tests take apart.
struct Parts {
    index: serde_json::Value,
    signature: Option<String>,
    entries: Vec<(String, Vec<u8>)>,
}

impl Parts {
    fn new(signer: Option<&Signer>) -> Self {
        let artifact = b"\0asm\x0d\0\x01\0 a component".to_vec();
        let readme = b"# Read me\n".to_vec();
        let sha256 = digest(&artifact);
        let index = json!({
            "format": 1,
            "manifest": Manifest::new("greeter", "1.0.0"),
            "artifacts": [{
                "target": "wasm32-wasip2", "size": artifact.len(), "sha256": sha256,
            }],
            "files": [{ "name": "README.md", "size": readme.len(), "sha256": digest(&readme) }],
        });
        let mut parts = Self {
            index,
            signature: None,
            entries: vec![(ARTIFACT.into(), artifact), ("README.md".into(), readme)],
        };
        if let Some(signer) = signer {
            parts.index["signer"] = json!(signer.public());
            parts.index["artifacts"][0]["signature"] = json!(signer.artifact(&sha256));
            parts.signature = Some(signer.index(&digest(&parts.text())));
        }
        parts
    }

    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(&self.index).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut archive = Writer::new(Vec::new());
        archive.entry(INDEX, &self.text()).unwrap();
        if let Some(signature) = &self.signature {
            archive.entry(SIGNATURE, signature.as_bytes()).unwrap();
        }
        for (name, content) in &self.entries {
            archive.entry(name, content).unwrap();
        }
        archive.end().unwrap()
    }

    fn read(&self) -> Result<Package, Fault> {
        read(&self.bytes())
    }
}

fn read(bytes: &[u8]) -> Result<Package, Fault> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.alkp");
    std::fs::write(&path, bytes).unwrap();
    Package::read(&path, |_| true).map_err(|error| error.fault)
}

fn signer() -> Signer {
    Signer::new(&[7; 32])
}

#[test]
fn a_package_is_read_back() {
    for signer in [None, Some(signer())] {
        let package = Parts::new(signer.as_ref()).read().unwrap();
        assert_eq!(package.index.signer, signer.as_ref().map(Signer::public));
        assert_eq!(package.content("README.md"), Some(&b"# Read me\n"[..]));
        assert_eq!(package.choose(Some(Kind::Component)).unwrap().name(), ARTIFACT);
        let missing = package.choose(Some(Kind::Native)).unwrap_err();
        assert!(matches!(missing.fault, Fault::NoArtifact { .. }), "{missing}");
    }
}

/// Whichever byte is changed, the package is refused, or what changed is not of it: there
/// is no such byte.
#[test]
fn no_byte_can_be_changed() {
    let bytes = Parts::new(Some(&signer())).bytes();
    assert!(read(&bytes).is_ok());
    // Each place would take long; a prime's multiples meet every part.
    for at in (0..bytes.len()).step_by(13) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(read(&changed).is_err(), "byte {at} of {}", bytes.len());
    }
    for len in [0, 1, 511, 512, 600, bytes.len() - 1024, bytes.len() - 1] {
        assert!(read(&bytes[..len]).is_err(), "{len}");
    }
    let longer = [&bytes[..], &[0; 512]].concat();
    assert!(matches!(read(&longer), Err(Fault::Trailing)));
}

#[test]
fn each_entry_is_the_one_that_was_announced() {
    for name in [ARTIFACT, "README.md"] {
        let mut parts = Parts::new(Some(&signer()));
        let entry = parts.entries.iter_mut().find(|(entry, _)| entry == name).unwrap();
        entry.1[3] ^= 1;
        let fault = parts.read().unwrap_err();
        assert!(matches!(&fault, Fault::Altered { entry, .. } if entry == name), "{fault}");
    }
    let mut parts = Parts::new(Some(&signer()));
    parts.index["manifest"]["description"] = json!("changed");
    let fault = parts.read().unwrap_err();
    assert!(matches!(&fault, Fault::Signature { entry, .. } if entry == INDEX), "{fault}");
    // Somebody else's signature over the artifact, with an index that is signed well.
    let mut parts = Parts::new(Some(&signer()));
    let other = Signer::new(&[8; 32]);
    let sha256 = digest(&parts.entries[0].1);
    parts.index["artifacts"][0]["signature"] = json!(other.artifact(&sha256));
    parts.signature = Some(signer().index(&digest(&parts.text())));
    let fault = parts.read().unwrap_err();
    assert!(matches!(&fault, Fault::Signature { entry, .. } if entry == ARTIFACT), "{fault}");
    // A signature over an artifact is none over an index.
    let mut parts = Parts::new(Some(&signer()));
    parts.signature = Some(format!("{}\n", signer().artifact(&digest(&parts.text()))));
    assert!(matches!(parts.read(), Err(Fault::Signature { .. })));
    let mut parts = Parts::new(Some(&signer()));
    parts.signature = None;
    assert!(matches!(parts.read(), Err(Fault::Unexpected { .. })));
}

#[test]
fn only_announced_entries_in_order_once() {
    let unexpected = |change: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::new(None);
        change(&mut parts);
        match parts.read().unwrap_err() {
            Fault::Unexpected { found, .. } => found,
            fault => panic!("{fault}"),
        }
    };
    let found = unexpected(&|parts| parts.entries.reverse());
    assert!(found.contains("README.md"), "{found}");
    let outside = with_header(|header| {
        let name = &mut header.as_mut_bytes()[..100];
        name.fill(0);
        name[..6].copy_from_slice(b"../out");
    });
    match read(&outside).unwrap_err() {
        Fault::Unexpected { found, .. } => assert!(found.contains("../out"), "{found}"),
        fault => panic!("{fault}"),
    }
    unexpected(&|parts| {
        let again = parts.entries[0].clone();
        parts.entries.insert(1, again);
    });
    unexpected(&|parts| parts.entries.push(("more.md".into(), b"more".to_vec())));
    unexpected(&|parts| drop(parts.entries.pop()));
    unexpected(&|parts| parts.entries[1].1.push(b'!'));
}

/// An archive whose second header is this, followed by the rest as it was.
fn with_header(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let parts = Parts::new(None);
    let mut bytes = parts.bytes();
    let at = 512 + parts.text().len().next_multiple_of(512);
    let mut header = Header::from_byte_slice(&bytes[at..at + 512]).clone();
    change(&mut header);
    header.set_cksum();
    bytes[at..at + 512].copy_from_slice(header.as_bytes());
    bytes
}

#[test]
fn links_folders_and_other_names_are_refused() {
    for (kind, word) in [
        (EntryType::Symlink, "symbolic link"),
        (EntryType::Link, "hard link"),
        (EntryType::Directory, "folder"),
        (EntryType::XHeader, "another kind"),
        (EntryType::GNULongName, "another kind"),
    ] {
        let bytes = with_header(|header| {
            header.set_entry_type(kind);
            header.set_link_name_literal("/etc/passwd").unwrap();
        });
        let fault = read(&bytes).unwrap_err().to_string();
        assert!(fault.contains(word), "{fault}");
    }
    for change in [
        |header: &mut Header| header.set_mode(0o4755),
        |header: &mut Header| header.set_mtime(1),
        |header: &mut Header| header.set_size(1 << 40),
    ] {
        assert!(matches!(read(&with_header(change)), Err(Fault::Unexpected { .. })));
    }
}

#[test]
fn an_index_that_announces_what_may_not_be_is_refused() {
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut parts = Parts::new(None);
        change(&mut parts.index);
        match parts.read().unwrap_err() {
            Fault::Index(what) => what,
            fault => panic!("{fault}"),
        }
    };
    for name in ["../a", "/etc/passwd", "a/README.md", ".hidden", "setup.sh", "alkp.json", ""] {
        let what = refused(&|index| index["files"][0]["name"] = json!(name));
        assert!(what.contains("neither README"), "{what}");
    }
    for target in ["../x", "wasm32-wasip2/..", "x86_64-pc-windows-msvc", ""] {
        let what = refused(&|index| index["artifacts"][0]["target"] = json!(target));
        assert!(what.contains("no target"), "{what}");
    }
    let what = refused(&|index| {
        let again = index["artifacts"][0].clone();
        index["artifacts"].as_array_mut().unwrap().push(again);
    });
    assert!(what.contains("twice"), "{what}");
    let what = refused(&|index| {
        let again = index["files"][0].clone();
        index["files"].as_array_mut().unwrap().push(again);
    });
    assert!(what.contains("twice"), "{what}");
    // What it claims is looked at before any of it is read.
    let what = refused(&|index| index["files"][0]["size"] = json!(1u64 << 40));
    assert!(what.contains("more than"), "{what}");
    let what = refused(&|index| index["artifacts"][0]["size"] = json!(u64::MAX));
    assert!(what.contains("more than"), "{what}");
    let what = refused(&|index| index["format"] = json!(2));
    assert!(what.contains("format 2"), "{what}");
    refused(&|index| index["artifacts"] = json!([]));
    refused(&|index| index["more"] = json!(1));
    refused(&|index| index["manifest"]["name"] = json!("../x"));
    refused(&|index| index["manifest"]["version"] = json!("1/../.."));
    let signature = json!(format!("ed25519:{}", "00".repeat(64)));
    refused(&|index| index["artifacts"][0]["signature"] = signature.clone());
}

#[test]
fn what_is_no_package_says_what_it_is() {
    let gzip = [&[0x1f, 0x8b][..], &[0; 600]].concat();
    let fault = read(&gzip).unwrap_err().to_string();
    assert!(fault.contains("compressed"), "{fault}");
    for bytes in [&b""[..], b"text", &[0x7f, b'E', b'L', b'F'], &[0; 2048]] {
        assert!(matches!(read(bytes), Err(Fault::NotAPackage(_))));
    }
    let missing = Package::read(&PathBuf::from("/nowhere.alkp"), |_| false).unwrap_err();
    assert!(matches!(missing.fault, Fault::Unreadable(_)));
    let folder = tempfile::tempdir().unwrap();
    let folder = Package::read(folder.path(), |_| false).unwrap_err();
    assert!(matches!(folder.fault, Fault::NotAPackage(_)));
    // An index that claims to be larger than any.
    let mut huge = Header::new_ustar();
    huge.set_path(INDEX).unwrap();
    huge.set_size(MAX_INDEX + 1);
    huge.set_cksum();
    assert!(matches!(read(huge.as_bytes()), Err(Fault::TooLarge { .. })));
}

#[test]
fn the_same_contents_and_key_make_the_same_bytes() {
    let package = Parts::new(None).read().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, signer: Option<&Signer>| {
        let path = folder.path().join(name);
        Draft::of(&package).write(signer, &path).unwrap();
        std::fs::read(path).unwrap()
    };
    assert_eq!(written("a", None), written("b", None));
    let signed = written("c", Some(&signer()));
    assert_eq!(signed, written("d", Some(&signer())));
    assert_eq!(read(&signed).unwrap().index.signer, Some(signer().public()));
    assert_eq!(Draft::of(&package).file_name(), "greeter-1.0.0.alkp");
    assert_eq!(Draft::of(&package).lacks(), ["a licence", "a bill of materials"]);
}

#[test]
fn targets_are_those_that_alknet_runs_on() {
    for text in [COMPONENT, "x86_64-unknown-linux-gnu", "riscv64gc-unknown-linux-musl"] {
        assert_eq!(text.parse::<Target>().unwrap().as_str(), text);
    }
    for text in ["x86_64", "x86_64-unknown-linux", "i686-unknown-linux-gnu", "wasm32-wasip1"] {
        assert!(text.parse::<Target>().is_err(), "{text}");
    }
    assert!(Target::here().as_str().parse::<Target>().is_ok());
}
