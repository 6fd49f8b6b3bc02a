use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::base::claims::Claims;

const ROLE: &str = r#"{"error":{"code":"PermissionDenied","message":"The principal `11111111-0000-4000-8000-000000000011` lacks the required data action `Microsoft.CognitiveServices/accounts/OpenAI/deployments/chat/completions/action` to perform `POST /openai/deployments/{deployment-id}/chat/completions` operation."}}"#;

/// Azure's responses, as recorded, and their meaning.
const RESPONSES: &[(u16, &str, &str)] = &[
    (
        400,
        r#"{"error":{"code":"Request is badly formated","message":"Resource Id is badly formed: NA"}}"#,
        "regional_endpoint",
    ),
    (
        400,
        r#"{"error":{"code":"x","message":"Resource Id is badly formed or from wrong namespace: NA"}}"#,
        "regional_endpoint",
    ),
    (
        400,
        r#"{"error":{"code":"BadRequest","message":"Please provide a custom subdomain for token authentication, otherwise API key is required."}}"#,
        "regional_endpoint",
    ),
    (
        404,
        r#"{"error":{"code":"ResourceNotFound","message":"Subdomain does not map to a resource"}}"#,
        "unknown_subdomain",
    ),
    (
        404,
        r#"{"error":{"code":"404","message":"Subdomain does not map to a resource."}}"#,
        "unknown_subdomain",
    ),
    (
        401,
        r#"{"statusCode":401,"message":"Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired."}"#,
        "token_rejected",
    ),
    (401, ROLE, "role_missing"),
    (
        401,
        r#"{"error":{"code":"PermissionDenied","message":"Principal does not have access to API\/Operation."}}"#,
        "role_missing",
    ),
    (
        400,
        r#"{"error":{"code":"BadRequest","message":"Tenant provided in token does not match resource token"}}"#,
        "wrong_tenant",
    ),
    (
        400,
        r#"{"error":{"code":"Tenant provided in token does not match resource token","message":"Token tenant a does not match resource tenant."}}"#,
        "wrong_tenant",
    ),
    (
        403,
        r#"{"error":{"code":"AuthenticationTypeDisabled","message":"No."}}"#,
        "key_authentication_disabled",
    ),
    (
        403,
        r#"{ "error": { "code": "403", "message": "Key based authentication is disabled for this resource." } }"#,
        "key_authentication_disabled",
    ),
    (
        403,
        r#"{"error":{"code":"403","message":"Public access is disabled. Please configure private endpoint."}}"#,
        "network_denied",
    ),
    (
        403,
        r#"{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}"#,
        "network_denied",
    ),
    (
        401,
        r#"{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint. Make sure…"}}"#,
        "azure_key_rejected",
    ),
    (
        404,
        r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist. If you…"}}"#,
        "deployment_not_found",
    ),
    (404, r#"{"error":{"code":"404","message":"Resource not found"}}"#, "unknown_path"),
    (
        403,
        r#"{"error":{"code":"403","message":"A Virtual Network is configured for this resource. Please use the correct endpoint for making requests. Check https://aka.ms/cogsvc-vnet for more details."}}"#,
        "network_denied",
    ),
    (
        404,
        r#"{"error":{"code":"BadRequest","message":"API version not supported"}}"#,
        "api_version_unsupported",
    ),
    (
        400,
        r#"{"error":{"code":"BadRequest","message":"Model o1 is enabled only for api versions 2024-12-01-preview and later"}}"#,
        "api_version_unsupported",
    ),
    (
        400,
        r#"{"error":{"code":"OperationNotSupported","message":"The chatCompletion operation does not work with the specified model, gpt-4o-mini. Please choose different model and try again."}}"#,
        "model_unsupported",
    ),
    (
        400,
        r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#,
        "model_unsupported",
    ),
    (
        404,
        r#"{"error":{"code":"unknown_model","message":"Unknown model: x","details":"Unknown model: x"}}"#,
        "model_not_found",
    ),
    (
        400,
        r#"{"error":{"requestid":"1","code":400,"message":"Outbound network access is restricted. The hostname 'x' for parameter 'endpoint' is not in the allowed FQDN list for this resource."}}"#,
        "outbound_restricted",
    ),
    (
        400,
        r#"{"error":{"message":"This model's maximum context length is 8192 tokens. However, your messages resulted in 8227 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
        "context_length_exceeded",
    ),
    (
        429,
        r#"{"error":{"code":"429","message":"Requests have exceeded token rate limit. Please retry after 7 seconds."}}"#,
        "throttled",
    ),
    (
        400,
        r#"{"error":{"code":"content_filter","message":"The response was filtered","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
        "content_filter",
    ),
];

/// Responses of identity endpoints, and their meaning.
const REFUSALS: &[(&str, &str)] = &[
    (
        r#"{"error":"invalid_client","error_description":"AADSTS70021: No matching federated identity record found"}"#,
        "federated_credential_missing",
    ),
    (
        r#"{"error":"invalid_client","error_description":"AADSTS700213: No matching federated identity record found"}"#,
        "federated_credential_missing",
    ),
    (
        r#"{"error":"invalid_client","error_description":"AADSTS700024: Client assertion is not within its valid time range."}"#,
        "assertion_expired",
    ),
    (
        r#"{"error":"invalid_client","error_description":"AADSTS700222: AAD-issued tokens may not be used for federated identity flows."}"#,
        "assertion_not_accepted",
    ),
    (
        r#"{"error":"unauthorized_client","error_description":"AADSTS7000112: Application 'x' is disabled."}"#,
        "application_disabled",
    ),
    (
        r#"{"error":"access_denied","error_description":"AADSTS53003: Access has been blocked by Conditional Access policies."}"#,
        "conditional_access",
    ),
    (
        r#"{"error":"invalid_client","error_description":"AADSTS7000216: 'client_assertion', 'client_secret' or 'request' is required"}"#,
        "client_credential_missing",
    ),
    (
        r#"ManagedIdentityCredential authentication unavailable, no response from the IMDS endpoint."#,
        "identity_endpoint_unreachable",
    ),
    (
        r#"{"error":"unauthorized_client","error_description":"AADSTS700016: Application with identifier 'x' was not found"}"#,
        "application_not_found",
    ),
    (
        r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided."}"#,
        "client_secret_wrong",
    ),
    (
        r#"{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired."}"#,
        "client_secret_expired",
    ),
    (
        r#"{"error":"invalid_request","error_description":"AADSTS90002: Tenant 'x' not found."}"#,
        "tenant_not_found",
    ),
    (
        r#"{"error":"invalid_resource","error_description":"AADSTS500011: The resource principal named x was not found"}"#,
        "audience_unknown",
    ),
    (r#"{"error":"invalid_resource"}"#, "audience_unknown"),
    (
        r#"{"error":"invalid_scope","error_description":"AADSTS70011: The provided value for the input parameter 'scope' is not valid."}"#,
        "scope_invalid",
    ),
    (
        r#"{"error":"invalid_request","error_description":"Identity not found"}"#,
        "identity_not_found",
    ),
    (
        r#"{"statusCode":400,"message":"No User Assigned or Delegated Managed Identity found for specified ClientId"}"#,
        "identity_not_found",
    ),
    (
        r#"{"error":"invalid_request","error_description":"Multiple user assigned identities exist, please specify the clientId"}"#,
        "identity_ambiguous",
    ),
    (
        r#"{"error":"bad_request_102","error_description":"Required metadata header not specified"}"#,
        "identity_endpoint_blocked",
    ),
];

fn slug(found: Option<&'static Diagnosis>) -> &'static str {
    found.map_or("nothing", |found| found.slug)
}

#[test]
fn every_response_of_a_backend_is_recognised_by_status_and_body() {
    for (status, body, expected) in RESPONSES {
        let error = ErrorBody::read(body.as_bytes());
        assert_eq!(slug(Diagnosis::of_response(*status, &error)), *expected, "{body}");
        assert_eq!(slug(Diagnosis::of_response(200, &error)), "nothing", "{body}");
        assert_eq!(slug(Diagnosis::of_response(500, &error)), "nothing", "{body}");
    }
    let found: BTreeSet<_> = RESPONSES.iter().map(|(_, _, slug)| *slug).collect();
    assert_eq!(found, BACKENDS.iter().map(|row| row.slug).collect(), "each row has its response");
}

#[test]
fn every_refusal_of_an_identity_is_recognised() {
    for (body, expected) in REFUSALS {
        assert_eq!(
            slug(Diagnosis::of_refusal(&ErrorBody::read(body.as_bytes()))),
            *expected,
            "{body}"
        );
    }
    let found: BTreeSet<_> = REFUSALS.iter().map(|(_, slug)| *slug).collect();
    assert_eq!(found, SIGN_IN.iter().map(|row| row.slug).collect(), "each row has its response");
}

#[test]
fn other_responses_are_not_recognised() {
    let rows = [
        (
            400,
            r#"{"error":{"code":"invalid_request_error","message":"'messages' is a required property"}}"#,
        ),
        (400, r#"{"error":{"code":"BadRequest","message":"Please provide a valid tool"}}"#),
        (401, r#"{"error":{"code":"401","message":"Unauthorized"}}"#),
        (401, ""),
        (403, "<html>Forbidden</html>"),
        (404, r#"{"error":{"code":"NotFound","message":"No response found with id"}}"#),
        (404, r#"{"error":{"message":"No file found"}}"#),
        (404, r#"{"error":{"code":"ResourceNotFound","message":"No file found"}}"#),
        (404, "[]"),
        (404, "{\"error\":null}"),
    ];
    for (status, body) in rows {
        let found = Diagnosis::of_response(status, &ErrorBody::read(body.as_bytes()));
        assert_eq!(slug(found), "nothing", "{body}");
    }
    let longer =
        ErrorBody::read(br#"{"error":"x","error_description":"AADSTS7002130: y AADSTS700160"}"#);
    assert_eq!(slug(Diagnosis::of_refusal(&longer)), "nothing", "a code is a whole number");
}

#[test]
fn a_request_that_is_quoted_forges_no_diagnosis() {
    let quoted = |text: &str| {
        [
            format!("Unrecognized request argument supplied: {text}"),
            format!("'{text}' is a required property"),
            format!("The principal `{text}"),
            format!("Please use another name than {text}"),
        ]
    };
    for row in &BACKENDS {
        for text in row.codes.iter().chain(row.phrases).chain(row.examples()) {
            for status in row.statuses {
                for message in quoted(text) {
                    let body = json!({"error": {"code": "BadRequest", "message": message}});
                    for body in [body.to_string(), json!({"message": message}).to_string(), message]
                    {
                        let found =
                            Diagnosis::of_response(*status, &ErrorBody::read(body.as_bytes()));
                        assert_eq!(slug(found), "nothing", "{status} {body}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_text_is_recognised_wherever_it_was_copied_from() {
    let rows = [
        ("openai.BadRequestError: Error code: 400 - {'error': {'code': 'Request is badly formated', 'message': 'Resource Id is badly formed: NA'}}", "regional_endpoint"),
        ("HTTP/1.1 401 Unauthorized\ncontent-length: 1\n\n{\"statusCode\":401,\"message\":\"Unauthorized. Access token is missing, invalid, audience is incorrect\"}", "token_rejected"),
        ("openai.NotFoundError: Error code: 404 - {'error': {'code': 'DeploymentNotFound'}}", "deployment_not_found"),
        ("ClientAuthenticationError: AADSTS7000215: Invalid client secret provided.", "client_secret_wrong"),
        ("[warning] no token for Azure: refused with status 400: invalid_request: Identity not found.", "identity_not_found"),
        ("hello", "nothing"),
        ("", "nothing"),
    ];
    for (text, expected) in rows {
        assert_eq!(slug(Diagnosis::of_text(&ErrorBody::read(text.as_bytes()))), expected, "{text}");
    }
    for (_, body, expected) in RESPONSES {
        assert_eq!(
            slug(Diagnosis::of_text(&ErrorBody::read(body.as_bytes()))),
            *expected,
            "{body}"
        );
    }
}

#[test]
fn the_examples_of_each_row_are_recognised() {
    for row in Diagnosis::all() {
        assert!(!row.examples().is_empty(), "{}", row.slug);
        for text in row.examples() {
            assert_eq!(
                slug(Diagnosis::of_text(&ErrorBody::read(text.as_bytes()))),
                row.slug,
                "{text}"
            );
        }
    }
}

#[test]
fn slugs_are_unique_and_sentences_end() {
    let slugs: BTreeSet<_> = Diagnosis::all().map(|row| row.slug).collect();
    assert_eq!(slugs.len(), Diagnosis::all().count());
    for row in Diagnosis::all() {
        assert!(!row.cause.ends_with('.') && row.remedy.ends_with('.'), "{}", row.slug);
    }
}

#[test]
fn the_log_line_has_the_cause_the_remedy_and_the_circumstances() {
    let claims = Claims {
        audience: Some("https://cognitiveservices.azure.com".to_owned()),
        tenant: Some("t-1".to_owned()),
        principal: Some("o-1".to_owned()),
        application: Some("a-1".to_owned()),
        resource_id: Some("/subscriptions/s".to_owned()),
        ..Claims::default()
    };
    let line = |status, body: &str, claims: Option<&Claims>| {
        let error = ErrorBody::read(body.as_bytes());
        let diagnosis = Diagnosis::of_response(status, &error).unwrap();
        let (backend, resource) = ("eastus", "contoso-eastus.openai.azure.com");
        let audience = "https://ai.azure.com";
        Finding { diagnosis, status, error: &error, backend, resource, audience, claims }
            .to_string()
    };
    let row = |slug: &str| {
        let Diagnosis { cause, remedy, .. } =
            Diagnosis::all().find(|row| row.slug == slug).unwrap();
        format!("{slug}: {cause}. {remedy}")
    };
    assert_eq!(
        line(401, ROLE, Some(&claims)),
        format!(
            "backend eastus responded 401, {} About: resource contoso-eastus.openai.azure.com, \
             data action Microsoft.CognitiveServices/accounts/OpenAI/deployments/chat/completions/action, \
             principal 11111111-0000-4000-8000-000000000011, application a-1, identity /subscriptions/s, \
             tenant t-1, audience https://cognitiveservices.azure.com",
            row("role_missing")
        )
    );
    // What a backend puts where a name belongs is not repeated unless it is one.
    let odd = r#"{"error":{"code":"PermissionDenied","message":"The principal `eyJ x` lacks the required data action ``"}}"#;
    assert_eq!(
        line(401, odd, None),
        format!(
            "backend eastus responded 401, {} About: resource contoso-eastus.openai.azure.com, \
             audience https://ai.azure.com",
            row("role_missing")
        )
    );
}

#[test]
fn only_small_plain_errors_are_inspected() {
    let json = ("content-type", "application/json");
    let rows: &[(u16, &[(&str, &str)], bool)] = &[
        (400, &[json, ("content-length", "161")], true),
        (401, &[json], true),
        (403, &[("content-encoding", "identity")], true),
        (404, &[("content-length", "4096")], true),
        (404, &[("content-length", "4097")], false),
        (404, &[("content-length", "many")], false),
        (400, &[("content-encoding", "gzip")], false),
        (400, &[("content-type", "text/event-stream; charset=utf-8")], false),
        (200, &[json], false),
        (408, &[json], false),
        (429, &[json], false),
        (500, &[json], false),
    ];
    for (status, headers, expected) in rows {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        assert_eq!(may_tell(*status, headers), *expected, "{status}");
    }
    let statuses =
        BACKENDS.iter().filter(|row| row.mistake != Mistake::Nobodys).flat_map(|row| row.statuses);
    assert!(statuses.copied().all(may_have_status), "none is missed");
}
