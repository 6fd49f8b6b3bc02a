//! `aoai explain`: the cause and the remedy of an error of Azure, in whatever form it is pasted.
//!
//! The input is never printed: people paste requests with their keys.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use aoai_filter::base::error_body::ErrorBody;
use aoai_filter::response::diagnosis::Diagnosis;
use clap::Args;

use crate::document;
use crate::outcome::Outcome;

/// Azure's errors have a few hundred bytes; a page of a log around one is accepted too.
const LONGEST: usize = 1024 * 1024;

/// What to explain.
#[derive(Args)]
pub(crate) struct Options {
    /// Print all known errors, with Azure's messages
    #[arg(long)]
    list: bool,
    /// The name of an error, as in the header x-aoai-diagnosis; without it, standard input is read
    #[arg(value_name = "NAME", num_args = 0..)]
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
        Ok(()) => return Outcome::Success.into(),
        Err(error @ (ExplainError::Unknown | ExplainError::ByGateway)) => {
            (Outcome::Problems, error)
        }
        Err(error) => (Outcome::Unusable, error),
    };
    let _ = document::print_error(&error);
    outcome.into()
}

fn read() -> Result<Vec<u8>, ExplainError> {
    let stdin = io::stdin().lock();
    if stdin.is_terminal() {
        writeln!(io::stderr(), "paste the error, then press Enter and Ctrl-D")?;
    }
    let mut text = Vec::new();
    stdin.take(LONGEST as u64 + 1).read_to_end(&mut text)?;
    match text.len() {
        _ if text.trim_ascii().is_empty() => Err(ExplainError::Empty),
        length if length > LONGEST => Err(ExplainError::TooLong),
        _ => Ok(text),
    }
}

/// The error in a text: by the gateway's name for it, as in its log and headers, or by Azure's message.
fn recognised(text: &[u8]) -> Result<Option<&'static Diagnosis>, ExplainError> {
    let error = ErrorBody::read(text);
    let text = String::from_utf8_lossy(text);
    // An object of another shape, such as a log's, may have the error within.
    let whole = || ErrorBody { code: String::new(), message: text.clone().into_owned() };
    let found = by_name(&text)
        .or_else(|| Diagnosis::of_text(&error))
        .or_else(|| Diagnosis::of_text(&whole()));
    match found {
        Some(_) => Ok(found),
        None if text.to_ascii_lowercase().contains("x-aoai-reason") => Err(ExplainError::ByGateway),
        None => Err(ExplainError::Unknown),
    }
}

/// Only names with an underscore: the others are ordinary words.
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
        for text in row.examples() {
            writeln!(out, "  message:    {text}")?;
        }
        writeln!(out, "  cause:      {}.", row.cause)?;
        writeln!(out, "  remedy:     {}", row.remedy)?;
    }
    Ok(())
}

/// Why nothing is explained. It never contains the input.
#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error(
        "the error is not known; aoai explain --list prints all known errors. Paste the whole response \
         of Azure, or the line of Envoy's log; aoai doctor looks for problems by itself"
    )]
    Unknown,
    #[error(
        "this is a local reply of the gateway (x-aoai-reason), not a response of Azure: its message says \
         what to do"
    )]
    ByGateway,
    #[error("no known error has this name; aoai explain --list prints all names. To explain a message, pass it on standard input: aoai explain < error.txt")]
    NoSuchName,
    #[error("pass the error on standard input, not as an argument: aoai explain < error.txt")]
    Arguments,
    #[error("standard input is empty; pass the error there: aoai explain < error.txt")]
    Empty,
    #[error("the input is longer than {LONGEST} bytes; pass only the error")]
    TooLong,
    #[error("{0}")]
    Io(#[from] io::Error),
}
