//! The two forms of the world are in step.

#![allow(clippy::unwrap_used, clippy::expect_used)] // In tests a panic is the report.

use std::path::Path;

/// Set to have `wit-futures` written.
const WRITE: &str = "ALKNET_WRITE_WIT";

/// At the end, since a comment in front would be the package's documentation.
const FOOT: &str = "
// Made from wit/, for languages that cannot import an `async func`: here each such import
// is a `func` that returns a future, which gives `true` where there is no result.
";

/// The other form of a file of `wit/`.
fn with_futures(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let imported = !line.trim_start().starts_with("export ");
        let Some((name, rest)) = line.split_once(": async func(").filter(|_| imported) else {
            return format!("{line}\n");
        };
        let signature = rest.strip_suffix(';').expect("a function on one line");
        match signature.split_once(") -> ") {
            Some((parameters, result)) => {
                format!("{name}: func({parameters}) -> future<{result}>;\n")
            }
            None => format!("{name}: func({signature} -> future<bool>;\n"),
        }
    });
    lines.collect::<String>() + FOOT
}

#[test]
fn the_world_of_futures_is_made_from_the_world() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = crate_folder.join("wit-futures");
    let files = std::fs::read_dir(crate_folder.join("wit")).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    names.sort();
    for name in &names {
        let wanted = std::fs::read_to_string(crate_folder.join("wit").join(name)).unwrap();
        let wanted = with_futures(&wanted);
        assert!(!wanted.lines().any(|line| {
            let line = line.trim_start();
            line.contains("async func") && !line.starts_with("export ") && !line.starts_with("//")
        }));
        if std::env::var_os(WRITE).is_some() {
            std::fs::create_dir_all(&made).unwrap();
            std::fs::write(made.join(name), &wanted).unwrap();
        }
        let found = std::fs::read_to_string(made.join(name)).unwrap();
        assert_eq!(found, wanted, "{name:?} differs; run the tests with {WRITE}=1");
    }
    assert_eq!(std::fs::read_dir(&made).unwrap().count(), names.len());
}
