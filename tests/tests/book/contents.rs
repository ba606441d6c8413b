//! The table of contents, and links.

use std::collections::BTreeSet;

use alknet::endpoint::CloseCode;
use alknet_plugin_api::code;

use super::{Page, root};

/// Where the sources are to be seen.
const REPOSITORY: &str = "https://github.com/alkdev/alknet/blob/main/";

/// The targets of a text's links, outside of blocks of code.
fn links(text: &str) -> Vec<String> {
    let prose: String = text.split("\n```").step_by(2).collect();
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.is_empty()).map(str::to_owned).collect()
}

/// What a heading is called in links.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.split("\n```").step_by(2).flat_map(str::lines);
    let headings = headings.filter_map(|line| line.strip_prefix('#'));
    let name = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().replace(' ', "-")
    };
    headings.map(name).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for page in Page::all() {
        let file = root().join(&page.name);
        for link in links(&page.text) {
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match target.strip_prefix(REPOSITORY) {
                Some(path) => root().join(path),
                None if target.contains("://") || target.starts_with("mailto:") => continue,
                None if target.is_empty() => file.clone(),
                None => file.parent().unwrap().join(target),
            };
            let text = std::fs::read_to_string(&target).unwrap_or_default();
            let found = target.exists() && (anchor.is_empty() || anchors(&text).contains(anchor));
            if !found {
                wrong.push(format!("{}: {link}", page.name));
            }
            // The book holds nothing from elsewhere in the workspace.
            let outside = page.in_book().is_some()
                && !link.starts_with(REPOSITORY)
                && !target.canonicalize().is_ok_and(|path| path.starts_with(root().join("docs")));
            if outside {
                wrong.push(format!("{}: {link} is not in docs/", page.name));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_table_of_contents_has_every_page_once() {
    let summary = Page::read("docs/SUMMARY.md");
    let listed = links(&summary.text);
    let unique: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(unique.len(), listed.len(), "a page stands there twice");
    let pages = Page::all();
    let pages = pages.iter().filter_map(Page::in_book).filter(|name| *name != "SUMMARY.md");
    let template = "adr/0000-template.md";
    let pages: BTreeSet<_> = pages.filter(|name| *name != template).map(str::to_owned).collect();
    assert_eq!(unique, pages);
}

#[test]
fn every_code_is_explained() {
    let protocol = Page::read("docs/protocol/calling.md");
    let troubleshooting = Page::read("docs/operators/troubleshooting.md");
    let row = |page: &Page, start: &str| {
        let row = page.text.lines().find(|line| line.starts_with(start));
        row.unwrap_or_else(|| panic!("{} has no row `{start}`", page.name)).to_owned()
    };
    for (name, retryable, http) in code::ALL {
        let told = row(&protocol, &format!("| `{name}` |"));
        let again = if *retryable { "| yes |" } else { "| no |" };
        assert!(told.contains(again) && told.contains(&http.to_string()), "{told}");
        let told = row(&troubleshooting, &format!("| `{name}` |"));
        assert_eq!(told.contains("| yes"), *retryable, "{told}");
    }
    for code in CloseCode::ALL {
        row(&troubleshooting, &format!("| {} | {} |", code.code(), code.text()));
    }
}
