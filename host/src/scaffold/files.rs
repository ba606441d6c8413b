//! What the projects of each language consist of.

use super::Lang;

/// One file of a project.
#[derive(Clone, Copy)]
pub(super) struct File {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    pub(super) needs: Needs,
}

/// Whether a file is only there with a handler or with operations.
#[derive(Clone, Copy)]
pub(super) enum Needs {
    Nothing,
    Handler,
    Operations,
    /// Always there, and no template.
    Verbatim,
}

macro_rules! files {
    ($folder:literal: $($needs:ident $name:literal $template:literal;)*) => {
        &[$(File {
            name: $name,
            text: include_str!(concat!("templates/", $folder, $template)),
            needs: Needs::$needs,
        }),*]
    };
}

const RUST: &[File] = files! { "rust/":
    Nothing "Cargo.toml" "Cargo.toml.j2";
    Nothing ".gitignore" "gitignore.j2";
    Nothing "README.md" "../README.md.j2";
    Nothing "src/lib.rs" "src/lib.rs.j2";
    Handler "src/stream.rs" "src/stream.rs.j2";
    Operations "src/greet.rs" "src/greet.rs.j2";
    Nothing "tests/plugin.rs" "tests/plugin.rs.j2";
};

const JAVASCRIPT: &[File] = files! { "js/":
    Nothing "package.json" "package.json.j2";
    Nothing "alknet.toml" "../alknet.toml.j2";
    Nothing ".gitignore" "gitignore.j2";
    Nothing "README.md" "../README.md.j2";
    Nothing "src/plugin.js" "src/plugin.js.j2";
    Nothing "src/alknet.js" "src/alknet.js.j2";
    Handler "src/stream.js" "src/stream.js.j2";
    Operations "src/greet.js" "src/greet.js.j2";
    Nothing "test/plugin.test.js" "test/plugin.test.js.j2";
    // Its tools cannot import an `async func`.
    Verbatim "wit/connections.wit" "../../../../../plugin-api/wit-futures/connections.wit";
    Verbatim "wit/host.wit" "../../../../../plugin-api/wit-futures/host.wit";
    Verbatim "wit/operations.wit" "../../../../../plugin-api/wit-futures/operations.wit";
    Verbatim "wit/plugin.wit" "../../../../../plugin-api/wit-futures/plugin.wit";
    Verbatim "wit/types.wit" "../../../../../plugin-api/wit-futures/types.wit";
};

const PYTHON: &[File] = files! { "py/":
    Nothing "Makefile" "Makefile.j2";
    Nothing "requirements.txt" "requirements.txt.j2";
    Nothing "alknet.toml" "../alknet.toml.j2";
    Nothing ".gitignore" "gitignore.j2";
    Nothing "README.md" "../README.md.j2";
    Nothing "src/app.py" "src/app.py.j2";
    Handler "src/stream.py" "src/stream.py.j2";
    Operations "src/greet.py" "src/greet.py.j2";
    Nothing "tests/test_plugin.py" "tests/test_plugin.py.j2";
    Verbatim "wit/connections.wit" "../../../../../plugin-api/wit/connections.wit";
    Verbatim "wit/host.wit" "../../../../../plugin-api/wit/host.wit";
    Verbatim "wit/operations.wit" "../../../../../plugin-api/wit/operations.wit";
    Verbatim "wit/plugin.wit" "../../../../../plugin-api/wit/plugin.wit";
    Verbatim "wit/types.wit" "../../../../../plugin-api/wit/types.wit";
};

const C: &[File] = files! { "c/":
    Nothing "Makefile" "Makefile.j2";
    Nothing "alknet.toml" "../alknet.toml.j2";
    Nothing ".gitignore" "gitignore.j2";
    Nothing "README.md" "../README.md.j2";
    Nothing "src/plugin.h" "src/plugin.h.j2";
    Nothing "src/plugin.c" "src/plugin.c.j2";
    Handler "src/stream.c" "src/stream.c.j2";
    Operations "src/greet.c" "src/greet.c.j2";
    Nothing "tests/test_plugin.c" "tests/test_plugin.c.j2";
    Verbatim "include/alknet_plugin.h" "../../../../../plugin-api/include/alknet_plugin.h";
};

/// The files of a project in `lang`.
pub(super) fn of(lang: Lang) -> &'static [File] {
    match lang {
        Lang::Rust => RUST,
        Lang::JavaScript => JAVASCRIPT,
        Lang::Python => PYTHON,
        Lang::C => C,
    }
}
