//! Requests to identity endpoints, and their responses.

use percent_encoding::{utf8_percent_encode, NON_ALPHANUMERIC};
use std::time::Duration;

use super::failure::{describe, Failure};
use crate::base::error_body::ErrorBody;
use crate::base::secret::Secret;
use crate::config::IdentitySelector;

/// A request to an identity endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The Envoy cluster that reaches it.
    pub cluster: String,
    /// Pseudo-headers and headers.
    pub headers: Vec<(&'static str, String)>,
    /// What is posted, which may contain a client credential.
    pub body: Option<Secret>,
}

/// The response, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalloutResponse {
    /// An HTTP response, of the endpoint or of Envoy in its place.
    Response {
        /// Its status.
        status: u16,
        /// Its `retry-after`, as it came.
        retry_after: Option<String>,
        /// Its body.
        body: Vec<u8>,
    },
    /// Nothing, and why.
    NoResponse(&'static str),
}

impl CalloutResponse {
    /// Whether Envoy could not reach the cluster from this thread. Envoy's main thread, where
    /// a root context lives too, has none of the internal listeners that workers have: measured with
    /// 1.40.0.
    pub fn is_unreached(&self) -> bool {
        matches!(self, Self::Response { status: 503, .. })
    }
}

/// The path and query of a request for a managed identity's token. `names` are the parameters for a
/// client id, an object id and a resource id.
pub(super) fn managed_path(
    path: &str,
    api_version: &str,
    audience: &str,
    selector: &IdentitySelector,
    names: [&str; 3],
) -> String {
    let [client_id, object_id, resource_id] = names;
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let whole = format!("{path}?api-version={api_version}&resource={}", encoded(audience));
    let (name, id) = match selector {
        IdentitySelector::SystemAssigned => return whole,
        IdentitySelector::ClientId(id) => (client_id, id),
        IdentitySelector::ObjectId(id) => (object_id, id),
        IdentitySelector::ResourceId(id) => (resource_id, id),
    };
    format!("{whole}&{name}={}", encoded(id))
}

/// The body of a successful response of an identity endpoint, or the failure.
/// `is_transient` decides which other statuses are transient.
pub(super) fn success(
    response: &CalloutResponse,
    is_transient: impl Fn(u16, &ErrorBody) -> bool,
) -> Result<&[u8], Failure> {
    let (status, retry_after, body) = match response {
        CalloutResponse::Response { status: 200, body, .. } => return Ok(body),
        CalloutResponse::Response { status, retry_after, body } => (*status, retry_after, body),
        CalloutResponse::NoResponse(why) => return Err(Failure::unusable(*why)),
    };
    let error = ErrorBody::read(body);
    let detail = describe(&error);
    // Only a client error means that the request is wrong.
    Err(if is_transient(status, &error) || !(400..500).contains(&status) {
        let retry_after = retry_after.as_deref().and_then(|text| text.trim().parse().ok());
        Failure::Transient {
            status: Some(status),
            detail,
            retry_after: retry_after.map(Duration::from_secs),
        }
    } else {
        Failure::Permanent { status, detail }
    })
}
