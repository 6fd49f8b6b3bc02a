//! What the documentation has from the code is the code's, and `make render` writes it: the mistakes that the gateway
//! recognises, and its metrics.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot read its file has failed; clippy knows helpers of tests only within cfg(test)"
)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use aoai_filter::response::diagnosis::{Diagnosis, BACKENDS};
use aoai_filter::telemetry::{self, metrics::Row};

const TROUBLESHOOTING: &str = "# Troubleshooting\n";
const METRICS: &str = "| metric | labels | |\n| --- | --- | --- |\n";
const END: &str = "<!-- the end of what `make render` writes here -->\n";

/// Azure's message is a heading, because people search for it.
fn troubleshooting() -> String {
    let mut text = TROUBLESHOOTING.to_owned();
    for row in Diagnosis::all() {
        let mut examples = row.examples().iter();
        writeln!(text, "\n## {}\n", code(examples.next().unwrap())).unwrap();
        for other in examples {
            writeln!(text, "or {}\n", code(other)).unwrap();
        }
        let origin = match BACKENDS.iter().any(|one| one.slug == row.slug) {
            true => "",
            false => ", from the identity endpoint",
        };
        let Diagnosis { slug, cause, remedy, .. } = row;
        writeln!(text, "`{slug}`{origin}: {cause}.\n\n{remedy}").unwrap();
    }
    text + "\n" + END
}

/// A text as it is. It may have backticks itself.
fn code(text: &str) -> String {
    match text.contains('`') {
        true => format!("`` {text} ``"),
        false => format!("`{text}`"),
    }
}

/// The table of metrics, as the module has them.
fn metrics() -> String {
    let mut text = METRICS.to_owned();
    for Row { name, labels, text: what } in telemetry::metrics::rows() {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(text, "| `{name}` | {} | {what} |", labels.join(", ")).unwrap();
    }
    text + END
}

/// What a file has from `begin` to the end of what is rendered is what the code has; or is written so.
fn assert_rendered(file: &str, begin: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(begin).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if std::env::var_os("AOAI_RENDER").is_some_and(|value| value == "write") {
        std::fs::write(&path, format!("{before}{expected}{after}")).unwrap();
    } else {
        let is_current = format!("{begin}{found}{END}") == expected;
        assert!(is_current, "{file} is not what the code has: make render");
    }
}

#[test]
fn what_the_documentation_has_from_the_code_is_the_codes() {
    assert_rendered("envoy/operation.md", METRICS, &metrics());
    assert_rendered("envoy/troubleshooting.md", TROUBLESHOOTING, &troubleshooting());
}

#[test]
fn it_begins_with_the_regional_endpoint() {
    let opening = "# Troubleshooting\n\n## `Resource Id is badly formed: NA`\n";
    assert!(troubleshooting().starts_with(opening));
}

/// The documentation.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "CHANGELOG.md",
    "envoy/README.md",
    "envoy/clients.md",
    "envoy/operation.md",
    "envoy/troubleshooting.md",
    "tests/README.md",
];

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The lines of a document that are no examples.
fn prose(document: &str) -> impl Iterator<Item = &str> {
    let mut is_example = false;
    document.lines().filter(move |line| {
        is_example ^= line.starts_with("```");
        !is_example
    })
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for heading in prose(document).filter(|line| line.starts_with('#')) {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let anchor = words.chars().filter(is_kept).collect::<String>().replace(' ', "-");
        let numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let free = std::iter::once(anchor.clone()).chain(numbered).find(|one| !found.contains(one));
        found.extend(free);
    }
    found
}

/// Where a document's links lead to, without those to other sites.
fn links(document: &str) -> Vec<String> {
    let text: Vec<_> = prose(document).collect();
    let text = text.join("\n");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let targets = targets.map(|(target, _)| target.to_owned());
    targets.filter(|target| !target.contains("://")).collect()
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    let mut broken = Vec::new();
    let runbooks = read("envoy/prometheus/rules.yaml");
    let runbooks = runbooks.lines().filter_map(|line| line.trim().strip_prefix("runbook: \""));
    let runbooks = runbooks.map(|line| line.trim_end_matches('"').to_owned());
    let runbooks = runbooks.filter(|target| target.contains(".md")).collect::<Vec<_>>();
    assert!(!runbooks.is_empty());
    let of_documents = DOCUMENTS.map(|file| (file, links(&read(file))));
    for (file, targets) in of_documents.into_iter().chain([("README.md", runbooks)]) {
        for target in targets {
            count += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let to = match path {
                "" => root.join(file),
                path => root.join(file).parent().unwrap().join(path),
            };
            let has_anchor = || anchors(&std::fs::read_to_string(&to).unwrap()).contains(anchor);
            if !to.exists() || !anchor.is_empty() && !has_anchor() {
                broken.push(format!("{file}: {target}"));
            }
        }
    }
    assert!(count > 60, "{count}");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_document_can_be_reached_from_the_readme() {
    let found: BTreeSet<_> = links(&read("README.md"))
        .into_iter()
        .map(|target| target.split('#').next().unwrap_or_default().to_owned())
        .collect();
    for file in DOCUMENTS.iter().filter(|file| **file != "README.md") {
        assert!(found.contains(*file), "{file}");
    }
}
