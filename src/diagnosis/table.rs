//! The table. Sources of the answers: Microsoft Learn, "Azure OpenAI in Microsoft Foundry Models", its
//! pages on managed identity, role-based access control and virtual networks, and "Microsoft Entra
//! authentication and authorization error codes"; the texts as the services send them.

use super::{Diagnosis, TOKEN_REJECTED};

/// What the answers of Azure OpenAI resources tell of.
pub const BACKENDS: [Diagnosis; 12] = [
    Diagnosis {
        slug: "regional_endpoint",
        is_mistake: true,
        statuses: &[400],
        codes: &[],
        phrases: &[
            "Resource Id is badly formed",
            "provide a custom subdomain for token authentication",
        ],
        wrong: "the address is not the resource's custom subdomain: a regional endpoint knows API keys \
                only, and cannot tell from a token which resource is meant",
        mend: "Use the endpoint that the portal shows for the resource under Keys and Endpoint, \
               https://NAME.openai.azure.com. Where it shows a regional one, the resource has no custom \
               subdomain yet: az cognitiveservices account update --custom-domain NAME.",
    },
    Diagnosis {
        slug: "unknown_subdomain",
        is_mistake: true,
        statuses: &[404],
        codes: &["ResourceNotFound"],
        phrases: &["Subdomain does not map to a resource"],
        wrong: "no resource has this custom subdomain",
        mend: "Check the endpoint's name for a slip. A new subdomain takes some minutes to be known \
               everywhere, and so does one that was given to another resource.",
    },
    Diagnosis {
        slug: TOKEN_REJECTED,
        is_mistake: true,
        statuses: &[401],
        codes: &[],
        phrases: &["Access token is missing, invalid, audience is incorrect"],
        wrong: "the resource does not accept the token: it has expired, is for another audience, or comes \
                from another cloud",
        mend: "Compare the token's audience with what the resource's cloud expects \
               (https://cognitiveservices.azure.com in the public one), and the proxy's clock with the time.",
    },
    Diagnosis {
        slug: "role_missing",
        is_mistake: true,
        statuses: &[401, 403],
        codes: &["PermissionDenied"],
        phrases: &["lacks the required data action", "Principal does not have access to API"],
        wrong: "the identity has no role on the resource that allows this operation",
        mend: "Assign the role Cognitive Services OpenAI User on the resource to the principal: az role \
               assignment create --assignee-object-id PRINCIPAL --assignee-principal-type ServicePrincipal \
               --role \"Cognitive Services OpenAI User\" --scope RESOURCE_ID. It takes five to ten minutes to \
               have effect, and a membership of a group up to a day.",
    },
    Diagnosis {
        slug: "wrong_tenant",
        is_mistake: true,
        statuses: &[400, 401],
        codes: &[],
        phrases: &[
            "Tenant provided in token does not match resource token",
            "does not match resource tenant",
        ],
        wrong: "the identity belongs to another tenant than the resource",
        mend: "Give this backend an identity of the resource's tenant, under identities.",
    },
    Diagnosis {
        slug: "key_authentication_disabled",
        is_mistake: true,
        statuses: &[403],
        codes: &["AuthenticationTypeDisabled"],
        phrases: &["Key based authentication is disabled"],
        wrong: "an API key has reached a resource that accepts tokens only",
        mend: "The gateway removes keys before a request leaves: look for something behind it that adds one, \
               or for a client that goes past the gateway.",
    },
    Diagnosis {
        slug: "network_denied",
        is_mistake: true,
        statuses: &[403],
        codes: &[],
        phrases: &["Public access is disabled", "Access denied due to Virtual Network"],
        wrong: "the resource's network rules do not let the proxy in",
        mend: "Where the resource has a private endpoint, its public name has to resolve to that from the \
               proxy (private DNS zone privatelink.openai.azure.com); otherwise allow the proxy's address \
               under the resource's Networking.",
    },
    Diagnosis {
        slug: "azure_key_rejected",
        is_mistake: true,
        statuses: &[401],
        codes: &[],
        phrases: &["invalid subscription key or wrong API endpoint"],
        wrong: "the resource was given an API key instead of a token, and not a key of its own",
        mend: "The gateway sends no keys: look for something behind it that adds one, or for a client that \
               goes past the gateway.",
    },
    Diagnosis {
        slug: "deployment_not_found",
        is_mistake: true,
        statuses: &[404],
        codes: &["DeploymentNotFound"],
        phrases: &["The API deployment for this resource does not exist"],
        wrong: "the resource has no deployment of this name",
        mend: "Name the deployment as the resource does, under models[].backends[].deployment. A new one \
               takes up to five minutes.",
    },
    Diagnosis {
        slug: "unknown_path",
        is_mistake: true,
        statuses: &[404],
        codes: &["404"],
        phrases: &["Resource not found"],
        wrong: "the resource does not know this path or api-version",
        mend: "Check the client's api-version, and that its base URL ends with /openai/v1/ or is the bare \
               address for AzureOpenAI clients.",
    },
    Diagnosis {
        slug: "throttled",
        is_mistake: false,
        statuses: &[429],
        codes: &["429", "RateLimitReached"],
        phrases: &["exceeded token rate limit", "exceeded call rate limit"],
        wrong: "the deployment's quota of tokens or requests is used up for the moment",
        mend: "Nothing is wrong with the identity. Wait as long as retry-after says, give the model another \
               backend, or raise the deployment's quota.",
    },
    Diagnosis {
        slug: "content_filter",
        is_mistake: false,
        statuses: &[400],
        codes: &["content_filter"],
        phrases: &["triggering Azure OpenAI's content management policy"],
        wrong: "the prompt was stopped by the deployment's content filter",
        mend: "Nothing is wrong with the gateway. The answer's innererror says which category; another \
               backend would answer the same.",
    },
];

/// What the endpoints of identities tell of when they refuse a token.
pub const SIGN_IN: [Diagnosis; 11] = [
    sign_in(
        "federated_credential_missing",
        &["AADSTS70021", "AADSTS700211", "AADSTS700212", "AADSTS700213"],
        &[],
        "no federated credential of the application fits the service account's token",
        "Its issuer, subject (system:serviceaccount:NAMESPACE:NAME) and audience (api://AzureADTokenExchange) \
         must be those of the projected token, letter by letter. A new one takes a minute.",
    ),
    sign_in(
        "assertion_expired",
        &["AADSTS700024"],
        &[],
        "the service account's token is outside the time of its validity",
        "kubelet replaces the projected token before it expires: see that Envoy watches its volume, and that \
         the clocks agree.",
    ),
    sign_in(
        "application_not_found",
        &["AADSTS700016"],
        &[],
        "the tenant has no application of this client id",
        "Check client_id and tenant; both are GUIDs, and are easily exchanged.",
    ),
    sign_in(
        "client_secret_wrong",
        &["AADSTS7000215"],
        &[],
        "the client secret is wrong",
        "Its value is wanted, and not its id. It must stand in its file without anything around it.",
    ),
    sign_in(
        "client_secret_expired",
        &["AADSTS7000222"],
        &[],
        "the client secret has expired",
        "Add a new one to the application and replace the file; or use workload_identity, which has none.",
    ),
    sign_in(
        "tenant_not_found",
        &["AADSTS90002", "AADSTS900023"],
        &[],
        "there is no such tenant in this cloud",
        "Check tenant, and cloud: each has its own tenants.",
    ),
    sign_in(
        "audience_unknown",
        &["AADSTS500011", "invalid_resource"],
        &[],
        "the tenant does not know the audience that the token is asked for",
        "Check audience and cloud; the public one's is https://cognitiveservices.azure.com, without a slash \
         at its end.",
    ),
    sign_in(
        "scope_invalid",
        &["AADSTS70011"],
        &[],
        "the audience is not one that a token can be asked for",
        "Check audience; the filter adds /.default by itself.",
    ),
    sign_in(
        "identity_not_found",
        &[],
        &["Identity not found", "No User Assigned or Delegated Managed Identity found"],
        "the machine has no such managed identity",
        "Assign the identity to the machine, scale set, node pool or app that the proxy runs on, or name \
         another one.",
    ),
    sign_in(
        "identity_ambiguous",
        &[],
        &["Multiple user assigned identities exist"],
        "the machine has several managed identities, and none was named",
        "Name one: client_id, object_id or resource_id.",
    ),
    sign_in(
        "identity_endpoint_blocked",
        &[],
        &["Required metadata header not specified"],
        "the identity endpoint takes the request for one that was passed on from elsewhere",
        "Nothing between the proxy and the identity endpoint may add or remove headers.",
    ),
];

const fn sign_in(
    slug: &'static str,
    codes: &'static [&'static str],
    phrases: &'static [&'static str],
    wrong: &'static str,
    mend: &'static str,
) -> Diagnosis {
    Diagnosis { slug, is_mistake: true, statuses: &[], codes, phrases, wrong, mend }
}
