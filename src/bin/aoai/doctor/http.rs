//! Requests as the proxy sends them: to a place that is known already, without redirects, without the
//! proxies that the environment names, and bounded in time and size.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use aoai_filter::identity::secret::Secret;
use aoai_filter::identity::{Reply, Request};
use ureq::http;
use ureq::tls::{Certificate, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::network::Place;
use super::tls::Trust;
use super::trouble::Trouble;

/// As much of an answer as the module reads.
const LONGEST_BODY: u64 = 64 * 1024;

const USER_AGENT: &str = concat!("aoai-doctor/", env!("CARGO_PKG_VERSION"));

/// An answer of whatever status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The same without what was sent: an endpoint may repeat it, and what it says is shown. Before
    /// anything is cut off, or a part would stay.
    pub(super) fn without(mut self, secrets: &[Secret]) -> Self {
        let Ok(text) = std::str::from_utf8(&self.body) else {
            return self;
        };
        let mut text = text.to_owned();
        for secret in secrets.iter().map(Secret::expose).filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "…");
        }
        self.body = text.into_bytes();
        self
    }

    /// As the core reads it.
    pub(super) fn into_reply(self) -> Reply {
        let Self { status, retry_after, body } = self;
        Reply::Answer { status, retry_after, body }
    }
}

/// Sends a request to a place, whatever name it is for.
pub(super) fn send(
    request: &Request,
    secret_header: Option<(&str, &Secret)>,
    place: Place,
    trust: &Trust,
    timeout: Duration,
) -> Result<Answer, Trouble> {
    let pseudo = |name| {
        let found = request.headers.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let scheme = if place.tls { "https" } else { "http" };
    let uri = format!("{scheme}://{}{}", pseudo(":authority"), pseudo(":path"));
    let mut head = http::Request::builder().method(pseudo(":method")).uri(uri);
    for (name, value) in request.headers.iter().filter(|(name, _)| !name.starts_with(':')) {
        head = head.header(*name, value);
    }
    if let Some((name, value)) = secret_header {
        head = head.header(name, value.expose());
    }
    let agent = agent(place.address, trust, timeout);
    let invalid = |_| Trouble::Other("the request cannot be written".to_owned());
    let sent = match &request.body {
        Some(body) => agent.run(head.body(body.expose()).map_err(invalid)?),
        None => agent.run(head.body(()).map_err(invalid)?),
    };
    let response = sent.map_err(|error| trouble(&error, timeout))?;
    let (head, body) = response.into_parts();
    let retry_after = head.headers.get("retry-after").and_then(|value| value.to_str().ok());
    let mut answer = Answer {
        status: head.status.as_u16(),
        retry_after: retry_after.map(str::to_owned),
        body: Vec::new(),
    };
    let read = body.into_reader().take(LONGEST_BODY).read_to_end(&mut answer.body);
    match read {
        Ok(_) => Ok(answer),
        Err(error) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(inner) => trouble(inner, timeout),
            None => Trouble::of_io(&error, timeout),
        }),
    }
}

fn agent(address: SocketAddr, trust: &Trust, timeout: Duration) -> ureq::Agent {
    let roots = trust.certificates().map(|one| Certificate::from_der(one).to_owned());
    let tls = TlsConfig::builder().root_certs(ureq::tls::RootCerts::from(roots)).build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .user_agent(USER_AGENT)
        .build();
    ureq::Agent::with_parts(config, DefaultConnector::default(), Known(address))
}

fn trouble(error: &ureq::Error, timeout: Duration) -> Trouble {
    match error {
        ureq::Error::Io(error) => Trouble::of_io(error, timeout),
        ureq::Error::Timeout(_) | ureq::Error::BodyStalled => Trouble::TimedOut(timeout),
        ureq::Error::Rustls(error) => Trouble::of_tls(error),
        ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::LargeResponseHeader(..) => {
            Trouble::NotHttp
        }
        // Its words may repeat what was sent.
        _ => Trouble::Other("the request failed".to_owned()),
    }
}

/// The address of every name.
#[derive(Debug)]
struct Known(SocketAddr);

impl Resolver for Known {
    fn resolve(
        &self,
        _: &http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut all = self.empty();
        all.push(self.0);
        Ok(all)
    }
}
