//! What an artifact is built for.

use std::fmt;
use std::str::FromStr;

use object::elf;
use serde::{Deserialize, Serialize};

use crate::plugins::Kind;

/// The target of components.
pub const COMPONENT: &str = "wasm32-wasip2";

/// Architectures that a daemon is built for, as targets begin with them, and as ELF
/// files have them.
const MACHINES: [(&str, u16); 3] =
    [("x86_64", elf::EM_X86_64), ("aarch64", elf::EM_AARCH64), ("riscv64gc", elf::EM_RISCV)];

/// A target in Rust's words: [`COMPONENT`], or a Linux that a daemon runs on, such as
/// `x86_64-unknown-linux-gnu`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target(String);

impl Target {
    /// What native plugins of this daemon are built for.
    pub fn here() -> Self {
        let machine = match std::env::consts::ARCH {
            "riscv64" => "riscv64gc",
            other => other,
        };
        let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
        Self(format!("{machine}-unknown-linux-{libc}"))
    }

    /// The components' target.
    pub fn component() -> Self {
        Self(COMPONENT.to_owned())
    }

    /// As Rust writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is built for it.
    pub fn kind(&self) -> Kind {
        match self.0 == COMPONENT {
            true => Kind::Component,
            false => Kind::Native,
        }
    }

    /// What its files' names end with.
    pub(super) fn extension(&self) -> &'static str {
        match self.kind() {
            Kind::Native | Kind::Isolated => "so",
            Kind::Component => "wasm",
        }
    }

    /// Whether an ELF file is for its architecture.
    pub(super) fn fits(&self, file: &[u8]) -> bool {
        let machine = self.0.split('-').next().unwrap_or_default();
        let wanted = MACHINES.iter().find(|(name, _)| *name == machine).map(|(_, code)| *code);
        // All three are little-endian; the field stands at the same place in each ELF.
        let found = file.get(18..20).map(|code| u16::from_le_bytes([code[0], code[1]]));
        wanted.is_some() && wanted == found
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = text == COMPONENT
            || MACHINES.iter().any(|(machine, _)| {
                let rest = text.strip_prefix(machine);
                matches!(rest, Some("-unknown-linux-gnu" | "-unknown-linux-musl"))
            });
        match known {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "`{text}` is no target that alknet runs on: write `{COMPONENT}`, or \
                 `x86_64`, `aarch64` or `riscv64gc` followed by `-unknown-linux-gnu` or \
                 `-unknown-linux-musl`"
            )),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
