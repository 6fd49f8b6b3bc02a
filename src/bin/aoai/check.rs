//! `aoai check`: reads a configuration as the module would, from YAML as well.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aoai_filter::config::Config;

use crate::document::{self, Count, LoadError};
use crate::outcome::Outcome;

/// The ends of names of documents in a directory.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Checks files, `-` for standard input, and the documents in directories. Where several are named, each line begins
/// with whose it is.
pub(crate) fn run(named: &[PathBuf]) -> ExitCode {
    let is_alone = matches!(named, [one] if !one.is_dir());
    let mut worst = Outcome::Success;
    for path in named {
        let outcome = match (is_alone, documents(path)) {
            (_, Err(error)) => document::unreadable(path, &error),
            (true, Ok(_)) => check(path),
            (false, Ok(files)) => files
                .iter()
                .map(|file| check_one_of(file))
                .fold(Outcome::Success, Outcome::or_worse),
        };
        worst = worst.or_worse(outcome);
    }
    worst.into()
}

/// The documents that a path means: those of a directory in the order of their names.
fn documents(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in path.read_dir()? {
        let file = entry?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "it has no .yaml, .yml or .json file")),
        false => Ok(found),
    }
}

fn check(file: &Path) -> Outcome {
    match document::open(file) {
        Ok(document) => print(&format_args!("ok: {}", Summary(&document.config))),
        Err(outcome) => outcome,
    }
}

fn check_one_of(file: &Path) -> Outcome {
    let name = file.display();
    match document::load(file) {
        Ok(document) => print(&format_args!("{name}: ok: {}", Summary(&document.config))),
        Err(LoadError::Unreadable(error)) => document::unreadable(file, &error),
        Err(LoadError::Invalid(problems)) => document::report(file, &problems),
    }
}

fn print(line: &impl Display) -> Outcome {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => Outcome::Success,
        // The reader of standard output has gone.
        Err(_) => Outcome::Unusable,
    }
}

/// The number of subscriptions, backends and models of a configuration.
pub(crate) struct Summary<'a>(pub(crate) &'a Config);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: BTreeSet<_> = self.0.subscriptions.values().map(|one| &one.id).collect();
        let subscriptions = Count(ids.len(), "subscription");
        let backends = Count(self.0.backends.len(), "backend");
        let models = Count(self.0.models.len(), "model");
        write!(f, "{subscriptions}, {backends}, {models}")
    }
}
