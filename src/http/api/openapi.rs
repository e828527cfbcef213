//! The API's description (`OpenAPI` 3.1), made from the types of its answers and from a table of
//! its operations. A test compares that table with the routes.

mod operations;

use std::sync::LazyLock;

use bytes::Bytes;
use http::Method;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use self::operations::OPERATIONS;
use super::problem::Document;
use super::{Owner, ROUTES, Route};
use crate::http::{Response, answer};

/// What one row of the routes' table takes and answers.
struct Operation {
    method: Method,
    pattern: &'static str,
    summary: &'static str,
    /// In the query.
    parameters: &'static [Parameter],
    /// What the document in the request's body looks like.
    body: Option<fn(&mut SchemaGenerator) -> Schema>,
    /// Statuses of success, and problems apart from those that every route has.
    answers: &'static [Answer],
}

/// A parameter in the query. All are optional.
struct Parameter {
    name: &'static str,
    what: &'static str,
    schema: fn() -> Value,
    /// It selects by a value that identifies a person.
    is_masked: bool,
}

struct Answer {
    status: u16,
    what: &'static str,
    content: Content,
}

enum Content {
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Anything else, by its content type.
    Other(&'static str),
    Problem,
}

fn json_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// The document as it is served.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// `GET /v1/openapi.json`
pub(super) fn show() -> Response {
    answer::json(http::StatusCode::OK, DOCUMENT.clone())
}

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.clone().for_serialize().into_generator();
    // What may be left out of a body is not required.
    let mut bodies = settings.for_deserialize().into_generator();
    let problem = json_of::<Document<'_>>(&mut generator).to_value();
    let mut paths = Map::new();
    for operation in &OPERATIONS {
        let path = paths.entry(operation.pattern).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] =
            operation.describe(&mut generator, &mut bodies, &problem);
    }
    let mut schemas = generator.take_definitions(true);
    schemas.extend(bodies.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "nightporter",
            "description": "The operator's API. Every error under `/v1` is a problem document \
                            (RFC 9457) whose `type` is stable.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`ops.token`, or a token that `nightporter token add` has \
                                    made. Without `ops.token`, whoever reaches the listener \
                                    may use the API.",
                },
            },
        },
    })
}

impl Operation {
    fn describe(
        &self,
        generator: &mut SchemaGenerator,
        bodies: &mut SchemaGenerator,
        problem: &Value,
    ) -> Value {
        let Self { method, pattern, summary, parameters, body, answers } = self;
        let is_versioned = pattern.starts_with("/v1/");
        let in_path: Vec<&str> = parameters_of(pattern).collect();
        let mut described: Vec<Value> = in_path
            .iter()
            .map(|name| {
                json!({"name": name, "in": "path", "required": true,
                       "schema": {"type": "string", "minLength": 1}})
            })
            .collect();
        described.extend(parameters.iter().map(Parameter::describe));
        if !method.is_safe() {
            described.push(json!({
                "name": "Idempotency-Key", "in": "header", "required": false,
                "description": "Has the request done once, however often it is repeated within \
                                24 hours: a string in double quotes (RFC 9651) of 1 to 255 \
                                bytes (draft-ietf-httpapi-idempotency-key-header).",
                "schema": {"type": "string", "pattern": "^\"[ !#-\\[\\]-~]{1,255}\"$"},
            }));
        }
        let mut responses = Map::new();
        let mut add = |status: u16, what: &str, content_type: &str, schema: Option<Value>| {
            let content = schema.map_or_else(|| json!({}), |schema| json!({"schema": schema}));
            let mut response = json!({"description": what, "content": {content_type: content}});
            // What the guard and the table of keys answer is not kept.
            let is_kept = !method.is_safe() && !matches!(status, 401 | 408 | 413 | 422 | 429 | 501);
            let mut headers = headers(status, is_kept);
            if is_versioned {
                let what = "`true` if the token lacks the right `pii`: values that identify a \
                            person are masked.";
                let schema = json!({"type": "string", "enum": ["true"]});
                headers.insert(
                    "X-PII-Masked".to_owned(),
                    json!({"description": what, "schema": schema}),
                );
            }
            if !headers.is_empty() {
                response["headers"] = headers.into();
            }
            let Some(known) = responses.get_mut(&status.to_string()) else {
                responses.insert(status.to_string(), response);
                return;
            };
            // One status for two reasons, such as of a probe and of the guard.
            let schema = &mut known["content"][content_type]["schema"];
            let other = &response["content"][content_type]["schema"];
            if schema.is_object() && schema != other {
                *schema = json!({"anyOf": [schema.take(), other]});
            }
        };
        for Answer { status, what, content } in *answers {
            match content {
                Content::Json(of) => add(*status, what, JSON, Some(of(generator).to_value())),
                Content::Other(content_type) => add(*status, what, content_type, None),
                Content::Problem => add(*status, what, PROBLEM, Some(problem.clone())),
            }
        }
        let detail = || {
            json!({"type": "object", "properties": {"detail": {"type": "string"}},
                               "required": ["detail"]})
        };
        let is_this = |route: &&Route| route.method == *method && route.pattern == *pattern;
        let is_of_box = ROUTES.iter().find(is_this).is_some_and(|route| route.owner == Owner::Box);
        for (status, what) in common(method, !in_path.is_empty(), is_versioned, is_of_box) {
            if is_versioned {
                add(status, what, PROBLEM, Some(problem.clone()));
            } else {
                add(status, what, JSON, Some(detail()));
            }
        }
        let mut operation =
            json!({"summary": summary, "parameters": described, "responses": responses});
        if let Some(of) = body {
            let schema = of(bodies).to_value();
            operation["requestBody"] =
                json!({"required": true, "content": {JSON: {"schema": schema}}});
        }
        operation
    }
}

/// Returns the errors that every route has: their statuses, and why.
fn common(
    method: &Method,
    has_parameters: bool,
    is_versioned: bool,
    is_of_box: bool,
) -> impl Iterator<Item = (u16, &'static str)> {
    let changes = !method.is_safe();
    [
        (400, "A parameter, a header or the body is not as it should be.", is_versioned),
        (401, "The token is missing, or is not valid.", true),
        (403, "The token has no right to this, or the request comes from another site.", true),
        (404, "What the path names does not exist.", has_parameters),
        (404, "The token is one of another box.", is_of_box),
        (408, "The body did not arrive in time.", changes),
        (
            409,
            "A request with the same key is being done, or its answer cannot be opened, or the rows \
             are those of another box.",
            changes,
        ),
        (413, "The body is larger than 64 KiB.", changes),
        (422, "The key belongs to another request.", changes),
        (429, "The token has as many keys as it may have.", changes),
        (500, "An error of nightporter.", true),
        (501, "The ledger is disabled, so no key can be kept.", changes),
        (503, "The ledger's archive cannot answer, not even whose token it is.", true),
    ]
    .into_iter()
    .filter(|(_, _, applies)| *applies)
    .map(|(status, what, _)| (status, what))
}

/// Returns the headers of an answer that clients have to know.
fn headers(status: u16, is_kept: bool) -> Map<String, Value> {
    let mut headers = Map::new();
    let mut add = |name: &str, what: &str, schema: Value| {
        headers.insert(name.to_owned(), json!({"description": what, "schema": schema}));
    };
    let seconds = json!({"type": "integer", "minimum": 0});
    match status {
        202 | 409 | 429 | 503 => add("Retry-After", "When to try again, in seconds.", seconds),
        401 => add("WWW-Authenticate", "`Bearer`", json!({"type": "string"})),
        _ => {}
    }
    if is_kept {
        let what = "`true` if an earlier request with the key was answered so.";
        add("Idempotency-Replayed", what, json!({"type": "string", "enum": ["true"]}));
    }
    headers
}

impl Parameter {
    fn describe(&self) -> Value {
        let Self { name, what, schema, is_masked } = self;
        let mut described =
            json!({"name": name, "in": "query", "description": what, "schema": schema()});
        if *is_masked {
            described["x-masked"] = true.into();
        }
        described
    }
}

/// Returns the names of a pattern's parameters.
fn parameters_of(pattern: &str) -> impl Iterator<Item = &str> {
    pattern.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let of_routes: Vec<_> =
            ROUTES.iter().map(|route| format!("{} {}", route.method, route.pattern)).collect();
        let described: Vec<_> =
            OPERATIONS.iter().map(|of| format!("{} {}", of.method, of.pattern)).collect();
        let missing: Vec<_> = of_routes.iter().filter(|of| !described.contains(of)).collect();
        let unknown: Vec<_> = described.iter().filter(|of| !of_routes.contains(of)).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "{missing:?} {unknown:?}");
        assert_eq!(of_routes.len(), described.len(), "none is described twice");
        let document = document();
        for of in &OPERATIONS {
            let method = of.method.as_str().to_ascii_lowercase();
            assert!(document["paths"][of.pattern][method]["responses"].is_object());
        }
    }

    #[test]
    fn a_body_requires_no_more_than_the_server_does() {
        let document = document();
        for (body, expected) in [
            ("WantedToken", &["name", "rights"][..]),
            ("WantedEndpoint", &["kind", "url"]),
            ("ChangedEndpoint", &[]),
            ("WantedSilence", &[]),
        ] {
            let required = document["components"]["schemas"][body].get("required");
            let mut required: Vec<_> =
                required.and_then(Value::as_array).into_iter().flatten().collect();
            required.sort_by_key(|name| name.as_str());
            assert_eq!(required, expected, "{body}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_personal_values_are_marked() {
        let document = document();
        let text = document.to_string();
        let references = text.split("\"$ref\":\"#").skip(1);
        let mut count = 0;
        for reference in references.filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(reference).is_some(), "{reference}");
            count += 1;
        }
        assert!(count > 20, "{count}");
        let record = &document["components"]["schemas"]["Record"]["properties"];
        for name in ["path", "client_id", "client_name", "address"] {
            assert_eq!(record[name]["x-masked"], true, "{name}: {record}");
        }
    }

    #[test]
    fn whatever_any_token_may_be_answered_is_described() {
        let document = document();
        for route in &ROUTES {
            let method = route.method.as_str().to_ascii_lowercase();
            let described = &document["paths"][route.pattern][method];
            let what = format!("{} {}", route.method, route.pattern);
            let responses = &described["responses"];
            assert!(responses["503"].is_object() && responses["401"].is_object(), "{what}");
            assert!(responses["404"].is_object() || route.owner != Owner::Box, "{what}");
            let parameters = described["parameters"].as_array().expect("a list");
            let takes = parameters.iter().any(|parameter| parameter["name"] == "tenant");
            assert_eq!(takes, route.owner == Owner::Tenant, "{what}");
            if !route.method.is_safe() {
                for status in ["404", "409", "500", "503"] {
                    let headers = &responses[status]["headers"];
                    assert!(
                        headers["Idempotency-Replayed"].is_object() || responses[status].is_null(),
                        "{what} {status}"
                    );
                }
            }
        }
        let silence = &document["paths"]["/v1/alerts/{id}/silence"]["post"];
        assert!(silence["requestBody"]["content"][JSON]["schema"].is_object(), "{silence}");
        // A probe says what it finds; a token that cannot be looked up is told otherwise.
        let probe = &document["paths"]["/readyz"]["get"]["responses"]["503"]["content"][JSON];
        assert_eq!(probe["schema"]["anyOf"].as_array().map(Vec::len), Some(2), "{probe}");
    }

    #[test]
    fn requests_that_change_something_take_a_key() {
        let document = document();
        for of in OPERATIONS.iter().filter(|of| !of.method.is_safe()) {
            let method = of.method.as_str().to_ascii_lowercase();
            let described = &document["paths"][of.pattern][method];
            let parameters = described["parameters"].as_array().expect("a list");
            let takes = |parameter: &Value| parameter["name"] == "Idempotency-Key";
            assert!(parameters.iter().any(takes), "{}", of.pattern);
            for status in ["409", "422", "429"] {
                let content = &described["responses"][status]["content"];
                assert!(content[PROBLEM].is_object(), "{} {status}", of.pattern);
            }
        }
    }
}
