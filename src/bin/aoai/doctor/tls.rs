//! TLS as Envoy is told to speak it to Azure: the endpoint's name in SNI and in the certificate, and the
//! authorities of one file.

use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};

use super::network::within;
use super::report::{Step, Verdict};
use super::trouble::Trouble;

/// Whom to believe who an endpoint is.
pub(super) struct Trust {
    file: String,
    certificates: Result<Vec<CertificateDer<'static>>, String>,
    config: Arc<ClientConfig>,
}

impl Trust {
    /// Reads a file of certificate authorities. What is wrong with it is told where it is needed.
    pub(super) fn read(file: &str) -> Self {
        let certificates = read(Path::new(file)).and_then(|all| match all.is_empty() {
            true => Err("it holds no certificate".to_owned()),
            false => Ok(all),
        });
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().flatten().cloned());
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { file: file.to_owned(), certificates, config: Arc::new(config) }
    }

    /// The authorities, for another client of TLS.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.certificates.iter().flatten()
    }
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    all.map_err(|_| "it is no PEM file of certificates".to_owned())
}

/// Connects, and lets the endpoint prove that it has this name.
pub(super) fn handshake(
    subject: &str,
    host: &str,
    address: SocketAddr,
    trust: &Trust,
    timeout: Duration,
) -> Step {
    let step = |verdict, text: String| {
        Step::new(verdict, subject, "tls", text).with("address", address.to_string())
    };
    if let Err(why) = &trust.certificates {
        let file = &trust.file;
        let text = format!("cannot use the certificate authorities of {file}: {why}. See --ca");
        return step(Verdict::Fail, text);
    }
    let (config, name) = (Arc::clone(&trust.config), host.to_owned());
    let shaken = within(timeout, move || shake(&name, address, config, timeout));
    match shaken.unwrap_or(Err(Trouble::TimedOut(timeout))) {
        Ok(version) => step(Verdict::Ok, format!("{version}, with a certificate for {host}")),
        Err(trouble) => {
            step(Verdict::Fail, format!("{address} {}", trouble.with_file(&trust.file)))
        }
    }
}

/// The version of TLS that was agreed on.
fn shake(
    host: &str,
    address: SocketAddr,
    config: Arc<ClientConfig>,
    timeout: Duration,
) -> Result<String, Trouble> {
    let io = |error: io::Error| Trouble::of_io(&error, timeout);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Trouble::NoName)?;
    let mut socket = TcpStream::connect_timeout(&address, timeout).map_err(io)?;
    let mut connection =
        ClientConnection::new(config, name).map_err(|error| Trouble::of_tls(&error))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(io)?;
    }
    let version = connection.protocol_version().and_then(|version| version.as_str());
    Ok(version.unwrap_or("TLS").replace("TLSv1_", "TLS 1."))
}

/// What is wrong with a certificate, and what that often comes from.
pub(super) fn of_certificate(error: &CertificateError, file: &dyn Display) -> String {
    use CertificateError as Error;
    match error {
        Error::UnknownIssuer => format!(
            "proves its name by a certificate of an authority that is not in {file}: something on \
             the way answers in the endpoint's place, such as a proxy that looks into TLS, or --ca is \
             another file than Envoy's"
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
                "has a certificate for another name ({names}): the DNS leads somewhere else, or \
                 something on the way answers in the endpoint's place"
            )
        }
        Error::Expired | Error::ExpiredContext { .. } => {
            "has a certificate that has expired, by this machine's clock".to_owned()
        }
        Error::NotValidYet | Error::NotValidYetContext { .. } => {
            "has a certificate that is not valid yet, by this machine's clock".to_owned()
        }
        _ => format!("has a certificate that is not accepted: {error}"),
    }
}
