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
const EXAMPLES: [(&str, &[&str]); 23] = [
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
        ],
    ),
    (
        "azure_key_rejected",
        &["Access denied due to invalid subscription key or wrong API endpoint."],
    ),
    ("deployment_not_found", &["The API deployment for this resource does not exist."]),
    ("unknown_path", &["Resource not found"]),
    (
        "throttled",
        &[
            "Requests to the … Operation … have exceeded token rate limit of your current OpenAI S0 pricing tier.",
            "Requests to the … Operation … have exceeded call rate limit of your current OpenAI S0 pricing tier.",
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
        &["AADSTS70011: The provided value for the input parameter 'scope' is not valid."],
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
    ("identity_endpoint_blocked", &["Required metadata header not specified"]),
];
