//! What the documentation has from the code is the code's, and `make render` writes it: the mistakes that the gateway
//! recognises, and its metrics.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot read its file has failed; clippy knows helpers of tests only within cfg(test)"
)]

use std::fmt::Write;
use std::path::Path;

use aoai_filter::response::diagnosis::{Diagnosis, BACKENDS};
use aoai_filter::telemetry::{self, metrics::Row};

const TROUBLESHOOTING: &str = "## Troubleshooting\n";
const METRICS: &str = "| metric | labels | |\n| --- | --- | --- |\n";
const END: &str = "<!-- the end of what `make render` writes here -->\n";

/// Azure's message is a heading, because people search for it.
fn troubleshooting() -> String {
    let mut text = TROUBLESHOOTING.to_owned();
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
    assert_rendered("README.md", METRICS, &metrics());
    assert_rendered("README.md", TROUBLESHOOTING, &troubleshooting());
}

#[test]
fn it_begins_with_the_regional_endpoint() {
    let opening = "## Troubleshooting\n\n### `Resource Id is badly formed: NA`\n";
    assert!(troubleshooting().starts_with(opening));
}
