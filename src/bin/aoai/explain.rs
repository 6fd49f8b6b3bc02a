//! `aoai explain`: what an error of Azure means and what to do about it, whoever met it and wherever.
//!
//! What is read is never shown again: people paste requests with their keys.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use aoai_filter::diagnosis::{Diagnosis, Said};
use clap::Args;

use crate::Outcome;

/// Azure's errors have a few hundred bytes; a page of a log around one may be read too.
const LONGEST: usize = 1024 * 1024;

/// What to explain.
#[derive(Args)]
pub(crate) struct Options {
    /// Print every mistake that is known, and what Azure says then
    #[arg(long)]
    list: bool,
    /// A mistake by its name, as in the header x-aoai-diagnosis; without one, standard input is read
    #[arg(num_args = 0..)]
    slug: Vec<OsString>,
}

/// Explains it.
pub(crate) fn run(options: &Options) -> ExitCode {
    let done = match (options.list, options.slug.as_slice()) {
        (true, []) => print(Diagnosis::all()),
        (false, []) => read().and_then(|text| print(recognised(&text)?)),
        (false, [slug]) => named(slug).and_then(print),
        _ => Err(ExplainError::Arguments),
    };
    let (outcome, error) = match done {
        Ok(()) => return Outcome::Fine.into(),
        Err(error @ (ExplainError::Unknown | ExplainError::ByGateway)) => {
            (Outcome::Problems, error)
        }
        Err(error) => (Outcome::Unusable, error),
    };
    // There is no other place to complain at.
    let _ = writeln!(io::stderr(), "aoai: {error}");
    outcome.into()
}

fn read() -> Result<Vec<u8>, ExplainError> {
    let stdin = io::stdin().lock();
    if stdin.is_terminal() {
        writeln!(io::stderr(), "paste the error; Ctrl-D on a line of its own ends it")?;
    }
    let mut text = Vec::new();
    stdin.take(LONGEST as u64 + 1).read_to_end(&mut text)?;
    match text.len() {
        _ if text.trim_ascii().is_empty() => Err(ExplainError::Empty),
        length if length > LONGEST => Err(ExplainError::TooLong),
        _ => Ok(text),
    }
}

/// What a text tells of: by our own name for it, as in the gateway's log and headers, or by Azure's
/// words.
fn recognised(text: &[u8]) -> Result<Option<&'static Diagnosis>, ExplainError> {
    let said = Said::read(text);
    let text = String::from_utf8_lossy(text);
    // An object of another shape, such as a log's, may have the error within.
    let whole = || Said { code: String::new(), message: text.clone().into_owned() };
    let found = by_name(&text)
        .or_else(|| Diagnosis::of_text(&said))
        .or_else(|| Diagnosis::of_text(&whole()));
    match found {
        Some(_) => Ok(found),
        None if text.to_ascii_lowercase().contains("x-aoai-reason") => Err(ExplainError::ByGateway),
        None => Err(ExplainError::Unknown),
    }
}

/// The names that are no words of everybody's have an underscore.
fn by_name(text: &str) -> Option<&'static Diagnosis> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| word.contains('_'))
        .find_map(|word| Diagnosis::all().find(|row| row.slug == word))
}

fn named(slug: &OsString) -> Result<Option<&'static Diagnosis>, ExplainError> {
    let found = Diagnosis::all().find(|row| slug == row.slug);
    found.map(Some).ok_or(ExplainError::NoSuchName)
}

fn print(rows: impl IntoIterator<Item = &'static Diagnosis>) -> Result<(), ExplainError> {
    let mut out = io::stdout().lock();
    for (index, row) in rows.into_iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", row.slug)?;
        for text in row.says() {
            writeln!(out, "  Azure says:  {text}")?;
        }
        writeln!(out, "  which means: {}.", row.wrong)?;
        writeln!(out, "  what to do:  {}", row.mend)?;
    }
    Ok(())
}

/// Why nothing is explained. It never holds what was read.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error(
        "this is no error that the gateway knows; aoai explain --list prints those it does. Give it \
         the whole answer of Azure, or the line of Envoy's log; aoai doctor finds out what is wrong by \
         itself"
    )]
    Unknown,
    #[error(
        "this is an answer of the gateway itself (x-aoai-reason), and not of Azure: its message says \
         what to do"
    )]
    ByGateway,
    #[error("no mistake has this name; aoai explain --list prints all. An error goes to standard input: aoai explain < error.txt")]
    NoSuchName,
    #[error("an error goes to standard input, and not into arguments: aoai explain < error.txt")]
    Arguments,
    #[error("standard input holds nothing; paste the error there: aoai explain < error.txt")]
    Empty,
    #[error("the text is longer than {LONGEST} bytes; give the error alone")]
    TooLong,
    #[error("{0}")]
    Io(#[from] io::Error),
}
