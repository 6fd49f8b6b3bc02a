//! Why there is no answer: told apart as far as it helps to mend it.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::CertificateError;

use super::tls::of_certificate;

/// Why a connection or a request came to nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nothing came within this time.
    TimedOut(Duration),
    /// Nobody listens there.
    Refused,
    /// There is no way to it.
    Unreachable,
    /// The other side ended the connection.
    Closed,
    /// Its certificate is not accepted.
    Certificate(CertificateError),
    /// It sends a TLS alert.
    Alert(String),
    /// It speaks something else than TLS.
    NotTls,
    /// It speaks something else than HTTP.
    NotHttp,
    /// No certificate can have this name.
    NoName,
    /// Something else, in the words of the system.
    Other(String),
}

impl Trouble {
    /// From what a socket says.
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

    /// From what TLS says.
    pub(super) fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Certificate(error.clone()),
            rustls::Error::AlertReceived(alert) => Self::Alert(format!("{alert:?}")),
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            other => Self::Other(other.to_string()),
        }
    }

    /// As a predicate that follows whom it is about. `file` has the certificate authorities.
    pub(super) fn with_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        Told { trouble: self, file }
    }
}

struct Told<'a> {
    trouble: &'a Trouble,
    file: &'a str,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.trouble {
            Trouble::TimedOut(timeout) => write!(
                f,
                "does not answer within {}: a firewall or a route, or --timeout is too short",
                humantime::format_duration(*timeout)
            ),
            Trouble::Refused => {
                f.write_str("refuses the connection: nothing listens there, or a firewall says no")
            }
            Trouble::Unreachable => f.write_str("cannot be reached: there is no route to it"),
            Trouble::Closed => f.write_str(
                "closes the connection instead of answering; firewalls do so with names that they do \
                 not allow",
            ),
            Trouble::Certificate(error) => f.write_str(&of_certificate(error, &self.file)),
            Trouble::Alert(alert) => write!(f, "refuses the TLS handshake: {alert}"),
            Trouble::NotTls => f.write_str("does not speak TLS"),
            Trouble::NotHttp => f.write_str("answers, and not in HTTP"),
            Trouble::NoName => f.write_str("has a name that no certificate can have"),
            Trouble::Other(what) => write!(f, "gives no answer: {what}"),
        }
    }
}
