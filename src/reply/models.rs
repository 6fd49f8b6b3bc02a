//! The models that a subscription may use, as the data plane lists them: `GET /openai/v1/models`, whose
//! models have OpenAI's form, and `GET /openai/models`, whose models have Azure's
//! (azure-rest-api-specs, AzureOpenAI/authoring, `ModelList`).
//!
//! The gateway knows a model's name, and that it can be used. It makes up nothing else.

use super::LocalResponse;
use crate::request::operation::ModelForm;

/// The time at which a model was created, which OpenAI's form requires and the gateway does not know.
const CREATED: u64 = 0;

/// The response with all of these models.
pub fn list(form: ModelForm, names: &[&str]) -> LocalResponse {
    let models: Vec<String> = names.iter().map(|name| object(form, name)).collect();
    found(format!(r#"{{"object":"list","data":[{}]}}"#, models.join(",")))
}

/// The response with one model.
pub fn one(form: ModelForm, name: &str) -> LocalResponse {
    found(object(form, name))
}

fn found(body: String) -> LocalResponse {
    let headers = vec![("content-type", "application/json".to_owned())];
    LocalResponse { status: 200, headers, body }
}

fn object(form: ModelForm, name: &str) -> String {
    let id = serde_json::to_string(name).unwrap_or_default();
    match form {
        ModelForm::V1 => format!(
            r#"{{"id":{id},"object":"model","created":{CREATED},"owned_by":"azure-openai"}}"#
        ),
        ModelForm::Dated => format!(
            r#"{{"id":{id},"object":"model","status":"succeeded","capabilities":{{"inference":true}}}}"#
        ),
    }
}
