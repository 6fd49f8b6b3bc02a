//! The address of an Azure OpenAI resource, and the addresses at which tokens do not work.

mod error;
mod host;
#[cfg(test)]
mod tests;
mod url;

pub use error::EndpointError;

use host::{is_host_name, is_label, is_within, HTTPS_PORT};
use url::Url;

/// The domains below which a resource has its custom subdomain: public cloud, Government, China.
/// <https://learn.microsoft.com/azure/ai-services/cognitive-services-custom-subdomains>
const SUBDOMAINS_OF: [&str; 7] = [
    "openai.azure.com",
    "cognitiveservices.azure.com",
    "services.ai.azure.com",
    "openai.azure.us",
    "cognitiveservices.azure.us",
    "openai.azure.cn",
    "cognitiveservices.azure.cn",
];

/// The domains of regional endpoints, which accept API keys only, and where the resources of the
/// same cloud have their custom subdomains.
const REGIONAL: [(&str, &str); 4] = [
    ("api.cognitive.microsoft.com", "openai.azure.com"),
    ("api.cognitive.microsoft.us", "openai.azure.us"),
    ("api.cognitive.azure.us", "openai.azure.us"),
    ("api.cognitive.azure.cn", "openai.azure.cn"),
];

/// The address of an Azure OpenAI resource at which Entra ID tokens work.
///
/// It is a custom subdomain such as `contoso-eastus.openai.azure.com`, or a name that its author
/// vouches for, which may have a port. It speaks TLS. Its host is lower-case ASCII and never a
/// regional endpoint, an IP address or OpenAI's own service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    authority: String,
    host_length: usize,
    port: u16,
}

impl Endpoint {
    /// Reads the URL of a resource, `https://NAME.openai.azure.com` or of another of Azure's clouds.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        Self::read(text, false)
    }

    /// Reads the URL of a resource with a host of the author's choice (`custom_domain: true`): its host
    /// need not be below a domain of Azure OpenAI, and it may have a port. The addresses at which
    /// a token cannot work stay refused.
    pub fn parse_custom_domain(text: &str) -> Result<Self, EndpointError> {
        Self::read(text, true)
    }

    fn read(text: &str, custom_domain: bool) -> Result<Self, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        let url = Url::split(text);
        let host = url.host.to_ascii_lowercase();
        // A trailing dot only marks the name as complete.
        let host = host.strip_suffix('.').unwrap_or(&host);
        // A host at which tokens cannot work is reported before mistakes in the form of the URL.
        refuse_host(host)?;
        if host.is_empty() {
            return Err(EndpointError::MissingHost);
        }
        url.refuse_form(host)?;
        let port = url.port(host)?;
        refuse_name(host, custom_domain)?;
        if port == HTTPS_PORT {
            return Ok(Self { authority: host.to_owned(), host_length: host.len(), port });
        }
        if !custom_domain {
            return Err(EndpointError::Port { host: host.to_owned(), port });
        }
        Ok(Self { authority: format!("{host}:{port}"), host_length: host.len(), port })
    }

    /// The value of `Host` or `:authority`: the host, and `:port` if it is not 443.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host alone, as in a certificate.
    pub fn host(&self) -> &str {
        self.authority.get(..self.host_length).unwrap_or(&self.authority)
    }

    /// The port, 443 unless the document has another.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Refuses hosts at which an Entra ID token cannot work, or must never be sent.
fn refuse_host(host: &str) -> Result<(), EndpointError> {
    if let Some((_, cloud)) = REGIONAL.iter().find(|(domain, _)| is_within(host, domain)) {
        return Err(EndpointError::Regional { host: host.to_owned(), cloud });
    }
    for domain in SUBDOMAINS_OF {
        let zone = host.strip_suffix(domain).and_then(|name| name.strip_suffix("privatelink."));
        if let Some(name) = zone.filter(|name| name.is_empty() || name.ends_with('.')) {
            let name = if name.is_empty() { "NAME." } else { name };
            let public = format!("{name}{domain}");
            return Err(EndpointError::PrivateLink { host: host.to_owned(), public });
        }
    }
    if is_within(host, "openai.com") {
        return Err(EndpointError::OpenAi { host: host.to_owned() });
    }
    Ok(())
}

/// Refuses what is not a host name, and hosts outside Azure OpenAI without `custom_domain: true`.
fn refuse_name(host: &str, custom_domain: bool) -> Result<(), EndpointError> {
    if !host.is_ascii() {
        return Err(EndpointError::NotAscii { host: host.to_owned() });
    }
    let last = host.rsplit('.').next().unwrap_or(host);
    if host.starts_with('[') || last.bytes().all(|b| b.is_ascii_digit()) && !last.is_empty() {
        return Err(EndpointError::IpAddress { host: host.to_owned() });
    }
    if let Some(domain) = SUBDOMAINS_OF.into_iter().find(|domain| is_within(host, domain)) {
        let name = host.strip_suffix(domain).and_then(|name| name.strip_suffix('.')).unwrap_or("");
        return if is_label(name) && (2..=64).contains(&name.len()) {
            Ok(())
        } else {
            Err(EndpointError::BadName { name: name.to_owned(), domain })
        };
    }
    if !is_host_name(host) {
        return Err(EndpointError::BadHost { host: host.to_owned() });
    }
    if !custom_domain {
        return Err(EndpointError::UnknownHost { host: host.to_owned() });
    }
    Ok(())
}
