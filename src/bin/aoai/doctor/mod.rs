//! `aoai doctor`: does what the proxy will do, from where it runs, and says what is wrong on the way.
//!
//! What depends on a step that has failed is skipped; everything else is done, so that one run shows
//! all that is to be mended.

mod backend;
mod http;
mod network;
mod report;
mod sign_in;
mod tls;
mod trouble;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime};

use aoai_filter::config::{Config, Identity, Problems};
use clap::Args;

use self::network::Place;
use self::report::{Report, Step, Verdict};
use self::sign_in::{IdentityEndpoint, SignedIn};
use self::tls::Trust;
use crate::check::Summary;
use crate::document::{self, Unopened};
use crate::render::resolve::{self, Resolve};
use crate::render::sign_in::sign_ins;
use crate::Outcome;

/// How to examine.
#[derive(Args)]
pub(crate) struct Options {
    /// A YAML or JSON file, or - for standard input
    file: PathBuf,
    /// Print one JSON document with all steps
    #[arg(long)]
    json: bool,
    /// How long a step may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
    /// Where identity endpoints answer, instead of where they usually do
    ///
    /// http://IP:PORT, or https://IP:PORT for Entra ID, whose certificate has to be the right one.
    #[arg(long, value_name = "URL")]
    identity_endpoint: Option<IdentityEndpoint>,
    /// Reach a backend, or an identity's cluster, at this address: as in aoai render envoy. Repeatable
    ///
    /// NAME=IP:PORT is a port of this machine without TLS, for trying things out. NAME=https://IP:PORT
    /// is any address, where the certificate has to be the right one.
    #[arg(long, value_name = "NAME=IP:PORT")]
    resolve: Vec<Resolve>,
    /// The certificate authorities by which backends and Entra ID prove who they are, a PEM file
    #[arg(long, value_name = "PATH", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    ca: String,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).ok().filter(|one| !one.is_zero());
    duration.ok_or_else(|| "expected a duration such as 500ms or 10s".to_owned())
}

/// What every step needs to know.
struct Site<'a> {
    options: &'a Options,
    trust: Trust,
    now: SystemTime,
}

impl Site<'_> {
    /// Where a backend is, if an option says so.
    fn resolved(&self, name: &str) -> Option<Place> {
        let found = resolve::resolved(&self.options.resolve, name)?;
        Some(Place { address: found.address, tls: found.tls })
    }

    /// Where the cluster of an identity leads to, if an option says so.
    fn elsewhere(&self, cluster: &str) -> Option<Place> {
        let endpoint = self.options.identity_endpoint.map(|IdentityEndpoint(place)| place);
        self.resolved(cluster).or(endpoint)
    }
}

/// Examines a document.
pub(crate) fn run(options: &Options) -> ExitCode {
    examine(options).unwrap_or_else(|outcome| outcome).into()
}

fn examine(options: &Options) -> Result<Outcome, Outcome> {
    let mut report = Report::new(options.json);
    let document = match document::load(&options.file) {
        Ok(document) => document,
        Err(Unopened::Unreadable(error)) => {
            return Err(document::unreadable(&options.file, &error));
        }
        Err(Unopened::Wrong(problems)) => return Ok(refuse(report, &problems)),
    };
    let config = &document.config;
    let sign_ins = match sign_ins(config) {
        Ok(sign_ins) => sign_ins,
        Err(problems) => return Ok(refuse(report, &problems)),
    };
    resolve::check(&options.resolve, config, &sign_ins)
        .map_err(|error| document::complain(&error))?;
    check_endpoint(options, config).map_err(|error| document::complain(&error))?;

    report.fit(config);
    report.add(Step::new(Verdict::Ok, "configuration", "", Summary(config).to_string()));
    let site = Site { options, trust: Trust::read(&options.ca), now: now() };
    let signed_in = sign_all_in(config, &site, &mut report);
    examine_backends(config, &signed_in, &site, &mut report);
    Ok(report.finish())
}

/// A document that the proxy would not accept.
fn refuse(mut report: Report, problems: &Problems) -> Outcome {
    for problem in problems.iter() {
        let step = Step::new(Verdict::Fail, "configuration", "", problem.to_string());
        report.add(step.with("path", problem.path()));
    }
    let text = "the document has to be right first";
    report.add(Step::new(Verdict::Skip, "all else", "", text));
    report.finish()
}

/// Only Entra ID speaks TLS, and nothing but this machine gets a proof without it: a link-local address
/// is any neighbour's.
fn check_endpoint(options: &Options, config: &Config) -> Result<(), Misfit> {
    let Some(IdentityEndpoint(place)) = options.identity_endpoint else {
        return Ok(());
    };
    for one in &config.credentials {
        let name = || one.name.clone();
        match (&one.identity, place.tls) {
            (Identity::Application(_), false) if !place.address.ip().is_loopback() => {
                return Err(Misfit::InTheClear { name: name(), address: place.address });
            }
            (Identity::Managed { .. } | Identity::AppService { .. }, true) => {
                return Err(Misfit::NoTls { name: name() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Why an `--identity-endpoint` is none of an identity.
#[derive(Debug, thiserror::Error)]
enum Misfit {
    #[error("--identity-endpoint: the endpoint of identity {name} speaks no TLS; write http://")]
    NoTls { name: String },
    #[error(
        "--identity-endpoint: identity {name} proves itself by a secret, and there is no TLS on the way \
         to {address}: expected an address of this machine, or https://{address}"
    )]
    InTheClear { name: String, address: SocketAddr },
}

/// One identity after the other: their endpoints do not like bursts.
fn sign_all_in(config: &Config, site: &Site<'_>, report: &mut Report) -> Vec<Option<SignedIn>> {
    let mut all = Vec::new();
    for (position, credential) in config.credentials.iter().enumerate() {
        let is_used = config.backends.iter().any(|one| one.credential == position);
        let (steps, signed_in) = if is_used {
            sign_in::sign_in(credential, site)
        } else {
            let subject = format!("identity {}", credential.name);
            let text = "no backend signs in with this identity";
            (vec![Step::new(Verdict::Skip, &subject, "token", text)], None)
        };
        steps.into_iter().for_each(|step| report.add(step));
        all.push(signed_in);
    }
    all
}

/// All backends at once, told in their order.
fn examine_backends(
    config: &Config,
    signed_in: &[Option<SignedIn>],
    site: &Site<'_>,
    report: &mut Report,
) {
    thread::scope(|scope| {
        let started: Vec<_> = config
            .backends
            .iter()
            .map(|backend| {
                let credential = config.credentials.get(backend.credential);
                let token = signed_in.get(backend.credential).and_then(Option::as_ref);
                scope.spawn(move || backend::examine(backend, config, credential, token, site))
            })
            .collect();
        for (backend, thread) in config.backends.iter().zip(started) {
            let steps = thread.join().unwrap_or_else(|_| {
                let subject = format!("backend {}", backend.name);
                vec![Step::new(Verdict::Fail, &subject, "", "the doctor itself has failed here")]
            });
            steps.into_iter().for_each(|step| report.add(step));
        }
    });
}

#[allow(clippy::disallowed_methods, reason = "the tool is where time comes from, as the edge is")]
fn now() -> SystemTime {
    SystemTime::now()
}
