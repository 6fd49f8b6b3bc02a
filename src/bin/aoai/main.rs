//! `aoai`: checks configurations of the filter, renders Envoy's configuration from them, tests them against
//! Azure, explains Azure's errors, and creates keys and their digests.

mod check;
mod doctor;
mod document;
mod explain;
mod key;
mod lines;
mod outcome;
mod render;
mod usage;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::outcome::Outcome;

/// Tools for aoai-filter: one key and one address in front of Azure OpenAI, inside Envoy.
#[derive(Parser)]
#[command(name = "aoai", version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  aoai check gateway.yaml
  aoai render envoy gateway.yaml > envoy.yaml
  aoai doctor gateway.yaml
  aoai explain < error.txt
  aoai usage < access.log
  aoai key new
  printf %s \"$KEY\" | aoai key digest")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check configurations, and print every problem.
    ///
    /// Each problem is one line on standard output: the file, its line, the path in the document, what was
    /// found there, and what is expected. Exit status: 0 when there is no problem, 1 when there are problems, 2 when a file
    /// cannot be read.
    #[command(after_help = "Examples:
  aoai check gateway.yaml
  aoai check gateways/ test.yaml
  helm template . | yq '.data.\"gateway.yaml\"' | aoai check -")]
    Check {
        /// YAML or JSON files, - for standard input, or directories of such files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Test from this machine whether the proxy can serve a configuration.
    ///
    /// Takes the same steps as the proxy: checks the configuration, resolves the host names and
    /// verifies the certificates of all endpoints, gets a token for each identity in use, and sends
    /// one request to each deployment, which costs nothing. Prints no token and no other secret. Exit
    /// status: 0 when the proxy can serve, 1 when there are problems, 2 when the file cannot be read
    /// or an option does not fit the document.
    ///
    /// The request is a chat completion with an empty body. Azure checks the body last: when Azure
    /// responds that a field is missing, or that the model does not support chat completions, then
    /// the network, the token, the role and the deployment are correct. The request does not test
    /// whether the quota is sufficient.
    #[command(after_help = "Examples:
  aoai doctor gateway.yaml
  aoai doctor gateway.yaml --identity-endpoint http://127.0.0.1:8000
  aoai doctor gateway.yaml --gateway https://ai.example.com --metrics http://127.0.0.1:9090
  aoai doctor gateway.yaml --json | jq '.steps[] | select(.result == \"fail\")'")]
    Doctor(doctor::Options),
    /// Explain an error: its cause and its remedy.
    ///
    /// Of Azure, a local reply of the gateway, Envoy's own reply, or a line of the log.
    ///
    /// Reads the error from standard input, in any form: the body of a response, a whole response,
    /// an exception of a client, a line of a log. The input is not printed again. Exit status: 0 when
    /// the error is explained, 1 when it is not known, 2 when there is nothing to explain.
    #[command(after_help = "Examples:
  curl -s … | aoai explain
  aoai explain < error.txt
  aoai explain role_missing
  aoai explain --list")]
    Explain(explain::Options),
    /// Sum up access logs: requests and tokens by subscription, model and day.
    ///
    /// Reads what Envoy writes with the document's `listener.access_log: json`, from files or from standard
    /// input. Lines that are none of these do not count, and their number is told. A request that got a local
    /// reply of the gateway is `refused`. Exit status: 0 when the sums are printed, 1 when there is no line of an
    /// access log, 2 when a file cannot be read.
    #[command(after_help = "Examples:
  kubectl logs deployment/aoai --since=24h | aoai usage
  aoai usage access.log --by subscription
  aoai usage access-*.log --by day,subscription --format csv > usage.csv")]
    Usage(usage::Options),
    /// Print an Envoy configuration
    #[command(subcommand)]
    Render(render::Command),
    /// Create subscription keys and their digests
    #[command(subcommand)]
    Key(key::Command),
    /// Print the JSON Schema of configurations, for editors.
    ///
    /// An editor that has it completes fields, describes them, and reports what does not have the form of a
    /// configuration. aoai check also finds what a schema cannot, such as names that nothing has.
    #[command(after_help = "Examples:
  aoai schema > aoai.schema.json
  # and, for editors with the YAML language server, as the first line of gateway.yaml:
  # yaml-language-server: $schema=aoai.schema.json")]
    Schema,
    /// Print what has a shell complete the words of this command.
    #[command(after_help = "Examples:
  aoai completions bash > /etc/bash_completion.d/aoai
  aoai completions zsh > ~/.zsh/completions/_aoai
  aoai completions fish > ~/.config/fish/completions/aoai.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check { files } => check::run(&files),
        Command::Doctor(options) => doctor::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Usage(options) => usage::run(&options),
        Command::Render(command) => render::run(&command),
        Command::Key(command) => key::run(&command),
        Command::Schema => print_whole(include_bytes!("schema.json")),
        Command::Completions { shell } => completions(shell),
    }
}

fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "aoai", &mut script);
    print_whole(&script)
}

/// Prints a text whole. Where it cannot be, because the reader of standard output has gone, that is an error.
fn print_whole(text: &[u8]) -> ExitCode {
    match io::stdout().write_all(text) {
        Ok(()) => Outcome::Success.into(),
        Err(error) => document::print_error(&error).into(),
    }
}
