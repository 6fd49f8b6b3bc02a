//! The document that a command works on: reading it, and printing its problems.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::path::Path;

use aoai_filter::config::{Config, Node, Problem, Problems};

use crate::lines::Lines;
use crate::outcome::Outcome;

/// A document and what it means.
pub(crate) struct Document {
    text: String,
    /// As its author wrote it.
    pub(crate) node: Node,
    /// As the module understands it.
    pub(crate) config: Config,
}

/// Why a document cannot be loaded.
pub(crate) enum LoadError {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// It has problems.
    Invalid(Problems),
}

/// Reads a file, or standard input for `-`. Prints the error, if there is one.
pub(crate) fn open(file: &Path) -> Result<Document, Outcome> {
    load(file).map_err(|error| match error {
        LoadError::Unreadable(error) => unreadable(file, &error),
        LoadError::Invalid(problems) => report(file, &problems),
    })
}

impl Document {
    /// Its problems, with their lines.
    pub(crate) fn locate(&self, problems: Problems) -> Problems {
        locate(&self.text, problems)
    }
}

/// Reads a file, or standard input for `-`, and prints nothing.
pub(crate) fn load(file: &Path) -> Result<Document, LoadError> {
    let bytes = read(file).map_err(LoadError::Unreadable)?;
    parse(&bytes).map_err(LoadError::Invalid)
}

/// Prints that a file cannot be read.
pub(crate) fn unreadable(file: &Path, error: &io::Error) -> Outcome {
    print_error(&format_args!("cannot read {}: {error}", file.display()))
}

/// Prints an error to standard error.
pub(crate) fn print_error(error: &impl Display) -> Outcome {
    // Where standard error is closed, there is no other place for it.
    let _ = writeln!(io::stderr(), "aoai: {error}");
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
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let node = tree(bytes)?;
    let text = String::from_utf8_lossy(bytes).into_owned();
    match Config::from_node(&node) {
        Ok(config) => Ok(Document { text, node, config }),
        Err(problems) => Err(locate(&text, problems)),
    }
}

fn locate(text: &str, problems: Problems) -> Problems {
    let lines = Lines::of(text);
    problems.map(|problem| lines.locate(problem))
}

/// JSON is read as the module reads it, so that its errors are the module's.
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

/// Prints the problems of a document, each behind its place: the file, and the line.
pub(crate) fn report(file: &Path, problems: &Problems) -> Outcome {
    let name = file.display();
    let count = Count(problems.count(), "problem");
    let printed = problems
        .iter()
        .try_for_each(|problem| {
            let (path, what) = (problem.path(), problem.what());
            match (problem.line(), problem.column()) {
                (Some(line), Some(column)) => {
                    writeln!(io::stdout(), "{name}:{line}:{column}: {what}")
                }
                (Some(line), None) => writeln!(io::stdout(), "{name}:{line}: {path}: {what}"),
                (None, _) => writeln!(io::stdout(), "{name}: {path}: {what}"),
            }
        })
        .and_then(|()| writeln!(io::stderr(), "aoai: {name}: {count}"));
    match printed {
        Ok(()) => Outcome::Problems,
        // The reader of standard output has gone.
        Err(_) => Outcome::Unusable,
    }
}

/// A number and its noun, in English.
pub(crate) struct Count(pub(crate) usize, pub(crate) &'static str);

impl Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(count, noun) = self;
        write!(f, "{count} {noun}{}", if *count == 1 { "" } else { "s" })
    }
}
