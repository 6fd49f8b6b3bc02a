//! Messages as Azure writes them, by which people look a mistake up. The module has no use for them.

use super::rule::{Diagnosis, TOKEN_REJECTED};

impl Diagnosis {
    /// Messages of responses with this meaning, the most frequent first. Never empty.
    pub fn examples(&self) -> &'static [&'static str] {
        let row = EXAMPLES.iter().find(|(slug, _)| *slug == self.slug);
        row.map_or(&[], |(_, examples)| examples)
    }
}

/// By slug. Sources as those of the table.
const EXAMPLES: [(&str, &[&str]); 33] = [
    (
        "regional_endpoint",
        &[
            "Resource Id is badly formed: NA",
            "Please provide a custom subdomain for token authentication, otherwise API key is required.",
        ],
    ),
    ("unknown_subdomain", &["Subdomain does not map to a resource"]),
    (
        TOKEN_REJECTED,
        &["Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired."],
    ),
    (
        "role_missing",
        &[
            "The principal `…` lacks the required data action `Microsoft.CognitiveServices/accounts/OpenAI/…` to perform `POST /openai/deployments/{deployment-id}/chat/completions` operation.",
            "Principal does not have access to API/Operation.",
        ],
    ),
    ("wrong_tenant", &["Tenant provided in token does not match resource token"]),
    ("key_authentication_disabled", &["Key based authentication is disabled for this resource."]),
    (
        "network_denied",
        &[
            "Public access is disabled. Please configure private endpoint.",
            "Access denied due to Virtual Network/Firewall rules.",
            "A Virtual Network is configured for this resource. Please use the correct endpoint for making requests.",
            "Traffic is not from an approved private endpoint.",
        ],
    ),
    (
        "azure_key_rejected",
        &["Access denied due to invalid subscription key or wrong API endpoint."],
    ),
    ("deployment_not_found", &["The API deployment for this resource does not exist."]),
    ("unknown_path", &["Resource not found"]),
    (
        "api_version_unsupported",
        &["API version not supported", "Model … is enabled only for api versions … and later"],
    ),
    (
        "model_unsupported",
        &[
            "The chatCompletion operation does not work with the specified model, ….",
            "Unsupported parameter: '…' is not supported with this model.",
        ],
    ),
    ("model_not_found", &["Unknown model: …"]),
    (
        "outbound_restricted",
        &["Outbound network access is restricted. The hostname '…' for parameter '…' is not in the allowed FQDN list for this resource."],
    ),
    (
        "context_length_exceeded",
        &["This model's maximum context length is … tokens."],
    ),
    (
        "throttled",
        &[
            "Requests to the … Operation … have exceeded token rate limit of your current OpenAI S0 pricing tier.",
            "Requests to the … Operation … have exceeded call rate limit of your current OpenAI S0 pricing tier.",
            "Your requests to … for … in … have exceeded the token rate limit for your current AIServices S0 pricing tier.",
            "The system is currently experiencing high demand and cannot process your request.",
        ],
    ),
    (
        "content_filter",
        &["The response was filtered due to the prompt triggering Azure OpenAI's content management policy."],
    ),
    (
        "federated_credential_missing",
        &["AADSTS700213: No matching federated identity record found for presented assertion subject '…'."],
    ),
    (
        "assertion_expired",
        &["AADSTS700024: Client assertion is not within its valid time range."],
    ),
    (
        "assertion_not_accepted",
        &[
            "AADSTS700222: AAD-issued tokens may not be used for federated identity flows.",
            "AADSTS50013: Assertion failed signature validation.",
        ],
    ),
    ("application_disabled", &["AADSTS7000112: Application '…' is disabled."]),
    (
        "conditional_access",
        &["AADSTS53003: Access has been blocked by Conditional Access policies."],
    ),
    (
        "client_credential_missing",
        &["AADSTS7000216: 'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type."],
    ),
    (
        "application_not_found",
        &["AADSTS700016: Application with identifier '…' was not found in the directory '…'."],
    ),
    ("client_secret_wrong", &["AADSTS7000215: Invalid client secret provided."]),
    (
        "client_secret_expired",
        &["AADSTS7000222: The provided client secret keys for app '…' are expired."],
    ),
    ("tenant_not_found", &["AADSTS90002: Tenant '…' not found."]),
    (
        "audience_unknown",
        &["AADSTS500011: The resource principal named … was not found in the tenant named …"],
    ),
    (
        "scope_invalid",
        &[
            "AADSTS70011: The provided value for the input parameter 'scope' is not valid.",
            "AADSTS1002012: The provided value for scope … is not valid.",
        ],
    ),
    (
        "identity_not_found",
        &[
            "Identity not found",
            "No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.",
        ],
    ),
    (
        "identity_ambiguous",
        &["Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"],
    ),
    (
        "identity_endpoint_unreachable",
        &["ManagedIdentityCredential authentication unavailable, no response from the IMDS endpoint."],
    ),
    ("identity_endpoint_blocked", &["Required metadata header not specified"]),
];
