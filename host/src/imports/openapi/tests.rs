//! Documents become operations: names, types, inputs, outputs, errors.

use std::sync::Arc;

use alknet_plugin_api::{CapabilityKind, OperationSpec, OperationType};
use reqwest::Url;
use serde_json::{Value, json};

use super::document::{Document, DocumentError};
use super::operations::{Found, Service, operations};
use crate::capabilities::{Lent, Use};
use crate::imports::http::HttpClient;
use crate::imports::selection::Selection;
use crate::registry::Entry;

#[derive(Clone, Copy, Default)]
struct At<'a> {
    base_url: Option<&'a str>,
    document_url: Option<&'a str>,
    credential: Option<&'a Lent>,
}

fn read(document: Value, at: At<'_>) -> Result<Vec<Found>, Vec<DocumentError>> {
    let document = Document::parse(&document.to_string()).unwrap();
    let client = HttpClient::new(1024, None).unwrap();
    let url = at.document_url.map(|url| Url::parse(url).unwrap());
    let service = Service {
        client: &client,
        base_url: at.base_url,
        document_url: url.as_ref(),
        credential: at.credential,
    };
    operations(&document, &Selection::new("pets"), &service)
}

/// A document of one operation, `GET /pets/{id}` unless `change` makes it another.
fn document(version: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut document = json!({
        "openapi": version,
        "info": {"title": "Pets", "version": "1"},
        "servers": [{"url": "http://127.0.0.1:1/v1/"}],
        "paths": {"/pets/{id}": {"get": {
            "operationId": "get pet",
            "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "integer"}}],
            "responses": {"200": {"description": "the pet", "content": {"application/json": {
                "schema": {"$ref": "#/components/schemas/Pet"}}}}},
        }}},
        "components": {"schemas": {"Pet": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string"}, "parent": {"$ref": "#/components/schemas/Pet"}},
        }}},
    });
    change(&mut document);
    document
}

fn operation(document: &mut Value) -> &mut Value {
    &mut document["paths"]["/pets/{id}"]["get"]
}

fn one(document: Value) -> Found {
    let mut found = read(document, At::default()).unwrap_or_else(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        panic!("{problems:?}")
    });
    assert_eq!(found.len(), 1);
    let found = found.remove(0);
    // Whatever comes out, the registry has to take it.
    compiles(&found.spec);
    found
}

fn compiles(spec: &OperationSpec) {
    use alknet_plugin_api::{CallFuture, Json};

    struct Nothing;
    impl crate::registry::HostOperation for Nothing {
        fn call(&self, _: crate::registry::HostCall, _: Json) -> CallFuture {
            Box::pin(std::future::pending())
        }
    }
    if spec.op_type != OperationType::Subscription {
        let code = crate::registry::Code::Host(Arc::new(Nothing));
        let registration = crate::registry::HandlerRegistration::new(spec.clone(), code, "pets");
        Entry::compile(registration).unwrap();
    }
}

fn problem(document: Value) -> String {
    let problems = read(document, At::default()).unwrap_err();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn names_are_operation_ids_or_else_methods_and_paths() {
    assert_eq!(one(document("3.1.0", |_| {})).spec.name, "pets/get_pet");
    let unnamed = document("3.1.0", |document| {
        operation(document).as_object_mut().unwrap().remove("operationId");
    });
    let spec = one(unnamed).spec;
    assert_eq!((&*spec.name, &*spec.namespace), ("pets/get_pets_id", "pets"));
    let twice = document("3.1.0", |document| {
        let operation = operation(document).clone();
        document["paths"]["/pets/{id}"]["put"] = operation;
    });
    let text = problem(twice);
    assert!(text.contains("#/paths/~1pets~1{id}/put") && text.contains("`get_pet`"), "{text}");
    assert!(text.contains("#/paths/~1pets~1{id}/get, too"), "{text}");
}

#[test]
fn types_follow_method_and_answers() {
    let op_type = |method: &str, content: Value| {
        let changed = document("3.0.0", |document| {
            let mut operation = operation(document).take();
            operation["responses"]["200"]["content"] = content;
            document["paths"]["/pets/{id}"] = json!({ method: operation });
        });
        let found = one(changed);
        assert_eq!(found.is_stream, found.spec.op_type == OperationType::Subscription);
        found.spec.op_type
    };
    let json = json!({"application/json": {}});
    assert_eq!(op_type("get", json.clone()), OperationType::Query);
    for method in ["post", "put", "patch", "delete", "head"] {
        assert_eq!(op_type(method, json.clone()), OperationType::Mutation, "{method}");
    }
    let events = json!({"text/event-stream; charset=utf-8": {"schema": {"type": "string"}}});
    assert_eq!(op_type("get", events.clone()), OperationType::Subscription);
    assert_eq!(op_type("post", events), OperationType::Subscription);
    // What can answer either way is asked for one answer.
    let both = json!({"text/event-stream": {}, "application/json": {}});
    assert_eq!(op_type("post", both), OperationType::Mutation);
}

#[test]
fn an_input_holds_parameters_and_body_and_keeps_them_apart() {
    let spec = one(document("3.0.1", |document| {
        document["paths"]["/pets/{id}"]["parameters"] = json!([
            {"name": "page", "in": "query", "schema": {"type": "string"}, "description": "of the path"},
            {"name": "page", "in": "header", "schema": {"type": "string"}},
            {"$ref": "#/components/parameters/Body"},
            {"name": "Authorization", "in": "header", "schema": {}},
        ]);
        document["components"]["parameters"] =
            json!({"Body": {"name": "body", "in": "query", "schema": {"type": "boolean"}}});
        operation(document)["parameters"].as_array_mut().unwrap().push(json!(
            {"name": "page", "in": "query", "required": true, "schema": {"type": "integer", "nullable": true}}
        ));
        operation(document)["requestBody"] = json!({"required": true, "content": {
            "text/plain": {},
            "application/json": {"schema": {"$ref": "#/components/schemas/Pet"}},
        }});
    }))
    .spec;
    assert_eq!(
        spec.input_schema,
        json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["id", "query.page", "body"],
            "properties": {
                "id": {"type": "integer"},
                "query.page": {"type": ["integer", "null"]},
                "header.page": {"type": "string"},
                "query.body": {"type": "boolean"},
                "body": {"$ref": "#/$defs/Pet"},
            },
            "$defs": {"Pet": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parent": {"$ref": "#/$defs/Pet"}},
            }},
        })
    );
}

#[test]
fn outputs_are_the_successes_and_errors_the_rest() {
    let spec = one(document("3.1.0", |document| {
        operation(document)["responses"] = json!({
            "200": {"description": "", "content": {"application/json": {"schema": {"type": "array"}}}},
            "2XX": {"description": "", "content": {"text/plain": {}, "image/png": {}}},
            "204": {"description": "nothing"},
            "404": {"$ref": "#/components/responses/Missing"},
            "4XX": {"description": "other"},
            "default": {"description": "anything"},
        });
        document["components"]["responses"] = json!({"Missing": {"description": "no pet",
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Pet"}}}}});
    }))
    .spec;
    assert_eq!(
        spec.output_schema,
        json!({"anyOf": [
            {"type": "array"}, {"type": "null"},
            {"type": "string", "contentEncoding": "base64"}, {"type": "string"},
        ]})
    );
    let codes: Vec<_> =
        spec.error_schemas.iter().map(|error| (&*error.code, error.http_status)).collect();
    assert_eq!(codes, [("HTTP_404", Some(404)), ("HTTP_4XX", None), ("HTTP_DEFAULT", None)]);
    let missing = &spec.error_schemas[0];
    assert_eq!(missing.description, "no pet");
    assert_eq!(missing.schema["properties"]["body"], json!({"$ref": "#/$defs/Pet"}));
    let silent = one(document("3.1.0", |document| operation(document)["responses"] = json!({})));
    assert_eq!(silent.spec.output_schema, json!(true));
}

#[test]
fn what_people_read_is_carried_over() {
    let spec = one(document("3.1.0", |document| {
        let operation = operation(document);
        operation["summary"] = json!("One pet");
        operation["description"] = json!("One pet by its number.");
        operation["tags"] = json!(["pets"]);
        operation["deprecated"] = json!(true);
        operation["parameters"][0]["examples"] = json!({"a": {"value": 7}});
    }))
    .spec;
    assert_eq!(spec.description, "Deprecated. One pet. One pet by its number.");
    assert_eq!(spec.tags, ["pets", "deprecated"]);
    assert_eq!(spec.examples, [json!({"id": 7})]);
    // An example that lacks what is required would show a call that fails.
    assert_eq!(one(document("3.1.0", |_| {})).spec.examples, [] as [Value; 0]);
}

#[test]
fn a_service_is_where_the_document_or_the_operator_says() {
    let base = |servers: Value, at: At<'_>| {
        let document = document("3.1.0", |document| document["servers"] = servers);
        read(document, at).map(|found| found[0].endpoint.base.clone()).map_err(|p| p[0].to_string())
    };
    let at_url = At { document_url: Some("https://h.example/docs/openapi.json"), ..At::default() };
    assert_eq!(
        base(json!([{"url": "http://a.example/v1/"}]), At::default()).unwrap(),
        "http://a.example/v1"
    );
    assert_eq!(base(json!([{"url": "/v2"}]), at_url).unwrap(), "https://h.example/v2");
    assert_eq!(base(json!([]), at_url).unwrap(), "https://h.example");
    let variable = json!([{"url": "https://{host}/{v}", "variables": {
        "host": {"default": "b.example"}, "v": {"default": "v3", "enum": ["v3"]}}}]);
    assert_eq!(base(variable, At::default()).unwrap(), "https://b.example/v3");
    let given = At { base_url: Some("http://c.example/"), ..at_url };
    assert_eq!(base(json!([{"url": "{nonsense}"}]), given).unwrap(), "http://c.example");
    for servers in [
        json!([]),
        json!([{"url": "/v2"}]),
        json!([{"url": "https://{h}"}]),
        json!([{"url": "file:///etc"}]),
    ] {
        let text = base(servers, At::default()).unwrap_err();
        assert!(text.contains("base_url"), "{text}");
    }
}

#[test]
fn a_credential_goes_where_it_is_asked_for_and_at_home() {
    let lent = Lent::new(CapabilityKind::Bearer, Use::default(), "s3cret").unwrap();
    let with = |change: fn(&mut Value), at: At<'_>| {
        let at = At { credential: Some(&lent), ..at };
        let found = read(document("3.1.0", change), at).unwrap().remove(0);
        (found.endpoint.credential.is_some(), found.doubt)
    };
    assert_eq!(with(|_| {}, At::default()), (true, None));
    // Nobody may lead the credential elsewhere: not the document's server, not a
    // single operation.
    let elsewhere = At { document_url: Some("https://h.example/openapi.json"), ..At::default() };
    let (carried, doubt) = with(|_| {}, elsewhere);
    assert!(!carried && doubt.unwrap().contains("without the credential"));
    let own: fn(&mut Value) =
        |document| operation(document)["servers"] = json!([{"url": "https://other.example"}]);
    assert!(!with(own, At::default()).0);
    let told = At { base_url: Some("http://127.0.0.1:1/v1"), ..elsewhere };
    assert_eq!(with(own, told), (true, None));
    // What a document says of security.
    fn schemes(document: &mut Value) {
        document["security"] = json!([{"key": []}]);
        document["components"]["securitySchemes"] = json!({
            "key": {"type": "apiKey", "in": "header", "name": "X-Key"},
            "token": {"type": "http", "scheme": "Bearer"},
            "login": {"type": "oauth2", "flows": {}},
        });
    }
    let (carried, doubt) = with(schemes, At::default());
    assert!(carried && doubt.unwrap().contains("`key`"));
    let public: fn(&mut Value) = |document| {
        schemes(document);
        operation(document)["security"] = json!([]);
    };
    assert_eq!(with(public, At::default()), (false, None));
    for scheme in ["token", "login"] {
        let mut document = document("3.1.0", schemes);
        operation(&mut document)["security"] = json!([{}, { scheme: [] }]);
        let at = At { credential: Some(&lent), ..At::default() };
        let found = read(document, at).unwrap().remove(0);
        assert!(found.endpoint.credential.is_some() && found.doubt.is_none(), "{scheme}");
    }
    let key = Lent::new(CapabilityKind::Header, Use { header: Some("x-key"), reveal: false }, "k");
    let at = At { credential: Some(&key.unwrap()), ..At::default() };
    assert_eq!(read(document("3.1.0", schemes), at).unwrap().remove(0).doubt, None);
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let text = problem(document("3.1.0", |document| {
        let operation = operation(document);
        operation["parameters"] = json!([{"$ref": "common.yaml#/Id"}]);
        let mut other = operation.clone();
        other["operationId"] = json!("other");
        other["parameters"] = json!([]);
        document["paths"]["/pets/{id}"]["delete"] = other;
    }));
    assert!(text.contains("#/paths/~1pets~1{id}/get/parameters/0: `common.yaml#/Id`"), "{text}");
    assert!(text.contains("redocly bundle"), "{text}");
    assert!(text.contains("`{id}` is not among the parameters"), "{text}");
    for (pointer, value, expected) in [
        ("/parameters/0/in", json!("body"), "`body` is no place"),
        ("/parameters/0/style", json!("form"), "the style `form`"),
        ("/parameters/0/schema", json!("string"), "a schema is an object"),
        ("/responses/200", json!({"$ref": "#/none"}), "refers to nothing"),
        ("/responses", json!({"ok": {}}), "`ok` is no status"),
        ("/requestBody", json!({}), "a request body needs `content`"),
        ("/requestBody", json!({"content": {"multipart/mixed": {}}}), "none of the body's"),
    ] {
        let text = problem(document("3.1.0", |document| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = operation(document).pointer_mut(parent).unwrap();
            match key.parse::<usize>() {
                Ok(index) if parent.is_array() => parent[index] = value.clone(),
                _ => parent[key] = value.clone(),
            }
        }));
        assert!(text.contains(expected), "{pointer}: {text}");
    }
    // What is left out is not looked at.
    let broken = document("3.1.0", |document| operation(document)["responses"] = json!([]));
    let document = Document::parse(&broken.to_string()).unwrap();
    let client = HttpClient::new(1, None).unwrap();
    let service = Service { client: &client, base_url: None, document_url: None, credential: None };
    let selection = Selection::new("pets").exclude(["get_*"]);
    assert_eq!(operations(&document, &selection, &service).unwrap().len(), 0);
}

/// `oas3` reads 3.1 into types of its own.
#[test]
fn another_reader_finds_the_same_operations() {
    let document = document("3.1.0", |document| {
        let operation = operation(document).clone();
        for (path, method) in [("/pets/{id}", "delete"), ("/other/{id}", "post")] {
            let mut other = operation.clone();
            other["operationId"] = json!(format!("{method} pet"));
            document["paths"][path][method] = other;
        }
    });
    let theirs = oas3::from_json(document.to_string()).unwrap();
    let mut theirs: Vec<_> = theirs
        .operations()
        .map(|(path, method, operation)| {
            let id = operation.operation_id.clone().unwrap().replace(' ', "_");
            (format!("pets/{id}"), method.to_string(), path)
        })
        .collect();
    let mut ours: Vec<_> = read(document, At::default())
        .unwrap()
        .into_iter()
        .map(|found| {
            (found.spec.name, found.endpoint.method.to_string(), found.endpoint.path.to_string())
        })
        .collect();
    theirs.sort();
    ours.sort();
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), 3);
}
