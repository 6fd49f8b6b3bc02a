//! The problems of an address that is not a resource's.

use super::super::problem::quoted;

/// Why a text is not the endpoint of a resource, and what would be.
///
/// A message repeats neither a user name and password nor a query, which may be credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing is there.
    #[error("found an empty string; expected the resource's URL, https://NAME.openai.azure.com")]
    Empty,
    /// Neither a URL nor a host.
    #[error("found {found} that is not a URL; expected one such as https://NAME.openai.azure.com")]
    NotUrl {
        /// The shape of what was found.
        found: String,
    },
    /// A host without `https://`.
    #[error("{found} has no scheme; expected https://{host}", found = quoted(host))]
    MissingScheme {
        /// The host.
        host: String,
    },
    /// Another scheme than https.
    #[error(
        "{scheme} is not the scheme of {host}; expected https, because tokens travel over TLS only",
        scheme = quoted(scheme), host = quoted(host)
    )]
    NotHttps {
        /// The scheme.
        scheme: String,
        /// The host.
        host: String,
    },
    /// A URL without a host.
    #[error("found a URL without a host; expected one such as https://NAME.openai.azure.com")]
    MissingHost,
    /// A user name or password.
    #[error(
        "found an @, as after a user name or password; expected neither, because the proxy signs \
         in with its identity"
    )]
    UserInfo,
    /// A query.
    #[error(
        "found a query after {host}; expected none, because the callers choose the api-version",
        host = quoted(host)
    )]
    Query {
        /// The host.
        host: String,
    },
    /// A fragment.
    #[error("found a fragment after {host}; expected none", host = quoted(host))]
    Fragment {
        /// The host.
        host: String,
    },
    /// More of a path than a slash.
    #[error(
        "found the path {path} after {host}; expected none, because the callers choose the path",
        path = quoted(path), host = quoted(host)
    )]
    Path {
        /// The path.
        path: String,
        /// The host.
        host: String,
    },
    /// No port number.
    #[error(
        "{port} is not a port of {host}; expected 1 to 65535, or none for 443",
        port = quoted(port), host = quoted(host)
    )]
    BadPort {
        /// The text in the place of the port.
        port: String,
        /// The host.
        host: String,
    },
    /// A port that Azure does not have.
    #[error(
        "found port {port} of {host}; Azure listens on 443: expected no port, or custom_domain: \
         true on this backend if a server of your own listens there",
        host = quoted(host)
    )]
    Port {
        /// The port.
        port: u16,
        /// The host.
        host: String,
    },
    /// A regional endpoint. Source of the error it would cause: Microsoft's answers, recorded
    /// failures; of the remedy:
    /// <https://learn.microsoft.com/azure/ai-services/cognitive-services-custom-subdomains>.
    #[error(
        "{host} is a regional endpoint; it accepts API keys only, and would respond to the proxy's \
         Entra ID token with 400 \"Resource Id is badly formed: NA\"; expected the resource's own \
         endpoint, which looks like https://NAME.{cloud}: Azure portal → the Azure OpenAI resource \
         → Resource Management → Keys and Endpoint; a resource that shows a regional endpoint there \
         needs a custom subdomain first, which cannot be changed later: Overview → Generate Custom \
         Domain Name, or az cognitiveservices account update --name RESOURCE --resource-group GROUP \
         --custom-domain NAME",
        host = quoted(host)
    )]
    Regional {
        /// The host.
        host: String,
        /// Where resources of its cloud have their subdomains.
        cloud: &'static str,
    },
    /// A name of the DNS zone behind a private endpoint.
    #[error(
        "{host} is a name of the private DNS zone; expected https://{public}, which is the \
         name of a private endpoint as well: the certificate is for that name, and DNS resolves it to \
         the private address",
        host = quoted(host)
    )]
    PrivateLink {
        /// The host.
        host: String,
        /// The name to use.
        public: String,
    },
    /// OpenAI's own service, which must not see tokens for Azure.
    #[error(
        "{host} is OpenAI's own service, which takes no Azure identity; expected a resource on \
         Azure, https://NAME.openai.azure.com",
        host = quoted(host)
    )]
    OpenAi {
        /// The host.
        host: String,
    },
    /// An IP address of either version.
    #[error(
        "{host} is an IP address; expected the resource's name, https://NAME.openai.azure.com: \
         the Envoy cluster determines the address",
        host = quoted(host)
    )]
    IpAddress {
        /// The address.
        host: String,
    },
    /// A name that is not in its DNS form.
    #[error("{host} is not ASCII; expected the name's DNS form, with xn-- labels", host = quoted(host))]
    NotAscii {
        /// The host.
        host: String,
    },
    /// Below a domain of Azure OpenAI, but not by a name that a resource can have.
    #[error(
        "{name} is not a custom subdomain of {domain}; expected 2 to 64 of a-z, 0-9 and inner \
         hyphens, as in https://contoso-eastus.{domain}",
        name = quoted(name)
    )]
    BadName {
        /// The text before the domain.
        name: String,
        /// The domain.
        domain: &'static str,
    },
    /// Not a host name at all.
    #[error("{host} is not a host name; expected one such as NAME.openai.azure.com", host = quoted(host))]
    BadHost {
        /// The text in the place of the host.
        host: String,
    },
    /// A host name, but none of Azure OpenAI.
    #[error(
        "{host} is not a custom subdomain of Azure OpenAI; expected one such as \
         https://NAME.openai.azure.com, or custom_domain: true on this backend if it is a name of \
         yours for such a resource",
        host = quoted(host)
    )]
    UnknownHost {
        /// The host.
        host: String,
    },
}
