//! `aoai key`: keys for callers, and the digests of them for the configuration.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;

use aoai_filter::access::key::LONGEST_KEY;
use aoai_filter::base::digest::Digest;
use clap::Subcommand;

use crate::document;
use crate::outcome::Outcome;

/// Marks a key of this filter, for people and for secret scanners.
const PREFIX: &str = "aoai_";

/// As many random bytes as a digest has.
const KEY_BYTES: usize = 32;

/// Shorter keys can be guessed from a digest that leaked.
const SHORTEST_STRONG_KEY: usize = 20;

/// What to do with keys.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create a random key
    ///
    /// Prints the key, which goes to the caller and is stored nowhere, and its digest, which goes
    /// into the configuration.
    #[command(after_help = "Example:
  $ aoai key new
  key:    aoai_…
  digest: sha256:…")]
    New,
    /// Print the digest of a key that is read from standard input
    ///
    /// A line break after the key is not part of it. The key cannot be an argument: arguments are
    /// visible in the process list and in the shell's history.
    #[command(after_help = "Examples:
  printf %s \"$KEY\" | aoai key digest
  aoai key digest < key.txt")]
    Digest {
        /// Rejected with an error that explains why.
        #[arg(hide = true, num_args = 0.., allow_hyphen_values = true)]
        key: Vec<OsString>,
    },
}

/// Runs a command.
pub(crate) fn run(command: &Command) -> ExitCode {
    let done = match command {
        Command::New => new(),
        Command::Digest { key } if key.is_empty() => digest(),
        Command::Digest { .. } => Err(KeyError::Argument),
    };
    match done {
        Ok(()) => Outcome::Success.into(),
        Err(error) => document::print_error(&error).into(),
    }
}

fn new() -> Result<(), KeyError> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| KeyError::Random(error.to_string()))?;
    let mut key = String::from(PREFIX);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(key, "{byte:02x}");
    }
    let digest = Digest::of(key.as_bytes());
    writeln!(io::stdout(), "key:    {key}\ndigest: {digest}")?;
    Ok(())
}

fn digest() -> Result<(), KeyError> {
    let input = read_key()?;
    let key = check_key(&input)?;
    writeln!(io::stdout(), "{}", Digest::of(key))?;
    if key.len() < SHORTEST_STRONG_KEY {
        writeln!(
            io::stderr(),
            "aoai: this key is so short that it can be guessed from its digest; aoai key new creates a \
             strong one"
        )?;
    }
    Ok(())
}

fn read_key() -> Result<Vec<u8>, KeyError> {
    let mut input = Vec::new();
    let stdin = io::stdin().lock();
    let is_terminal = stdin.is_terminal();
    let mut stdin = stdin.take(LONGEST_KEY as u64 + 3);
    if is_terminal {
        write!(io::stderr(), "key (visible while you type): ")?;
        stdin.read_until(b'\n', &mut input)?;
    } else {
        stdin.read_to_end(&mut input)?;
    }
    Ok(input)
}

/// The key in the input: what a client can send in a header, byte for byte.
fn check_key(input: &[u8]) -> Result<&[u8], KeyError> {
    let key = input.strip_suffix(b"\n").unwrap_or(input);
    let key = key.strip_suffix(b"\r").filter(|_| key.len() < input.len()).unwrap_or(key);
    match key {
        [] => Err(KeyError::Empty),
        _ if key.len() > LONGEST_KEY => Err(KeyError::TooLong),
        _ if key.trim_ascii().len() != key.len() => Err(KeyError::Surrounded),
        _ if !key.iter().all(|byte| matches!(byte, b' '..=b'~')) => Err(KeyError::NotPrintable),
        _ => Ok(key),
    }
}

/// Why there is no key or no digest. It never contains the key.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error(
        "the key cannot be an argument, because arguments are visible in the process list and in the \
         shell's history; pass it on standard input: printf %s \"$KEY\" | aoai key digest"
    )]
    Argument,
    #[error("standard input contains no key; pass it there: printf %s \"$KEY\" | aoai key digest")]
    Empty,
    #[error("the key is longer than {LONGEST_KEY} bytes; the gateway accepts no such key")]
    TooLong,
    #[error("the key begins or ends with white space, which HTTP removes from headers; remove it")]
    Surrounded,
    #[error("the key contains characters other than printable ASCII, or more than one line")]
    NotPrintable,
    #[error("the operating system returned no random bytes: {0}")]
    Random(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_what_a_header_can_carry() {
        let longest = "x".repeat(LONGEST_KEY);
        let longer = "x".repeat(LONGEST_KEY + 1);
        for (name, input, expected) in [
            ("plain", "k", Ok("k")),
            ("one new line", "key\n", Ok("key")),
            ("one Windows new line", "key\r\n", Ok("key")),
            ("space within", "a b", Ok("a b")),
            ("as long as may be", &longest, Ok(&longest)),
            ("nothing", "", Err("standard input contains no key")),
            ("only a new line", "\r\n", Err("standard input contains no key")),
            ("two new lines", "key\n\n", Err("the key begins or ends with white space")),
            ("return alone", "key\r", Err("the key begins or ends with white space")),
            ("space before", " key", Err("the key begins or ends with white space")),
            ("tab after", "key\t\n", Err("the key begins or ends with white space")),
            ("two lines", "a\nb", Err("the key contains characters")),
            ("control character", "a\0b", Err("the key contains characters")),
            ("not ASCII", "schlüssel", Err("the key contains characters")),
            ("too long", &longer, Err("the key is longer than 1024 bytes")),
        ] {
            match (check_key(input.as_bytes()), expected) {
                (Ok(key), Ok(expected)) => assert_eq!(key, expected.as_bytes(), "{name}"),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().starts_with(expected), "{name}: {error}");
                }
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
    }
}
