//! The document that a command works on: found, read, and its problems told.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::path::Path;

use aoai_filter::config::{Config, Node, Problem, Problems};

use crate::Outcome;

/// A document and what it means.
pub(crate) struct Document {
    /// As its author wrote it.
    pub(crate) node: Node,
    /// As the module understands it.
    pub(crate) config: Config,
}

/// Why there is no document.
pub(crate) enum Unopened {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// It has problems.
    Wrong(Problems),
}

/// Reads a file, or standard input for `-`. Why there is no document has been told when there is
/// none.
pub(crate) fn open(file: &Path) -> Result<Document, Outcome> {
    load(file).map_err(|why| match why {
        Unopened::Unreadable(error) => unreadable(file, &error),
        Unopened::Wrong(problems) => report(file, &problems),
    })
}

/// Reads a file, or standard input for `-`, and tells nothing.
pub(crate) fn load(file: &Path) -> Result<Document, Unopened> {
    let bytes = read(file).map_err(Unopened::Unreadable)?;
    parse(&bytes).map_err(Unopened::Wrong)
}

/// Tells that a file cannot be read.
pub(crate) fn unreadable(file: &Path, error: &io::Error) -> Outcome {
    complain(&format_args!("cannot read {}: {error}", file.display()))
}

/// Tells why there is nothing to work on.
pub(crate) fn complain(why: &impl Display) -> Outcome {
    // There is no other place to complain at.
    let _ = writeln!(io::stderr(), "aoai: {why}");
    Outcome::Unusable
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

fn parse(bytes: &[u8]) -> Result<Document, Problems> {
    let node = tree(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))?;
    let config = Config::from_node(&node)?;
    Ok(Document { node, config })
}

/// What looks like JSON is read as the module reads it, so that its errors are the module's.
fn tree(bytes: &[u8]) -> Result<Node, Problems> {
    let yaml = serde_yaml_ng::from_slice(bytes);
    if bytes.trim_ascii_start().first().is_some_and(|byte| *byte != b'{') {
        return yaml.map_err(|error| yaml_problem(&error).into());
    }
    match (Node::from_json(bytes), yaml) {
        (Ok(node), _) => Ok(node),
        // A YAML document may begin with a brace as well.
        (Err(_), Ok(node @ Node::Object(_))) => Ok(node),
        (Err(_), _) => Config::from_json(bytes).map(|_| Node::Null),
    }
}

fn yaml_problem(error: &serde_yaml_ng::Error) -> Problem {
    let (line, column) = error.location().map_or((1, 0), |at| (at.line(), at.column()));
    let text = error.to_string();
    let place = format!(" at line {line} column {column}");
    Problem::of_syntax(line, column, &format!("not YAML: {}", text.replacen(&place, "", 1)))
}

/// Tells what is wrong with a document.
pub(crate) fn report(file: &Path, problems: &Problems) -> Outcome {
    let count = Count(problems.count(), "problem");
    let told = writeln!(io::stdout(), "{problems}")
        .and_then(|()| writeln!(io::stderr(), "aoai: {}: {count}", file.display()));
    match told {
        Ok(()) => Outcome::Problems,
        // Nobody reads the report any more.
        Err(_) => Outcome::Unusable,
    }
}

/// A number of things, in English.
pub(crate) struct Count(pub(crate) usize, pub(crate) &'static str);

impl Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(count, noun) = self;
        write!(f, "{count} {noun}{}", if *count == 1 { "" } else { "s" })
    }
}
