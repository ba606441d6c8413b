//! `alknet plugin inspect`: what a plugin's file declares, or what is in a package.

use std::path::PathBuf;

use alknet_plugin_api::Manifest;
use clap::Args;
use serde_json::json;

use crate::budget::{Limits, Meter, Substrate};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::visible;
use crate::cli::usage::defaults;
use crate::cli::{Output, Table};
use crate::plugins::package::{Index, Package};
use crate::plugins::{Kind, inspect};

/// Show what a plugin's file declares, or what is in a package; a native plugin that is
/// no package is loaded for it
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The plugin's file, or a package
    file: PathBuf,
    /// Print a file of the package, such as README.md or sbom.cdx.json
    #[arg(long, value_name = "NAME")]
    print: Option<String>,
}

impl Inspect {
    pub(super) fn run(self, output: &Output) -> Result<(), Failure> {
        if Package::is_one(&self.file) {
            return self.package(output);
        }
        if self.print.is_some() {
            return Err(Failure::new(Exit::Usage, "only packages have files to print"));
        }
        let (sha256, opened) = inspect(&self.file)?;
        let (kind, manifest) = (opened.kind(), opened.manifest());
        let digest = hex::encode(sha256);
        let substrate = match kind {
            Kind::Native => Substrate::Native,
            Kind::Isolated => Substrate::Process,
            Kind::Component => Substrate::Component,
        };
        let limits = Meter::new("", substrate, Limits::default()).status();
        match output.is_json() {
            true => output.json(&json!({
                "kind": kind, "trust": kind.trust(), "sha256": digest, "manifest": manifest,
                "limits": limits,
            })),
            false => {
                output.line(&describe(kind, &digest, manifest))?;
                output.line(&format!("\n{}", defaults(&limits).render(false)))
            }
        }
    }

    fn package(self, output: &Output) -> Result<(), Failure> {
        let wanted = self.print.as_deref();
        let package = Package::read(&self.file, |name| Some(name) == wanted)?;
        if let Some(name) = wanted {
            let file = package.index.files.iter().any(|file| file.name == name);
            let content = package.content(name).filter(|_| file).ok_or_else(|| {
                let names = package.index.files.iter().map(|file| file.name.as_str());
                let names = names.collect::<Vec<_>>().join(", ");
                Failure::new(Exit::Usage, format!("the package has no file `{name}`"))
                    .remedy(format!("it has: {names}"))
            })?;
            let text = String::from_utf8_lossy(content);
            let lines: Vec<_> = text.trim_end().split('\n').map(visible_text).collect();
            return output.line(&lines.join("\n"));
        }
        match output.is_json() {
            true => output.json(&json!({ "sha256": package.sha256, "index": package.index })),
            false => output.line(&describe_package(&package.sha256.to_string(), &package.index)),
        }
    }
}

/// A line of text, in which a tab is one.
fn visible_text(line: &str) -> String {
    let line = line.strip_suffix('\r').unwrap_or(line);
    line.split('\t').map(visible).collect::<Vec<_>>().join("\t")
}

fn describe(kind: Kind, digest: &str, manifest: &Manifest) -> String {
    let trust = match kind {
        Kind::Native => "native: it can do whatever the daemon can, and could read its secrets",
        Kind::Isolated => "isolated: it can do whatever its own process can",
        Kind::Component => "confined: it sees only what its world imports",
    };
    let head = [("trust", trust.to_owned()), ("sha256", digest.to_owned())];
    shown(&head, manifest, Vec::new())
}

fn describe_package(digest: &str, index: &Index) -> String {
    let signer = match index.signer {
        Some(key) => format!("{key}; `alknet plugin verify` says whether it is trusted"),
        None => "nobody".to_owned(),
    };
    let head = [("signed by", signer), ("index sha256", digest.to_owned())];
    let mut table = Table::new(["in it", "trust", "bytes", "sha256"]);
    for artifact in &index.artifacts {
        let (target, size) = (artifact.target.to_string(), artifact.size.to_string());
        let trust = artifact.target.kind().trust().to_owned();
        table.row([target, trust, size, artifact.sha256.to_string()]);
    }
    for file in &index.files {
        let size = file.size.to_string();
        table.row([file.name.clone(), String::new(), size, file.sha256.to_string()]);
    }
    shown(&head, &index.manifest, vec![table])
}

/// A manifest under what is said of its file, with tables below.
fn shown(head: &[(&str, String)], manifest: &Manifest, mut tables: Vec<Table>) -> String {
    let line = |(name, value): (&str, &str)| format!("{name:13} {value}");
    let mut lines = vec![
        format!("{} {}", manifest.name, manifest.version),
        manifest.description.clone(),
        String::new(),
    ];
    lines.extend(head.iter().map(|(name, value)| line((name, value))));
    lines.push(line(("API", &format!("{}.{}", manifest.api.0, manifest.api.1))));
    lines.push(line(("ALPNs", &manifest.alpns.join(", "))));
    lines.push(line(("gateway", if manifest.gateway { "yes" } else { "no" })));
    for wanted in &manifest.capabilities {
        let kind = json!(wanted.kind);
        let value = format!(
            "{} ({}{}) {}",
            wanted.name,
            kind.as_str().unwrap_or_default(),
            if wanted.optional { ", optional" } else { "" },
            wanted.description
        );
        lines.push(line(("capability", &value)));
    }
    lines.push(line(("configuration", &manifest.config_schema.to_string())));
    if !manifest.operations.is_empty() {
        let mut table = Table::new(["operation", "type", "visibility", "description"]);
        for spec in &manifest.operations {
            let (op_type, visibility) = (json!(spec.op_type), json!(spec.visibility));
            table.row([
                &*format!("/{}", spec.name),
                op_type.as_str().unwrap_or_default(),
                visibility.as_str().unwrap_or_default(),
                &spec.description,
            ]);
        }
        tables.push(table);
    }
    for table in tables {
        lines.push(String::new());
        lines.extend(table.render(false).lines().map(str::to_owned));
    }
    lines.iter().map(|line| visible(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use alknet_plugin_api::OperationSpec;

    use super::*;

    #[test]
    fn a_manifest_fits_one_screen() {
        let manifest = Manifest::new("echo", "1.2.3")
            .description("Says it \x1b[31mback")
            .alpn("alknet/echo")
            .operation(OperationSpec::query("echo/say").description("Says it back"));
        let text = describe(Kind::Component, "ab12", &manifest);
        assert!(
            text.starts_with("echo 1.2.3\nSays it \u{fffd}[31mback\n\ntrust         confined"),
            "{text}"
        );
        assert!(text.ends_with("/echo/say  query  external    Says it back"), "{text}");
    }
}
