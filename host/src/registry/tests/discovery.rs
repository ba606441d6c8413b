use alknet_plugin_api::Visibility;
use proptest::prelude::*;

use super::*;

fn names(list: &Value) -> Vec<&str> {
    let operations = list["operations"].as_array().unwrap();
    operations.iter().map(|operation| operation["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn c30_a_listing_holds_exactly_what_the_caller_may_call() {
    let registry = freeze([
        echo(OperationSpec::query("b/open").description("Says it back").tag("talk")),
        echo(OperationSpec::mutation("a/closed").access(scopes(&["x"]))),
        echo(OperationSpec::query("a/inner").internal()),
    ]);
    let anonymous = Peer::anonymous(&registry);
    let list = anonymous.call("/services/list", json!({})).await.unwrap();
    assert_eq!(names(&list), ["b/open", "services/list", "services/schema", "services/whoami"]);
    assert_eq!(
        list["operations"][0],
        json!({
            "name": "b/open",
            "namespace": "b",
            "op_type": "query",
            "description": "Says it back",
            "tags": ["talk"],
        })
    );
    let known = Peer::with_scopes(&registry, &["x"]);
    let list = known.call("/services/list", json!({})).await.unwrap();
    assert_eq!(
        names(&list),
        ["a/closed", "b/open", "services/list", "services/schema", "services/whoami"]
    );
}

#[tokio::test]
async fn c30_a_full_listing_has_the_schema_of_each_operation_of_the_listing() {
    let registry = freeze([
        echo(OperationSpec::query("b/open").input(json!({ "type": "object" })).error("X", "y")),
        echo(OperationSpec::mutation("a/closed").access(scopes(&["x"]))),
        echo(OperationSpec::query("a/inner").internal()),
    ]);
    for scopes in [&[][..], &["x"]] {
        let peer = Peer::with_scopes(&registry, scopes);
        let list = peer.call("/services/list", json!({})).await.unwrap();
        let full = peer.call("/services/list", json!({ "full": true })).await.unwrap();
        assert_eq!(names(&full), names(&list));
        for operation in full["operations"].as_array().unwrap() {
            let name = json!({ "name": operation["name"] });
            assert_eq!(&peer.call("/services/schema", name).await.unwrap(), operation);
        }
    }
    let peer = Peer::anonymous(&registry);
    assert_eq!(peer.code("/services/list", json!({ "full": 1 })).await, "INVALID_INPUT");
    // Nothing was wanted once, and whatever came was taken.
    assert_eq!(names(&peer.call("/services/list", json!(null)).await.unwrap())[0], "b/open");
}

#[tokio::test]
async fn c30_a_schema_is_the_full_spec_or_not_found() {
    let spec = OperationSpec::query("a/open").input(json!({ "type": "object" })).error("X", "y");
    let registry = freeze([
        echo(spec.clone()),
        echo(OperationSpec::query("a/closed").access(scopes(&["x"]))),
        echo(OperationSpec::query("a/inner").internal()),
    ]);
    let peer = Peer::with_scopes(&registry, &[]);
    for name in ["a/open", "/a/open"] {
        let schema = peer.call("/services/schema", json!({ "name": name })).await.unwrap();
        assert_eq!(serde_json::from_value::<OperationSpec>(schema).unwrap(), spec);
    }
    for name in ["a/closed", "a/inner", "a/unknown", "//a/open"] {
        assert_eq!(peer.code("/services/schema", json!({ "name": name })).await, "NOT_FOUND");
    }
    assert_eq!(peer.code("/services/schema", json!({})).await, "INVALID_INPUT");
}

#[tokio::test]
async fn composed_discovery_shows_what_the_parent_may_invoke() {
    let mut parent = operation(OperationSpec::query("a/parent"), |context, input| async move {
        context.invoke("services/list", input).await
    });
    parent.scoped_env = reach(&["services/list", "a/inner", "a/closed"]);
    let registry = freeze([
        parent,
        echo(OperationSpec::query("a/inner").internal()),
        echo(OperationSpec::query("a/closed").access(scopes(&["x"]))),
        echo(OperationSpec::query("a/open")),
    ]);
    let peer = Peer::with_scopes(&registry, &["x"]);
    let list = peer.call("/a/parent", json!({})).await.unwrap();
    assert_eq!(names(&list), ["a/inner", "services/list"]);
}

#[tokio::test]
async fn list_peers_is_opt_in_and_shows_the_node_as_local() {
    let registry = freeze([echo(OperationSpec::query("a/open"))]);
    let peer = Peer::anonymous(&registry);
    assert_eq!(peer.code("/services/list-peers", json!({})).await, "NOT_FOUND");
    let mut builder = builder();
    builder.register(echo(OperationSpec::query("a/open"))).list_peers();
    let peer = Peer::anonymous(&builder.freeze().unwrap());
    let list = peer.call("/services/list-peers", json!({})).await.unwrap();
    assert_eq!(list["peers"].as_array().unwrap().len(), 1);
    assert_eq!(list["peers"][0]["peer_id"], "local");
    assert_eq!(names(&list["peers"][0])[0], "a/open");
}

const WORDS: [&str; 3] = ["x", "y", "z"];

fn some_words() -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(WORDS.to_vec(), 0..=3)
        .prop_map(|words| words.into_iter().map(str::to_owned).collect())
}

fn some_access() -> impl Strategy<Value = AccessControl> {
    let word = proptest::option::of(proptest::sample::select(WORDS.to_vec()));
    (some_words(), proptest::option::of(some_words()), word.clone(), word).prop_map(
        |(required_scopes, required_scopes_any, resource_type, resource_action)| AccessControl {
            required_scopes,
            required_scopes_any,
            resource_type: resource_type.map(str::to_owned),
            resource_action: resource_action.map(str::to_owned),
        },
    )
}

fn some_identity() -> impl Strategy<Value = Option<Identity>> {
    let resources = proptest::collection::btree_map(
        proptest::sample::select(WORDS.to_vec()),
        some_words(),
        0..3,
    );
    let identity = (some_words(), resources).prop_map(|(scopes, resources)| Identity {
        id: "dora".into(),
        scopes,
        resources: resources.into_iter().map(|(kind, list)| (kind.to_owned(), list)).collect(),
    });
    proptest::option::of(identity)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn c30_list_schema_and_dispatch_agree(
        operations in proptest::collection::vec((some_access(), any::<bool>()), 1..6),
        caller in some_identity(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let registry = freeze(operations.iter().enumerate().map(|(i, (access, internal))| {
                let mut spec = OperationSpec::query(format!("op/{i}")).access(access.clone());
                if *internal {
                    spec.visibility = Visibility::Internal;
                }
                echo(spec)
            }));
            let people = Arc::new(People::default());
            let id = caller.as_ref().map(|caller| caller.id.clone());
            people.0.lock().extend(caller.map(|caller| (caller.id.clone(), Arc::new(caller))));
            let peer = Peer::new(&registry, &people, id.as_deref());
            let list = peer.call("/services/list", json!({})).await.unwrap();
            let listed = names(&list);
            for (i, (_, internal)) in operations.iter().enumerate() {
                let name = format!("op/{i}");
                let schema = peer.call("/services/schema", json!({ "name": name })).await;
                let called = peer.call(&name, json!({})).await;
                assert_eq!(listed.contains(&&*name), called.is_ok(), "{called:?}");
                assert_eq!(schema.is_ok(), called.is_ok());
                if let Err(error) = schema {
                    assert_eq!(error.code, "NOT_FOUND");
                }
                if let Err(error) = called {
                    let expected = if *internal { "NOT_FOUND" } else { "FORBIDDEN" };
                    assert_eq!(error.code, expected);
                }
            }
        });
    }
}
