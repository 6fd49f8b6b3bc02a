//! The table. Sources of the responses: Microsoft Learn, "Azure OpenAI in Microsoft Foundry Models", its
//! pages on managed identity, role-based access control and virtual networks, and "Microsoft Entra
//! authentication and authorization error codes"; the texts as the services send them.

use super::rule::{Diagnosis, Mistake, TOKEN_REJECTED};

/// The meanings of responses of Azure OpenAI resources.
pub const BACKENDS: [Diagnosis; 17] = [
    Diagnosis {
        slug: "regional_endpoint",
        mistake: Mistake::Backend,
        statuses: &[400],
        codes: &[],
        phrases: &[
            "Resource Id is badly formed: NA",
            "Resource Id is badly formed or from wrong namespace: NA",
            "Please provide a custom subdomain for token authentication, otherwise API key is required",
        ],
        cause: "the address is not the resource's custom subdomain: a regional endpoint accepts API \
                keys only, and cannot determine the resource from a token",
        remedy: "Use the endpoint that the portal shows for the resource under Keys and Endpoint, \
               https://NAME.openai.azure.com. Where it shows a regional one, the resource has no custom \
               subdomain yet: az cognitiveservices account update --custom-domain NAME.",
    },
    Diagnosis {
        slug: "unknown_subdomain",
        mistake: Mistake::Backend,
        statuses: &[404],
        // The code alone may be about a resource that the caller named.
        codes: &[],
        phrases: &["Subdomain does not map to a resource"],
        cause: "no resource has this custom subdomain",
        remedy: "Check the spelling of the endpoint's name. A new subdomain, or one that was moved to \
               another resource, takes some minutes to be known everywhere.",
    },
    Diagnosis {
        slug: TOKEN_REJECTED,
        mistake: Mistake::Backend,
        statuses: &[401],
        codes: &[],
        phrases: &[
            "Unauthorized. Access token is missing, invalid, audience is incorrect",
            "IDX10214: Audience validation failed",
            "IDX10500: Signature validation failed",
            "IDX10501: Signature validation failed",
        ],
        cause: "the resource does not accept the token: it has expired, is for another audience, or comes \
                from another cloud",
        remedy: "Compare the token's audience with what the resource's cloud expects \
               (https://cognitiveservices.azure.com in the public one), and check the proxy's clock.",
    },
    Diagnosis {
        slug: "role_missing",
        mistake: Mistake::Model,
        statuses: &[401, 403],
        codes: &["PermissionDenied"],
        phrases: &["The principal `…` lacks the required data action", "Principal does not have access to API"],
        cause: "the identity has no role on the resource that allows this operation",
        remedy: "Assign the role Cognitive Services OpenAI User on the resource to the principal: az role \
               assignment create --assignee-object-id PRINCIPAL --assignee-principal-type ServicePrincipal \
               --role \"Cognitive Services OpenAI User\" --scope RESOURCE_ID. For what else a Foundry resource \
               serves (/models, /anthropic), the role is Cognitive Services User. It takes five to ten minutes \
               to have effect, and a membership of a group up to a day.",
    },
    Diagnosis {
        slug: "wrong_tenant",
        mistake: Mistake::Backend,
        statuses: &[400, 401],
        codes: &[],
        phrases: &[
            "Tenant provided in token does not match resource token",
            "Token tenant … does not match resource tenant",
        ],
        cause: "the identity belongs to another tenant than the resource",
        remedy: "Give this backend an identity of the resource's tenant, under identities.",
    },
    Diagnosis {
        slug: "key_authentication_disabled",
        mistake: Mistake::Backend,
        statuses: &[403],
        codes: &["AuthenticationTypeDisabled"],
        phrases: &["Key based authentication is disabled"],
        cause: "an API key has reached a resource that accepts tokens only",
        remedy: "The gateway removes keys before a request leaves: look for something behind it that adds one, \
               or for a client that bypasses the gateway.",
    },
    Diagnosis {
        slug: "network_denied",
        mistake: Mistake::Backend,
        statuses: &[403],
        codes: &[],
        phrases: &[
            "Public access is disabled",
            "Access denied due to Virtual Network",
            "A Virtual Network is configured for this resource",
            "Traffic is not from an approved private endpoint",
        ],
        cause: "the resource's network rules do not let the proxy in",
        remedy: "Where the resource has a private endpoint, its public name has to resolve to that from the \
               proxy (private DNS zone privatelink.openai.azure.com); otherwise allow the proxy's address \
               under the resource's Networking.",
    },
    Diagnosis {
        slug: "azure_key_rejected",
        mistake: Mistake::Backend,
        statuses: &[401],
        codes: &[],
        phrases: &["Access denied due to invalid subscription key or wrong API endpoint"],
        cause: "the resource received an API key instead of a token, and the key is not one of its own",
        remedy: "The gateway sends no keys: look for something behind it that adds one, or for a client that \
               bypasses the gateway.",
    },
    Diagnosis {
        slug: "deployment_not_found",
        mistake: Mistake::Model,
        statuses: &[404],
        codes: &["DeploymentNotFound"],
        phrases: &["The API deployment for this resource does not exist"],
        cause: "the resource has no deployment of this name",
        remedy: "Name the deployment as the resource does, under models[].backends[].deployment. A new one \
               takes up to five minutes.",
    },
    Diagnosis {
        slug: "unknown_path",
        mistake: Mistake::Callers,
        statuses: &[404],
        codes: &["404"],
        phrases: &["Resource not found"],
        cause: "the resource does not know this path or api-version",
        remedy: "Check the client's api-version, and that its base URL ends with /openai/v1/ or is the bare \
               address for AzureOpenAI clients.",
    },
    Diagnosis {
        slug: "api_version_unsupported",
        mistake: Mistake::Callers,
        statuses: &[400, 404],
        codes: &[],
        phrases: &[
            "API version not supported",
            "Model … is enabled only for api version",
            "Azure OpenAI Responses API is enabled only for api-version",
        ],
        cause: "the resource, or the model, does not know the api-version of the request",
        remedy: "Set a newer api-version in the client, or use the paths below /openai/v1/, which need none.",
    },
    Diagnosis {
        slug: "model_unsupported",
        mistake: Mistake::Callers,
        statuses: &[400],
        codes: &["OperationNotSupported", "unsupported_parameter", "unsupported_value"],
        phrases: &[
            "The … operation does not work with the specified model",
            "Unsupported parameter: ",
            "Unsupported value: ",
        ],
        cause: "the model does not support this operation, or a parameter of the request",
        remedy: "Use another model of the gateway for this operation, or leave the parameter out. Where the \
               model should support it, compare its deployments: models[].backends[] may name that of \
               another model.",
    },
    Diagnosis {
        slug: "model_not_found",
        mistake: Mistake::Callers,
        statuses: &[400, 404],
        codes: &["model_not_found", "unknown_model"],
        phrases: &["Unknown model: "],
        cause: "the resource has no model or deployment of this name at this path",
        remedy: "Check models[].backends[].deployment, and the path: Claude is at /anthropic/v1/messages, models \
               of other publishers at /models/chat/completions.",
    },
    Diagnosis {
        slug: "outbound_restricted",
        mistake: Mistake::Callers,
        statuses: &[400, 403],
        codes: &[],
        phrases: &["Outbound network access is restricted"],
        cause: "the resource may not fetch what the request refers to: its outbound network access is \
                restricted",
        remedy: "Send the content itself instead of a URL, or have the host added to the resource's list of \
               allowed FQDNs.",
    },
    Diagnosis {
        slug: "context_length_exceeded",
        mistake: Mistake::Nobodys,
        statuses: &[400],
        codes: &["context_length_exceeded"],
        phrases: &["This model's maximum context length is"],
        cause: "the prompt, and the output that it asks for, are longer than the model's context",
        remedy: "Nothing is wrong with the gateway. Send less, or use a model with a longer context.",
    },
    Diagnosis {
        slug: "throttled",
        mistake: Mistake::Nobodys,
        statuses: &[429],
        codes: &["429", "RateLimitReached"],
        phrases: &[
            "exceeded token rate limit",
            "exceeded call rate limit",
            "exceeded the token rate limit",
            "exceeded the call rate limit",
            "The system is currently experiencing high demand",
        ],
        cause: "the deployment's quota of tokens or requests is used up for the moment",
        remedy: "Nothing is wrong with the identity. Wait for the time in retry-after, give the model another \
               backend, or raise the deployment's quota. A time of 86400 seconds means that this one request \
               is larger than the whole quota.",
    },
    Diagnosis {
        slug: "content_filter",
        mistake: Mistake::Nobodys,
        statuses: &[400],
        codes: &["content_filter"],
        phrases: &["The response was filtered due to the prompt triggering"],
        cause: "the prompt was stopped by the deployment's content filter",
        remedy: "Nothing is wrong with the gateway. The response's innererror contains the category; \
               another backend would respond the same.",
    },
];

/// The meanings of refusals of identity endpoints.
pub const SIGN_IN: [Diagnosis; 16] = [
    sign_in(
        "federated_credential_missing",
        &["AADSTS70021", "AADSTS700211", "AADSTS700212", "AADSTS700213"],
        &["No matching federated identity record found"],
        "no federated credential of the application matches the service account's token",
        "Its issuer, subject (system:serviceaccount:NAMESPACE:NAME) and audience (api://AzureADTokenExchange) \
         must be exactly those of the projected token. A new one takes a minute to have effect.",
    ),
    sign_in(
        "assertion_expired",
        &["AADSTS700024"],
        &[],
        "the service account's token is not within its validity period",
        "kubelet replaces the projected token before it expires: check that Envoy watches its volume, and \
         that the clocks agree.",
    ),
    sign_in(
        "assertion_not_accepted",
        &["AADSTS700222", "AADSTS700229", "AADSTS700231", "AADSTS700027", "AADSTS50013"],
        &[],
        "Entra ID does not accept the token as a client assertion: another kind of token, or a wrong signature",
        "token_file must be the projected token of a service account, for the audience \
         api://AzureADTokenExchange, and Entra ID must reach the keys of its issuer: a token of Entra ID itself \
         is none. Where the cluster has new signing keys, restart the pod.",
    ),
    sign_in(
        "application_not_found",
        &["AADSTS700016"],
        &[],
        "the tenant has no application of this client id",
        "Check client_id and tenant; both are GUIDs, and easily confused.",
    ),
    sign_in(
        "application_disabled",
        &["AADSTS7000112"],
        &[],
        "the application is disabled in its tenant",
        "Enable it (Entra ID, Enterprise applications, Properties), or: az ad sp update --id CLIENT_ID --set \
         accountEnabled=true.",
    ),
    sign_in(
        "conditional_access",
        &["AADSTS53003", "AADSTS530032", "AADSTS530035"],
        &[],
        "a policy of conditional access, or a security policy of the tenant, blocks the sign-in",
        "The sign-in logs of Entra ID (service principals) name the policy: have the proxy's address or its \
         identity excluded from it.",
    ),
    sign_in(
        "client_credential_missing",
        &["AADSTS7000216", "AADSTS7000218"],
        &[],
        "the token request had no client assertion and no client secret",
        "Check the file that the document names (token_file, secret_file), and that Envoy serves it.",
    ),
    sign_in(
        "client_secret_wrong",
        &["AADSTS7000215"],
        &[],
        "the client secret is wrong",
        "The file must contain the secret's value, not its id, and nothing else.",
    ),
    sign_in(
        "client_secret_expired",
        &["AADSTS7000222"],
        &[],
        "the client secret has expired",
        "Add a new one to the application and replace the file; or use workload_identity, which needs no secret.",
    ),
    sign_in(
        "tenant_not_found",
        &["AADSTS90002", "AADSTS900023"],
        &[],
        "there is no such tenant in this cloud",
        "Check tenant and cloud: each cloud has its own tenants.",
    ),
    sign_in(
        "audience_unknown",
        &["AADSTS500011", "AADSTS650057", "invalid_resource"],
        &[],
        "the tenant does not know the audience of the token request",
        "Check audience and cloud; that of the public cloud is https://cognitiveservices.azure.com, without a \
         slash at its end.",
    ),
    sign_in(
        "scope_invalid",
        &["AADSTS70011", "AADSTS1002012"],
        &[],
        "no token can be requested for this audience",
        "Check audience; the filter itself adds /.default.",
    ),
    sign_in(
        "identity_not_found",
        &[],
        &[
            "Identity not found",
            "No User Assigned or Delegated Managed Identity found",
            "requested identity has not been assigned to this resource",
            "requested identity hasn't been assigned to this resource",
            "requested identity hasn’t been assigned to this resource",
        ],
        "the machine has no such managed identity",
        "Assign the identity to the machine, scale set, node pool or app that the proxy runs on, or name \
         another one.",
    ),
    sign_in(
        "identity_ambiguous",
        &[],
        &["Multiple user assigned identities exist"],
        "the machine has several managed identities, and none was named",
        "Set one of client_id, object_id and resource_id.",
    ),
    sign_in(
        "identity_endpoint_unreachable",
        &[],
        &["no response from the IMDS endpoint", "no managed identity endpoint found"],
        "nothing responds at the address of the identity endpoint",
        "IMDS (169.254.169.254) exists on machines of Azure only, and network policies may keep pods from it; with \
         the workload identity proxy sidecar it is at 127.0.0.1:8000.",
    ),
    sign_in(
        "identity_endpoint_blocked",
        &[],
        &["Required metadata header not specified"],
        "the identity endpoint takes the request for a forwarded one",
        "Nothing between the proxy and the identity endpoint may add or remove headers.",
    ),
];

const fn sign_in(
    slug: &'static str,
    codes: &'static [&'static str],
    phrases: &'static [&'static str],
    cause: &'static str,
    remedy: &'static str,
) -> Diagnosis {
    Diagnosis { slug, mistake: Mistake::Backend, statuses: &[], codes, phrases, cause, remedy }
}
