//! `aoai explain`: the cause and the remedy of an error of Azure, of a local reply of the gateway, or of a line of the log,
//! in whatever form it is pasted.
//!
//! The input is never printed: people paste requests with their keys.

mod known;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use aoai_filter::base::error_body::ErrorBody;
use aoai_filter::response::diagnosis::Diagnosis;
use clap::Args;

use self::known::Known;
use crate::document;
use crate::outcome::Outcome;

/// Azure's errors have a few hundred bytes; a page of a log around one is accepted too.
const LONGEST: usize = 1024 * 1024;

/// What to explain.
#[derive(Args)]
pub(crate) struct Options {
    /// Print all known errors, with Azure's messages, the gateway's local replies, and words of the log
    #[arg(long)]
    list: bool,
    /// The name of an error, as in the headers x-aoai-diagnosis and x-aoai-reason; without it, standard input is read
    #[arg(value_name = "NAME", num_args = 0..)]
    slug: Vec<OsString>,
}

/// Explains it.
pub(crate) fn run(options: &Options) -> ExitCode {
    let done = match (options.list, options.slug.as_slice()) {
        (true, []) => {
            print(Diagnosis::all().map(Found::Azure).chain(known::all().map(Found::Other)))
        }
        (false, []) => read().and_then(|text| print([recognised(&text)?])),
        (false, [slug]) => named(slug).and_then(|found| print([found])),
        _ => Err(ExplainError::Arguments),
    };
    let (outcome, error) = match done {
        Ok(()) => return Outcome::Success.into(),
        Err(error @ ExplainError::Unknown) => (Outcome::Problems, error),
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

/// What a text is about.
enum Found {
    /// An error of Azure.
    Azure(&'static Diagnosis),
    /// A local reply, or words of a log.
    Other(Known),
}

/// The error in a text: by the gateway's name for it, as in its log and headers, or by Azure's message. Envoy's words
/// come last: what they wrap says more.
fn recognised(text: &[u8]) -> Result<Found, ExplainError> {
    let error = ErrorBody::read(text);
    let text = String::from_utf8_lossy(text);
    // An object of another shape, such as a log's, may have the error within.
    let whole = || ErrorBody { code: String::new(), message: text.clone().into_owned() };
    // Azure has a code of the same name as a local reply.
    let is_said = |row: &&Diagnosis| row.is_said_by(&error) || row.is_said_by(&whole());
    if let Some(found) = by_name(&text).or_else(|| Diagnosis::all().find(is_said)) {
        return Ok(Found::Azure(found));
    }
    if let Some(reason) = known::reply_in(&text) {
        return Ok(Found::Other(known::about(reason)));
    }
    let azure = Diagnosis::of_text(&error).or_else(|| Diagnosis::of_text(&whole()));
    let words = || known::words_in(&text).map(Found::Other);
    azure.map(Found::Azure).or_else(words).ok_or(ExplainError::Unknown)
}

/// Only names with an underscore: the others are ordinary words.
fn by_name(text: &str) -> Option<&'static Diagnosis> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| word.contains('_'))
        .find_map(|word| Diagnosis::all().find(|row| row.slug == word))
}

fn named(slug: &OsString) -> Result<Found, ExplainError> {
    let azure = Diagnosis::all().find(|row| slug == row.slug).map(Found::Azure);
    let reply = || known::all().find(|row| slug == row.words).map(Found::Other);
    azure.or_else(reply).ok_or(ExplainError::NoSuchName)
}

fn print(rows: impl IntoIterator<Item = Found>) -> Result<(), ExplainError> {
    let mut out = io::stdout().lock();
    for (index, row) in rows.into_iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        match row {
            Found::Azure(row) => {
                writeln!(out, "{}", row.slug)?;
                for text in row.examples() {
                    writeln!(out, "  message:    {text}")?;
                }
                writeln!(out, "  cause:      {}.", row.cause)?;
                writeln!(out, "  remedy:     {}", row.remedy)?;
            }
            Found::Other(row) => {
                writeln!(out, "{}", row.words.replace('&', " … "))?;
                writeln!(out, "  cause:      {}.", row.cause)?;
                writeln!(out, "  remedy:     {}", row.remedy)?;
            }
        }
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
