//! The table of operations is held complete against the published OpenAPI descriptions: OpenAI's, and
//! Azure's of the data plane v1. A row has a method, a path, and where the request names its model.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails this way; clippy knows helpers of tests only within cfg(test)"
)]

use aoai_filter::request::operation::{Class, ModelSource, Operation};
use aoai_filter::request::path::Target;

const OPENAI: &str = include_str!("operations/openai.tsv");
const AZURE: &str = include_str!("operations/azure-v1.tsv");

/// Operations with a model that they do not use: they look one up in the resource's catalog, or filter a
/// list by it.
const NOT_USED: [(&str, &str); 3] =
    [("GET", "/models/{model}"), ("DELETE", "/models/{model}"), ("GET", "/chat/completions")];

struct Row {
    method: &'static str,
    path: &'static str,
    place: &'static str,
}

fn rows(table: &'static str) -> Vec<Row> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let row = |line: &'static str| {
        let [method, path, place] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not a row: {line}");
        };
        Row { method, path, place }
    };
    lines.map(row).collect()
}

fn find(method: &str, path: &str) -> Operation {
    let target = Target::parse(path.as_bytes()).unwrap();
    Operation::find(method, target.segments(), target.query()).unwrap()
}

/// The path of a request: identifiers in the places of parameters.
fn filled(path: &str) -> String {
    path.replace(['{', '}'], "")
}

#[test]
fn the_tables_are_those_of_the_descriptions() {
    let count = |table| {
        let rows = rows(table);
        (rows.len(), rows.iter().filter(|row| row.place == "body").count())
    };
    assert_eq!(count(OPENAI), (162, 20));
    assert_eq!(count(AZURE), (106, 8));
}

#[test]
fn every_operation_whose_body_names_a_model_is_bound_by_the_models_of_a_subscription() {
    for Row { method, path, place } in rows(OPENAI).into_iter().chain(rows(AZURE)) {
        for start in ["/openai/v1", "/openai", "/OpenAI/V1"] {
            let operation = find(method, &filled(&format!("{start}{path}")));
            let name = format!("{method} {start}{path}");
            let is_right = match place {
                _ if NOT_USED.contains(&(method, path)) => operation.model == ModelSource::Nowhere,
                "body" => {
                    matches!(operation.model, ModelSource::Body | ModelSource::BodyIfAny)
                }
                "query" => operation.model == ModelSource::Query,
                "path" => matches!(operation.model, ModelSource::Segment(_)),
                // A session of Azure's dated previews names a model where the description is silent.
                "nowhere" if path == "/realtime/sessions" => {
                    operation.model == ModelSource::BodyIfAny
                }
                "nowhere" => operation.model == ModelSource::Nowhere,
                _ => panic!("{name}: {place} is no place"),
            };
            assert!(is_right, "{name}: {place}, but {:?}", operation.model);
        }
    }
}

#[test]
fn only_what_uses_a_model_and_the_catalog_are_inference() {
    for Row { method, path, place } in rows(OPENAI).into_iter().chain(rows(AZURE)) {
        let operation = find(method, &filled(&format!("/openai/v1{path}")));
        if operation.class == Class::Inference {
            let is_catalog = method == "GET" && path.starts_with("/models");
            assert!(place == "body" || is_catalog, "{method} {path}");
        } else {
            assert!(operation.is_stateful, "{method} {path}");
        }
    }
}
