//! `aoai check`: reads a configuration as the module would, from YAML as well.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use aoai_filter::config::Config;

use crate::document::{self, Count};
use crate::outcome::Outcome;

/// Checks a file, or standard input for `-`.
pub(crate) fn run(file: &Path) -> ExitCode {
    let outcome = match document::open(file) {
        Ok(document) => match writeln!(io::stdout(), "ok: {}", Summary(&document.config)) {
            Ok(()) => Outcome::Success,
            Err(_) => Outcome::Unusable,
        },
        Err(outcome) => outcome,
    };
    outcome.into()
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
