//! The README's section on troubleshooting is the table of the gateway, and `make render` writes it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot read its file has failed; clippy knows helpers of tests only within cfg(test)"
)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use aoai_filter::response::diagnosis::{Diagnosis, BACKENDS};

const BEGIN: &str = "## Troubleshooting\n";
const END: &str = "<!-- the end of what `make render` writes here -->\n";

/// Azure's message is a heading, because people search for it.
fn section() -> String {
    let mut text = BEGIN.to_owned();
    for row in Diagnosis::all() {
        let mut examples = row.examples().iter();
        writeln!(text, "\n### {}\n", code(examples.next().unwrap())).unwrap();
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

#[test]
fn the_readme_has_every_row_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let expected = section();
    if std::env::var_os("AOAI_RENDER").is_some_and(|value| value == "write") {
        std::fs::write(&path, format!("{before}{expected}{after}")).unwrap();
    } else {
        let is_current = format!("{BEGIN}{found}{END}") == expected;
        assert!(is_current, "the README's troubleshooting is not the table: make render");
    }
}

#[test]
fn it_begins_with_the_regional_endpoint() {
    let opening = "## Troubleshooting\n\n### `Resource Id is badly formed: NA`\n";
    assert!(section().starts_with(opening));
}

/// The table of metrics has the names that the module writes, and no others.
#[test]
fn the_readme_has_every_metric() {
    const CODE: &str = include_str!("../src/telemetry/metrics.rs");
    let (code, _) = CODE.split_once("#[cfg(test)]").unwrap();
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = |text: &'static str| {
        let words = text.split(move |c| !is_part(c)).filter(|word| word.starts_with("aoai_"));
        words.collect::<BTreeSet<_>>()
    };
    let rows = include_str!("../README.md").lines().filter(|line| line.starts_with("| `aoai_"));
    let first = rows.filter_map(|line| line.split('|').nth(1));
    let in_readme: BTreeSet<_> = first.flat_map(words).collect();
    // What access logs find is in a table of its own.
    let metrics: BTreeSet<_> = words(code);
    assert!(metrics.is_subset(&in_readme), "{metrics:?} {in_readme:?}");
    let others = in_readme
        .difference(&metrics)
        .filter(|name| ["_total", "_ms", "_seconds"].iter().any(|end| name.ends_with(end)));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&&str>::new());
}
