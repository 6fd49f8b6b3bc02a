//! TLS as Envoy is configured for Azure: the endpoint's host name in SNI and in the certificate, and the
//! certificate authorities of one file.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::network::within;
use super::report::{Step, Verdict};
use super::transport_error::TransportError;

/// The CA bundle that server certificates are verified against.
pub(super) struct RootCertificates {
    file: String,
    certificates: Result<Vec<CertificateDer<'static>>, String>,
    config: Arc<ClientConfig>,
}

impl RootCertificates {
    /// Reads a CA bundle. Its error is reported by the steps that need it.
    pub(super) fn read(file: &str) -> Self {
        let certificates = read(Path::new(file)).and_then(|all| match all.is_empty() {
            true => Err("it contains no certificate".to_owned()),
            false => Ok(all),
        });
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().flatten().cloned());
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { file: file.to_owned(), certificates, config: Arc::new(config) }
    }

    /// The certificates, for the HTTP client.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.certificates.iter().flatten()
    }
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    all.map_err(|_| "it is not a PEM file of certificates".to_owned())
}

/// Connects, and verifies the endpoint's certificate for this host name.
pub(super) fn handshake(
    subject: &str,
    host: &str,
    address: SocketAddr,
    root_certificates: &RootCertificates,
    timeout: Duration,
) -> Step {
    let step = |verdict, text: String| {
        Step::new(verdict, subject, "tls", text).with("address", address.to_string())
    };
    if let Err(error) = &root_certificates.certificates {
        let file = &root_certificates.file;
        let text = format!("cannot use the CA bundle {file}: {error}. See --ca");
        return step(Verdict::Fail, text);
    }
    let (config, name) = (Arc::clone(&root_certificates.config), host.to_owned());
    let done = within(timeout, move || tls_handshake(&name, address, config, timeout));
    match done.unwrap_or(Err(TransportError::TimedOut(timeout))) {
        Ok(version) => step(Verdict::Ok, format!("{version}, with a certificate for {host}")),
        Err(error) => {
            step(Verdict::Fail, format!("{address} {}", error.with_file(&root_certificates.file)))
        }
    }
}

/// Does the handshake, and returns the negotiated version of TLS.
fn tls_handshake(
    host: &str,
    address: SocketAddr,
    config: Arc<ClientConfig>,
    timeout: Duration,
) -> Result<String, TransportError> {
    let io = |error: io::Error| TransportError::of_io(&error, timeout);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TransportError::NoName)?;
    let mut socket = TcpStream::connect_timeout(&address, timeout).map_err(io)?;
    let mut connection =
        ClientConnection::new(config, name).map_err(|error| TransportError::of_tls(&error))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(io)?;
    }
    let version = connection.protocol_version().and_then(|version| version.as_str());
    Ok(version.unwrap_or("TLS").replace("TLSv1_", "TLS 1."))
}
