//! `aoai check`: reads a configuration as the module would, from YAML as well.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use aoai_filter::config::{Config, Node, Problem, Problems};

use crate::Outcome;

/// Checks a file, or standard input for `-`.
pub(crate) fn run(file: &Path) -> ExitCode {
    let name = file.display();
    let outcome = match read(file) {
        Ok(bytes) => match parse(&bytes) {
            Ok(config) => {
                writeln!(io::stdout(), "ok: {}", Summary(&config)).map(|()| Outcome::Fine)
            }
            Err(problems) => report(&name, &problems).map(|()| Outcome::Problems),
        },
        Err(error) => {
            writeln!(io::stderr(), "aoai: cannot read {name}: {error}").map(|()| Outcome::Unusable)
        }
    };
    // Nobody reads the report any more; the file is still not known to be right.
    outcome.unwrap_or(Outcome::Unusable).into()
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes)?;
        Ok(bytes)
    } else {
        std::fs::read(file)
    }
}

/// What looks like JSON is read as the module reads it, so that its errors are the module's.
fn parse(bytes: &[u8]) -> Result<Config, Problems> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_json = bytes.trim_ascii_start().first().is_none_or(|byte| *byte == b'{');
    if is_json {
        let json = Config::from_json(bytes);
        // A YAML document may begin with a brace as well.
        if json.is_ok() || Node::from_json(bytes).is_ok() {
            return json;
        }
        return match serde_yaml_ng::from_slice(bytes) {
            Ok(node @ Node::Object(_)) => Config::from_node(&node),
            _ => json,
        };
    }
    match serde_yaml_ng::from_slice(bytes) {
        Ok(node) => Config::from_node(&node),
        Err(error) => Err(yaml_problem(&error).into()),
    }
}

fn yaml_problem(error: &serde_yaml_ng::Error) -> Problem {
    let (line, column) = error.location().map_or((1, 0), |at| (at.line(), at.column()));
    let text = error.to_string();
    let place = format!(" at line {line} column {column}");
    Problem::of_syntax(line, column, &format!("not YAML: {}", text.replacen(&place, "", 1)))
}

fn report(name: &impl Display, problems: &Problems) -> io::Result<()> {
    writeln!(io::stdout(), "{problems}")?;
    let count = Count(problems.count(), "problem");
    writeln!(io::stderr(), "aoai: {name}: {count}")
}

/// How much of everything a configuration has.
struct Summary<'a>(&'a Config);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: BTreeSet<_> = self.0.subscriptions.values().map(|one| &one.id).collect();
        let subscriptions = Count(ids.len(), "subscription");
        let backends = Count(self.0.backends.len(), "backend");
        let models = Count(self.0.models.len(), "model");
        write!(f, "{subscriptions}, {backends}, {models}")
    }
}

/// A number of things, in English.
struct Count(usize, &'static str);

impl Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(count, noun) = self;
        write!(f, "{count} {noun}{}", if *count == 1 { "" } else { "s" })
    }
}
