use alknet_plugin_api::{ErrorDefinition, Visibility};

use super::*;

fn problems(registrations: Vec<HandlerRegistration>) -> Vec<RegistryError> {
    let mut builder = builder();
    for registration in registrations {
        builder.register(registration);
    }
    builder.freeze().unwrap_err()
}

#[tokio::test]
async fn c31_duplicate_names_name_both_plugins() {
    let mut first = echo(OperationSpec::query("notes/find"));
    first.plugin = "alpha".into();
    let mut second = echo(OperationSpec::query("notes/find"));
    second.plugin = "beta".into();
    let problems = problems(vec![first, second]);
    assert_eq!(problems.len(), 1);
    let text = problems[0].to_string();
    for part in ["notes/find", "alpha", "beta"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn c31_the_nodes_own_names_are_taken() {
    let problems = problems(vec![echo(OperationSpec::query("services/list"))]);
    assert!(matches!(problems[..], [RegistryError::Duplicate { .. }]), "{problems:?}");
}

#[tokio::test]
async fn c32_an_override_narrows_and_never_widens() {
    let mut hidden = echo(OperationSpec::query("notes/a"));
    hidden.visibility = Some(Visibility::Internal);
    let registry = freeze([hidden]);
    assert_eq!(registry.operation("notes/a").unwrap().spec().visibility, Visibility::Internal);
    let mut exposed = echo(OperationSpec::query("notes/b").internal());
    exposed.visibility = Some(Visibility::External);
    assert!(matches!(problems(vec![exposed])[..], [RegistryError::Widening { .. }]));
}

#[tokio::test]
async fn c33_code_of_the_wrong_kind_stops_the_start() {
    let mut once = echo(OperationSpec::query("notes/a"));
    once.spec.op_type = alknet_plugin_api::OperationType::Subscription;
    assert!(matches!(problems(vec![once])[..], [RegistryError::Kind { .. }]));
}

#[tokio::test]
async fn c64_an_authority_with_promote_stops_the_start() {
    let mut promoting = echo(OperationSpec::query("notes/a"));
    promoting.authority = authority("notes", &["notes:read", "promote"]);
    assert!(matches!(problems(vec![promoting])[..], [RegistryError::Promote { .. }]));
    let mut builder = builder();
    builder.grant("notes", authority("notes", &["promote"]), ScopedPeerEnv::default());
    assert!(matches!(builder.freeze().unwrap_err()[..], [RegistryError::Promote { .. }]));
}

#[tokio::test]
async fn everything_that_is_wrong_is_reported_at_once() {
    let mut pointer = echo(OperationSpec::query("notes/a"));
    pointer.spec.resource_id_path = Some("/id".into());
    let schema = echo(OperationSpec::query("notes/b").input(json!({ "type": 7 })));
    let mut codes = echo(OperationSpec::query("notes/c"));
    codes.spec.error_schemas.push(ErrorDefinition {
        code: "TIMEOUT".into(),
        description: String::new(),
        schema: json!({ "$ref": "https://example.com/x" }),
        http_status: None,
    });
    let session = echo(OperationSpec::query("session/a"));
    let peer = echo(OperationSpec::query("peer/a"));
    let mut import = echo(OperationSpec::query("weather/now"));
    import.provenance = Provenance::FromOpenApi;
    import.authority = authority("weather", &[]);
    let problems = problems(vec![pointer, schema, codes, session, peer, import]);
    let count =
        |matches: fn(&RegistryError) -> bool| problems.iter().filter(|p| matches(p)).count();
    assert_eq!(count(|p| matches!(p, RegistryError::Spec { .. })), 2);
    assert_eq!(count(|p| matches!(p, RegistryError::Schema { .. })), 2);
    assert_eq!(count(|p| matches!(p, RegistryError::ReservedPrefix { .. })), 2);
    assert_eq!(count(|p| matches!(p, RegistryError::ImportComposes { .. })), 1);
    assert_eq!(problems.len(), 7, "{problems:?}");
}

#[tokio::test]
async fn c57_imports_are_internal_until_exposed_by_name() {
    let registry = freeze([]);
    let import = |name: &str| {
        let mut import = echo(OperationSpec::query(name));
        import.provenance = Provenance::FromCall;
        import
    };
    let both = || vec![import("peer/b/x"), import("peer/b/y")];
    registry.attach_import("b", both(), &|name| name == "peer/b/y").unwrap();
    let peer = Peer::anonymous(&registry);
    assert_eq!(peer.code("/peer/b/x", json!({})).await, "NOT_FOUND");
    assert_eq!(peer.call("/peer/b/y", json!(1)).await, Ok(json!(1)));
    registry.attach_import("b", vec![import("peer/b/x")], &|_| true).unwrap();
    assert_eq!(peer.call("/peer/b/x", json!(1)).await, Ok(json!(1)));
    assert_eq!(peer.code("/peer/b/y", json!({})).await, "NOT_FOUND", "the set was replaced");
    registry.detach_import("b");
    assert_eq!(peer.code("/peer/b/x", json!({})).await, "NOT_FOUND");
}

#[tokio::test]
async fn c58_imports_cannot_take_a_core_name() {
    let registry = freeze([echo(OperationSpec::query("notes/find"))]);
    let mut import = echo(OperationSpec::query("notes/find"));
    import.provenance = Provenance::FromCall;
    let problems = registry.attach_import("b", vec![import], &|_| true).unwrap_err();
    assert!(matches!(problems[..], [RegistryError::Shadows { .. }]), "{problems:?}");
}

#[tokio::test]
async fn imports_cannot_take_a_sessions_name() {
    let registry = freeze([]);
    let mut import = echo(OperationSpec::query("session/s1/x"));
    import.provenance = Provenance::FromCall;
    let problems = registry.attach_import("b", vec![import], &|_| true).unwrap_err();
    assert!(matches!(problems[..], [RegistryError::ReservedPrefix { .. }]), "{problems:?}");
}

#[tokio::test]
async fn findings_name_what_can_never_work() {
    let mut parent = echo(OperationSpec::query("a/parent"));
    parent.authority = authority("a", &["x"]);
    parent.scoped_env = reach(&["a/gone", "a/needs-x", "a/needs-y", "a/inner"]);
    let nobody = AccessControl { required_scopes_any: Some(Vec::new()), ..Default::default() };
    let mut builder = builder();
    builder
        .register(parent)
        .register(echo(OperationSpec::query("a/needs-x").access(scopes(&["x"]))))
        .register(echo(OperationSpec::query("a/needs-y").access(scopes(&["y"]))))
        .register(echo(OperationSpec::query("a/inner").internal()))
        .register(echo(OperationSpec::query("a/lonely").internal()))
        .register(echo(OperationSpec::query("a/nobody").access(nobody)))
        .grant("notes", None, reach(&["a/needs-x", "a/parent"]));
    let findings = builder.freeze().unwrap().findings();
    let from = "operation `a/parent`".to_owned();
    let of_echo = |operation: &str| (operation.to_owned(), "echo".to_owned());
    let (lonely, nobody) = (of_echo("a/lonely"), of_echo("a/nobody"));
    assert_eq!(
        findings,
        [
            Finding::Unknown { from: from.clone(), plugin: "echo".into(), target: "a/gone".into() },
            Finding::NeverAllowed {
                from,
                plugin: "echo".into(),
                target: "a/needs-y".into(),
                reason: access::Denied::MissingScope("y".into()),
            },
            Finding::NeverAllowed {
                from: "plugin `notes`".into(),
                plugin: "notes".into(),
                target: "a/needs-x".into(),
                reason: access::Denied::AuthenticationRequired,
            },
            Finding::Unreachable { operation: lonely.0, plugin: lonely.1 },
            Finding::Unsatisfiable { operation: nobody.0, plugin: nobody.1 },
        ]
    );
}

#[tokio::test]
async fn c36_each_code_has_its_http_status() {
    let spec = OperationSpec::query("a/b").error("PLAIN", "").error_definition(ErrorDefinition {
        code: "HELD".into(),
        description: String::new(),
        schema: json!(true),
        http_status: Some(423),
    });
    let registry = freeze([echo(spec)]);
    let entry = registry.operation("a/b").unwrap();
    for (code, status) in [
        ("NOT_FOUND", 404),
        ("FORBIDDEN", 403),
        ("INVALID_INPUT", 422),
        ("INVALID_OPERATION_TYPE", 400),
        ("INTERNAL", 500),
        ("TIMEOUT", 504),
        ("RESOURCE_EXHAUSTED", 429),
        ("ABORTED", 409),
        ("HELD", 423),
        ("PLAIN", 500),
        ("HTTP_418", 418),
        ("HTTP_099", 500),
        ("HTTP_4180", 500),
        ("UNKNOWN", 500),
    ] {
        assert_eq!(entry.spec().http_status(code), status, "{code}");
    }
}
