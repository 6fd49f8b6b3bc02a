//! Requests as the proxy sends them: to a known address, without redirects, without the proxies of the
//! environment, and limited in time and size.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use aoai_filter::base::secret::Secret;
use aoai_filter::identity::{CalloutResponse, Request};
use ureq::http;
use ureq::tls::{Certificate, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::network::Place;
use super::tls::RootCertificates;
use super::transport_error::TransportError;

/// As much of a response as the module reads.
pub(super) const LONGEST_BODY: u64 = 64 * 1024;

const USER_AGENT: &str = concat!("aoai-doctor/", env!("CARGO_PKG_VERSION"));

/// A response of any status.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Response {
    /// The same without the secrets that were sent: an endpoint may repeat them, and its message is
    /// printed. To be done before the message is shortened, or a part of a secret could remain.
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

    /// The response as the core reads it.
    pub(super) fn into_reply(self) -> CalloutResponse {
        let Self { status, retry_after, body } = self;
        CalloutResponse::Response { status, retry_after, body }
    }
}

/// Sends a request to this address, whatever host name it has, and reads as much of the body of its response.
pub(super) fn send(
    request: &Request,
    secret_header: Option<(&str, &Secret)>,
    place: Place,
    longest_body: u64,
    root_certificates: &RootCertificates,
    timeout: Duration,
) -> Result<Response, TransportError> {
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
    let agent = agent(place.address, root_certificates, timeout);
    let invalid = |_| TransportError::Other("the request cannot be written".to_owned());
    let sent = match &request.body {
        Some(body) => agent.run(head.body(body.expose()).map_err(invalid)?),
        None => agent.run(head.body(()).map_err(invalid)?),
    };
    let response = sent.map_err(|error| transport_error(&error, timeout))?;
    let (head, body) = response.into_parts();
    let retry_after = head.headers.get("retry-after").and_then(|value| value.to_str().ok());
    let mut response = Response {
        status: head.status.as_u16(),
        retry_after: retry_after.map(str::to_owned),
        body: Vec::new(),
    };
    let read = body.into_reader().take(longest_body).read_to_end(&mut response.body);
    match read {
        Ok(_) => Ok(response),
        Err(error) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(inner) => transport_error(inner, timeout),
            None => TransportError::of_io(&error, timeout),
        }),
    }
}

fn agent(
    address: SocketAddr,
    root_certificates: &RootCertificates,
    timeout: Duration,
) -> ureq::Agent {
    let roots = root_certificates.certificates().map(|one| Certificate::from_der(one).to_owned());
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

fn transport_error(error: &ureq::Error, timeout: Duration) -> TransportError {
    match error {
        ureq::Error::Io(error) => TransportError::of_io(error, timeout),
        ureq::Error::Timeout(_) | ureq::Error::BodyStalled => TransportError::TimedOut(timeout),
        ureq::Error::Rustls(error) => TransportError::of_tls(error),
        ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::LargeResponseHeader(..) => {
            TransportError::NotHttp
        }
        // Its text may repeat what was sent.
        _ => TransportError::Other("the request failed".to_owned()),
    }
}

/// Resolves every name to this address.
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
