//! `aoai`: checks configurations of the filter, renders Envoy's from them, tries what they say at Azure,
//! explains Azure's errors, and makes the keys that configurations hold the digests of.

mod check;
mod doctor;
mod document;
mod explain;
mod key;
mod render;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tools for aoai-filter: one key and one address in front of Azure OpenAI, inside Envoy.
#[derive(Parser)]
#[command(name = "aoai", version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  aoai check gateway.yaml
  aoai render envoy gateway.yaml > envoy.yaml
  aoai doctor gateway.yaml
  aoai explain < error.txt
  aoai key new
  printf %s \"$KEY\" | aoai key digest")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a configuration, and say all that is wrong with it.
    ///
    /// Each problem is a line on standard output: its path in the document, what was found there,
    /// and what would be right. Exit status: 0 when there is none, 1 when there are problems, 2
    /// when the file cannot be read.
    #[command(after_help = "Examples:
  aoai check gateway.yaml
  helm template . | yq '.data.\"gateway.yaml\"' | aoai check -")]
    Check {
        /// A YAML or JSON file, or - for standard input
        file: PathBuf,
    },
    /// Do what the proxy will do, step by step, and say what is wrong on the way.
    ///
    /// From where it runs: the configuration, the names and certificates of all endpoints, a token for
    /// each identity in use, and a call of each deployment that costs nothing. It shows no token and
    /// no other secret. Exit status: 0 when the proxy can serve, 1 when there are problems, 2 when
    /// the file cannot be read or an option does not fit it.
    ///
    /// The call is a chat completion without content. Azure looks at that last of all: the answer that
    /// something is missing, or that the model is of another kind, says that network, token, role
    /// and deployment are right. That the quota suffices, it does not say.
    #[command(after_help = "Examples:
  aoai doctor gateway.yaml
  aoai doctor gateway.yaml --identity-endpoint http://127.0.0.1:8000
  aoai doctor gateway.yaml --json | jq '.steps[] | select(.result == \"fail\")'")]
    Doctor(doctor::Options),
    /// Explain an error of Azure: what is wrong, and what to do about it.
    ///
    /// It is read from standard input as it was found: the answer's body, a whole answer, a client's
    /// exception, a line of a log. Nothing of it is printed again. Exit status: 0 when it is
    /// explained, 1 when it is not known, 2 when there is nothing to explain.
    #[command(after_help = "Examples:
  curl -s … | aoai explain
  aoai explain < error.txt
  aoai explain role_missing
  aoai explain --list")]
    Explain(explain::Options),
    /// Print what Envoy reads
    #[command(subcommand)]
    Render(render::Command),
    /// Make subscription keys and their digests
    #[command(subcommand)]
    Key(key::Command),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check { file } => check::run(&file),
        Command::Doctor(options) => doctor::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Render(command) => render::run(&command),
        Command::Key(command) => key::run(&command),
    }
}

/// How the tool ends. Usage errors, which clap finds, end as [`Outcome::Unusable`] does.
#[derive(Clone, Copy)]
enum Outcome {
    /// All is well.
    Fine,
    /// The document has problems.
    Problems,
    /// There was nothing to work on.
    Unusable,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Fine => 0,
            Outcome::Problems => 1,
            Outcome::Unusable => 2,
        })
    }
}
