//! Why there is no response: as many cases as have different remedies.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::CertificateError;

/// Why a connection or a request failed.
#[derive(Debug)]
pub(super) enum TransportError {
    /// No response within this time.
    TimedOut(Duration),
    /// Nothing listens on the port.
    Refused,
    /// There is no route to it.
    Unreachable,
    /// The other side ended the connection.
    Closed,
    /// Its certificate is not accepted.
    Certificate(CertificateError),
    /// It sent a TLS alert.
    Alert(String),
    /// It does not use TLS.
    NotTls,
    /// It does not use HTTP.
    NotHttp,
    /// No certificate can contain this host name.
    NoName,
    /// Another error, with the system's message.
    Other(String),
}

impl TransportError {
    /// From the error of a socket.
    pub(super) fn of_io(error: &io::Error, timeout: Duration) -> Self {
        use io::ErrorKind as Kind;
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Self::of_tls(error);
        }
        match error.kind() {
            Kind::TimedOut | Kind::WouldBlock => Self::TimedOut(timeout),
            Kind::ConnectionRefused => Self::Refused,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
                Self::Unreachable
            }
            Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::UnexpectedEof => Self::Closed,
            kind => Self::Other(kind.to_string()),
        }
    }

    /// From the error of TLS.
    pub(super) fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Certificate(error.clone()),
            rustls::Error::AlertReceived(alert) => Self::Alert(format!("{alert:?}")),
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            other => Self::Other(other.to_string()),
        }
    }

    /// A predicate, to be written after its subject. `file` is the CA bundle.
    pub(super) fn with_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        WithFile { error: self, file }
    }
}

struct WithFile<'a> {
    error: &'a TransportError,
    file: &'a str,
}

impl fmt::Display for WithFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error {
            TransportError::TimedOut(timeout) => write!(
                f,
                "does not respond within {}: check firewalls and routes, or set a longer --timeout",
                humantime::format_duration(*timeout)
            ),
            TransportError::Refused => {
                f.write_str("refuses the connection: nothing listens on this port, or a firewall rejects it")
            }
            TransportError::Unreachable => f.write_str("cannot be reached: there is no route to it"),
            TransportError::Closed => f.write_str(
                "closes the connection without a response; firewalls do this for host names that they \
                 do not allow",
            ),
            TransportError::Certificate(error) => f.write_str(&of_certificate(error, &self.file)),
            TransportError::Alert(alert) => write!(f, "rejects the TLS handshake: {alert}"),
            TransportError::NotTls => f.write_str("does not use TLS"),
            TransportError::NotHttp => f.write_str("sends a response that is not HTTP"),
            TransportError::NoName => f.write_str("has a host name that no certificate can contain"),
            TransportError::Other(what) => write!(f, "does not respond: {what}"),
        }
    }
}

/// The problem of a certificate, and its usual cause.
fn of_certificate(error: &CertificateError, file: &dyn fmt::Display) -> String {
    use CertificateError as Error;
    match error {
        Error::UnknownIssuer => format!(
            "has a certificate of an authority that is not in {file}: another server responds in its \
             place, such as a proxy that inspects TLS, or --ca is not the file that Envoy uses"
        ),
        Error::NotValidForName | Error::NotValidForNameContext { .. } => {
            let names: Vec<_> = match error {
                // rustls writes them as DnsName("…").
                Error::NotValidForNameContext { presented, .. } => {
                    presented.iter().map(|one| one.split('"').nth(1).unwrap_or(one)).collect()
                }
                _ => Vec::new(),
            };
            let names = names.join(", ");
            format!(
                "has a certificate for another name ({names}): DNS returns a wrong address, or another \
                 server responds in its place, such as a proxy that inspects TLS"
            )
        }
        Error::Expired | Error::ExpiredContext { .. } => {
            "has a certificate that has expired, according to the clock of this machine".to_owned()
        }
        Error::NotValidYet | Error::NotValidYetContext { .. } => {
            "has a certificate that is not valid yet, according to the clock of this machine".to_owned()
        }
        _ => format!("has a certificate that is not accepted: {error}"),
    }
}
