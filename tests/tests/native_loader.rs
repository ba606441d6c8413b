//! The native loader against real shared libraries: good ones, broken ones, and
//! ones from another minor version of the plugin API.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the report.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use alknet::plugins::artifact::{Policy, SignatureSource};
use alknet::plugins::{Artifact, LoadError, Opened, native};
use alknet_plugin_api::testing::{TestHost, pair};
use alknet_plugin_api::{
    AuthContext, Built, CallError, CallStream, HandlerError, Json, OperationCode, Source,
};
use ed25519_dalek::{Signer, SigningKey};
use futures_util::StreamExt;

/// Builds the fixture with `features` and returns its own copy of the library.
/// Cargo leaves every build under the same name, so one goes after another.
fn fixture(name: &str) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = File::create(out.join("fixtures.lock")).unwrap();
    lock.lock().unwrap();
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--message-format=json", "-p", "alknet-fixture"]);
    if name != "plain" {
        command.args(["--features", name]);
    }
    let built = built_by(command.current_dir(env!("CARGO_MANIFEST_DIR")), "libalknet_fixture.so");
    let copy = out.join(format!("fixture-{name}-{}.so", std::process::id()));
    write(&copy, &fs::read(built).unwrap());
    copy
}

/// The path of the file that cargo says it has built.
fn built_by(command: &mut Command, name: &str) -> PathBuf {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let ending = format!("/{name}\"");
    let from = said.find(&ending).unwrap_or_else(|| panic!("cargo built no {name}: {said}"));
    let start = said[..from].rfind('"').unwrap() + 1;
    said[start..from + ending.len() - 1].into()
}

fn write(path: &Path, bytes: &[u8]) {
    // Aside and renamed: an earlier copy may be mapped by another test.
    let aside = path.with_extension("new");
    fs::write(&aside, bytes).unwrap();
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(aside, path).unwrap();
}

fn dev() -> Policy {
    Policy { allow_unpinned: true, ..Policy::default() }
}

fn open(path: &Path) -> Result<Box<dyn Opened>, LoadError> {
    native::open(&Artifact::read(path, &dev())?)
}

fn refusal(path: &Path) -> LoadError {
    let Err(error) = open(path) else { panic!("{} was loaded", path.display()) };
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "no file named: {text}");
    assert!(text.lines().count() <= 40, "more than a screen: {text}");
    error
}

fn build(path: &Path, host: &TestHost) -> Built {
    open(path).unwrap().build(host.host(), Json::empty_object()).unwrap()
}

async fn call(built: &Built, host: &TestHost, name: &str, input: &str) -> Result<Json, CallError> {
    let index = built.manifest.operations.iter().position(|spec| spec.name == name).unwrap();
    let OperationCode::Once(code) = &built.operations[index] else { panic!("{name} streams") };
    let (context, _cancel) = host.context(name).build();
    code.call(context, Json::parse(input.to_owned()).unwrap()).await
}

fn subscribe(built: &Built, host: &TestHost, name: &str, input: &str) -> CallStream {
    let index = built.manifest.operations.iter().position(|spec| spec.name == name).unwrap();
    let OperationCode::Stream(code) = &built.operations[index] else { panic!("{name} answers") };
    let (context, _cancel) = host.context(name).build();
    code.subscribe(context, Json::parse(input.to_owned()).unwrap())
}

async fn echo(built: &Built, text: &[u8]) -> (Vec<u8>, Result<(), HandlerError>) {
    let (client, server) = pair("fixture/echo");
    let auth = AuthContext::new(None, "fixture/echo", None, None, Source::Memory);
    let handler = built.handlers[0].clone();
    let serving = tokio::spawn(handler.handle(server, auth));
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    // Both at once: the echo stops reading while nobody takes what it sends.
    let write = async {
        send.write_all(text).await?;
        send.finish()
    };
    let (_, answer) = futures_util::join!(write, recv.read_to_end(1 << 20));
    let answer = answer.unwrap_or_default();
    (answer, serving.await.unwrap())
}

#[tokio::test]
async fn a_plugin_serves_connections_calls_and_subscriptions() {
    let host = TestHost::new();
    let built = build(&fixture("plain"), &host);
    assert_eq!(built.manifest.version, "1.2.3");

    let text = vec![b'x'; 300_000];
    let (answer, served) = echo(&built, &text).await;
    assert!(answer == text, "{} bytes came back", answer.len());
    served.unwrap();

    let answer = call(&built, &host, "fixture/echo", r#"{"a":[1,2]}"#).await.unwrap();
    assert_eq!(answer.to_string(), r#"{"a":[1,2]}"#);
    let big = format!("\"{}\"", "y".repeat(100_000));
    assert_eq!(call(&built, &host, "fixture/echo", &big).await.unwrap().to_string(), big);
    let slept = call(&built, &host, "fixture/slow", "5").await.unwrap();
    assert_eq!(slept.to_string(), r#""slept""#);

    let items: Vec<_> = subscribe(&built, &host, "fixture/count", "3").collect().await;
    let items: Vec<_> = items.into_iter().map(|item| item.unwrap().to_string()).collect();
    assert_eq!(items, ["0", "1", "2"]);

    let built = host.logged("built").await;
    assert_eq!(built.field("answer"), Some("42"));
}

#[tokio::test]
async fn a_panic_costs_one_connection_or_call_and_is_logged() {
    let host = TestHost::new();
    let built = build(&fixture("plain"), &host);

    let error = call(&built, &host, "fixture/panic", r#""at noon""#).await.unwrap_err();
    assert_eq!(error.code, "INTERNAL");
    assert!(error.message.contains("at noon"), "{error}");
    let (_, served) = echo(&built, b"panic").await;
    let served = served.unwrap_err();
    let panicked = native::panic_of(&served).unwrap_or_else(|| panic!("{served}"));
    assert_eq!(panicked.0, "the handler was told to");
    let line = host.logged("the handler was told to").await;
    assert!(line.field("location").is_some_and(|place| place.contains("plugin.rs")), "{line:?}");

    assert_eq!(call(&built, &host, "fixture/panic", r#""""#).await.unwrap().to_string(), "null");
    assert_eq!(echo(&built, b"still here").await.0, b"still here");
}

#[test]
fn k42_what_is_no_plugin_is_refused_by_name_cause_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.so");
    assert!(matches!(refusal(&missing), LoadError::Unreadable { .. }));

    let text = dir.path().join("text.so");
    write(&text, b"this is not a library\n");
    assert!(matches!(refusal(&text), LoadError::NotAPlugin { .. }));
    let artifact = Artifact::read(&text, &dev()).unwrap();
    assert!(artifact.kind().unwrap_err().to_string().contains("it holds text"));

    let plugin = fs::read(fixture("plain")).unwrap();
    for part in [3, 5, 63, 200, plugin.len() / 3, plugin.len() / 2, plugin.len() - 1] {
        let cut = dir.path().join(format!("cut-{part}.so"));
        write(&cut, &plugin[..part]);
        assert!(matches!(refusal(&cut), LoadError::Truncated { .. }), "cut at {part}");
    }

    let mut other = plugin;
    // e_machine; 8 is MIPS.
    other[18..20].copy_from_slice(&8u16.to_ne_bytes());
    let path = dir.path().join("mips.so");
    write(&path, &other);
    assert!(matches!(refusal(&path), LoadError::Architecture { .. }));
    // 32 bits.
    other[4] = 1;
    write(&path, &other);
    assert!(matches!(refusal(&path), LoadError::Architecture { .. }));
}

#[test]
fn k42_a_library_without_our_header_is_refused_before_it_is_mapped() {
    let error = refusal(&fixture("bare"));
    assert!(matches!(error, LoadError::NoSymbol { .. }), "{error}");
    let error = refusal(&fixture("garbage"));
    assert!(matches!(error, LoadError::Header { .. }), "{error}");
    // Both have a constructor that ends the process.
}

#[test]
fn k42_another_interface_is_refused_with_field_expected_and_found() {
    let error = refusal(&fixture("altered"));
    assert!(matches!(error, LoadError::Layout { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("u64") && text.contains("u16") && text.contains("mtu"), "{text}");
    // Another plugin's verdict does not depend on it.
    open(&fixture("plain")).unwrap();
}

#[tokio::test]
async fn k42_a_newer_plugin_finds_an_older_host_and_goes_without_the_new_field() {
    let host = TestHost::new();
    let built = build(&fixture("next"), &host);
    let answer = call(&built, &host, "fixture/probe", "null").await.unwrap();
    assert_eq!(answer.to_string(), r#""the host is older""#);
    assert_eq!(built.manifest.api, (1, 1));
}

#[test]
fn k42_a_newer_host_takes_older_plugins_and_uses_the_new_field_where_it_is() {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--message-format=json", "-p", "alknet-fixture-next-host"]);
    let host =
        built_by(command.current_dir(env!("CARGO_MANIFEST_DIR")), "alknet-fixture-next-host");
    for (plugin, field, answer) in [
        ("plain", "the plugin is older", "\"this plugin is older\""),
        ("next", "the plugin's new field says 0xbee", "24301"),
    ] {
        let output = Command::new(&host).arg(fixture(plugin)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.lines().collect::<Vec<_>>(), [field, answer], "{complaint}");
    }
}

#[test]
fn k46_a_plugin_that_panics_at_start_is_refused_and_may_be_done_without() {
    let error = refusal(&fixture("manifest-panics"));
    let LoadError::Panicked { text, .. } = &error else { panic!("{error}") };
    assert_eq!(text, "no manifest today");
    assert!(error.may_degrade());

    let plain = fixture("plain");
    let start = |config: &'static str| {
        let host = TestHost::new();
        let config = Json::parse(config).unwrap();
        open(&plain).unwrap().build(host.host(), config).err().unwrap()
    };
    let error = start(r#"{"build":"panic"}"#);
    let LoadError::Panicked { text, .. } = &error else { panic!("{error}") };
    assert_eq!(text, "no build today");
    assert!(error.may_degrade());
    let error = start(r#"{"build":"refuse"}"#);
    let LoadError::Refused { reason, plugin, .. } = &error else { panic!("{error}") };
    assert_eq!((reason.as_str(), plugin.as_str()), ("set `build` to something else", "fixture"));
    assert!(error.may_degrade());
}

#[test]
fn k46_a_wrong_digest_is_never_passed_over() {
    let plain = fixture("plain");
    let sha256 = Artifact::read(&plain, &dev()).unwrap().sha256;
    let pinned = |sha256| Policy { sha256: Some(sha256), ..Policy::default() };
    native::open(&Artifact::read(&plain, &pinned(sha256)).unwrap()).unwrap();

    let error = Artifact::read(&plain, &pinned([7; 32])).err().unwrap();
    assert!(matches!(error, LoadError::Digest { .. }) && !error.may_degrade(), "{error}");
    assert!(error.to_string().contains(&"07".repeat(32)), "{error}");
    let error = Artifact::read(&plain, &Policy::default()).err().unwrap();
    assert!(matches!(error, LoadError::Unpinned { .. }) && !error.may_degrade(), "{error}");
}

#[test]
fn k44_unsigned_and_wrongly_signed_plugins_are_refused_when_keys_are_trusted() {
    let plain = fixture("plain");
    let sha256 = Artifact::read(&plain, &dev()).unwrap().sha256;
    let (maker, stranger) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    let read = |signature: Option<SignatureSource>, keys: &[&SigningKey]| {
        let trusted_keys = keys.iter().map(|key| key.verifying_key()).collect();
        let policy = Policy { sha256: Some(sha256), signature, trusted_keys, ..Policy::default() };
        Artifact::read(&plain, &policy).map(drop)
    };
    let signed = |key: &SigningKey| Some(SignatureSource::Bytes(key.sign(&sha256).to_bytes()));

    read(signed(&maker), &[&maker]).unwrap();
    read(signed(&maker), &[&stranger, &maker]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fixture.sig");
    fs::write(&file, maker.sign(&sha256).to_bytes()).unwrap();
    read(Some(SignatureSource::File(file.clone())), &[&maker]).unwrap();

    let refused = |result: Result<(), LoadError>| {
        let error = result.unwrap_err();
        assert!(!error.may_degrade(), "{error}");
        error
    };
    assert!(matches!(refused(read(None, &[&maker])), LoadError::Unsigned { .. }));
    assert!(matches!(refused(read(signed(&stranger), &[&maker])), LoadError::Signature { .. }));
    let over_another = SignatureSource::Bytes(maker.sign(&[0; 32]).to_bytes());
    assert!(matches!(refused(read(Some(over_another), &[&maker])), LoadError::Signature { .. }));
    assert!(matches!(refused(read(signed(&maker), &[])), LoadError::SignatureUnchecked { .. }));
    fs::write(&file, b"too short").unwrap();
    let short = read(Some(SignatureSource::File(file)), &[&maker]);
    assert!(matches!(refused(short), LoadError::SignatureMalformed { .. }));
}

#[test]
fn k45_a_file_that_others_could_change_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plugin.so");
    write(&path, &fs::read(fixture("plain")).unwrap());
    for mode in [0o666, 0o664, 0o646] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = refusal(&path);
        assert!(matches!(error, LoadError::Writable { .. }) && !error.may_degrade(), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    open(&path).unwrap();

    let link = dir.path().join("link.so");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let error = refusal(&link);
    assert!(matches!(error, LoadError::Symlink { .. }) && !error.may_degrade(), "{error}");
    let error = refusal(dir.path());
    assert!(matches!(error, LoadError::NotAFile { .. }) && !error.may_degrade(), "{error}");
    let pipe = dir.path().join("pipe.so");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = refusal(&pipe);
    assert!(matches!(error, LoadError::NotAFile { .. }) && !error.may_degrade(), "{error}");
}

#[tokio::test]
async fn k45_bytes_swapped_after_hashing_are_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plugin.so");
    write(&path, &fs::read(fixture("plain")).unwrap());
    let artifact = Artifact::read(&path, &dev()).unwrap();
    let other = fs::read(fixture("next")).unwrap();
    let mut file = File::options().write(true).truncate(true).open(&path).unwrap();
    file.write_all(&other).unwrap();

    let host = TestHost::new();
    let opened = native::open(&artifact).unwrap();
    let built = opened.build(host.host(), Json::empty_object()).unwrap();
    assert_eq!(built.manifest.api, (1, 0), "the file that was hashed");
    let answer = call(&built, &host, "fixture/probe", "null").await.unwrap();
    assert_eq!(answer.to_string(), r#""this plugin is older""#);
}

#[tokio::test]
async fn a_library_loaded_twice_is_two_plugins() {
    let plain = fixture("plain");
    let (first, second) = (TestHost::new(), TestHost::new());
    let builds = (build(&plain, &first), build(&plain, &second));
    // Each has its own log, so its own statics.
    first.logged("built").await;
    second.logged("built").await;
    drop(builds.0);
    assert_eq!(echo(&builds.1, b"on").await.0, b"on");
}
