//! `aoai doctor`: takes the steps that the proxy will take, from the machine where it runs, and reports
//! every problem.
//!
//! Steps that depend on a failed step are skipped; all others are done, so that one run shows all
//! problems.

mod address;
mod backend;
mod context;
mod gateway;
mod http;
mod identity_endpoint;
mod network;
mod report;
mod sign_in;
mod tls;
mod transport_error;

use std::process::ExitCode;
use std::thread;
use std::time::SystemTime;

use aoai_filter::config::{Config, Identity, Problems};

pub(crate) use self::context::Options;
use self::report::{Report, Step, Verdict};

use self::context::Context;
use self::identity_endpoint::{EndpointError, IdentityEndpoint};
use self::sign_in::SignedIn;
use self::tls::RootCertificates;
use crate::check::Summary;
use crate::document::{self, LoadError};
use crate::outcome::Outcome;
use crate::render::destinations::Destinations;
use crate::render::resolve;
use crate::render::sign_in::sign_ins;

/// Examines a document and prints the report.
pub(crate) fn run(options: &Options) -> ExitCode {
    examine(options).unwrap_or_else(|outcome| outcome).into()
}

fn examine(options: &Options) -> Result<Outcome, Outcome> {
    let mut report = Report::new(options.json);
    let document = match document::load(&options.file) {
        Ok(document) => document,
        Err(LoadError::Unreadable(error)) => {
            return Err(document::unreadable(&options.file, &error));
        }
        Err(LoadError::Invalid(problems)) => return Ok(refuse(report, &problems)),
    };
    let config = &document.config;
    let sign_ins = match sign_ins(config) {
        Ok(sign_ins) => sign_ins,
        Err(problems) => return Ok(refuse(report, &document.locate(problems))),
    };
    resolve::check(&options.resolve, &Destinations::of(config, &sign_ins, &[]))
        .map_err(|error| document::print_error(&error))?;
    check_endpoint(options, config).map_err(|error| document::print_error(&error))?;

    report.fit(config);
    report.add(Step::new(Verdict::Ok, "configuration", "", Summary(config).to_string()));
    let context =
        Context { options, root_certificates: RootCertificates::read(&options.ca), now: now() };
    let signed_in = sign_all_in(config, &context, &mut report);
    examine_backends(config, &signed_in, &context, &mut report);
    gateway::examine(config, &context).into_iter().for_each(|step| report.add(step));
    Ok(report.finish())
}

/// Reports a document that the proxy would not accept.
fn refuse(mut report: Report, problems: &Problems) -> Outcome {
    for problem in problems.iter() {
        let step = Step::new(Verdict::Fail, "configuration", "", problem.to_string());
        report.add(step.with("path", problem.path()));
    }
    let text = "skipped: the configuration has problems";
    report.add(Step::new(Verdict::Skip, "other steps", "", text));
    report.finish()
}

/// Only Entra ID uses TLS. Without TLS, a client assertion or client secret goes to this machine only: a
/// link-local address may belong to any machine of the network.
fn check_endpoint(options: &Options, config: &Config) -> Result<(), EndpointError> {
    let Some(IdentityEndpoint(place)) = options.identity_endpoint else {
        return Ok(());
    };
    for one in &config.credentials {
        let name = || one.name.clone();
        match (&one.identity, place.tls) {
            (Identity::Application(_), false) if !place.address.ip().is_loopback() => {
                return Err(EndpointError::SecretInClearText {
                    name: name(),
                    address: place.address,
                });
            }
            (Identity::Managed { .. } | Identity::AppService { .. }, true) => {
                return Err(EndpointError::NoTls { name: name() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// One identity after the other, because identity endpoints limit the rate of requests.
fn sign_all_in(
    config: &Config,
    context: &Context<'_>,
    report: &mut Report,
) -> Vec<Option<SignedIn>> {
    let mut all = Vec::new();
    for (position, credential) in config.credentials.iter().enumerate() {
        let is_used = config.backends.iter().any(|one| one.credential == position);
        let (steps, signed_in) = if is_used {
            sign_in::sign_in(credential, context)
        } else {
            let subject = format!("identity {}", credential.name);
            let text = "skipped: no backend uses this identity";
            (vec![Step::new(Verdict::Skip, &subject, "token", text)], None)
        };
        steps.into_iter().for_each(|step| report.add(step));
        all.push(signed_in);
    }
    all
}

/// All backends at the same time, reported in the order of the document.
fn examine_backends(
    config: &Config,
    signed_in: &[Option<SignedIn>],
    context: &Context<'_>,
    report: &mut Report,
) {
    thread::scope(|scope| {
        let started: Vec<_> = config
            .backends
            .iter()
            .map(|backend| {
                let credential = config.credentials.get(backend.credential);
                let token = signed_in.get(backend.credential).and_then(Option::as_ref);
                scope.spawn(move || backend::examine(backend, config, credential, token, context))
            })
            .collect();
        for (backend, thread) in config.backends.iter().zip(started) {
            let steps = thread.join().unwrap_or_else(|_| {
                let subject = format!("backend {}", backend.name);
                vec![Step::new(Verdict::Fail, &subject, "", "internal error of aoai doctor")]
            });
            steps.into_iter().for_each(|step| report.add(step));
        }
    });
}

#[allow(
    clippy::disallowed_methods,
    reason = "the tool reads the clock, as the edge does in the module"
)]
fn now() -> SystemTime {
    SystemTime::now()
}
