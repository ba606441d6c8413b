use futures_util::FutureExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use alknet_plugin_api::{Capability, CapabilityKind, ErrorDefinition};

use super::*;

fn hanging(name: &str, dropped: &Arc<AtomicUsize>) -> HandlerRegistration {
    let dropped = dropped.clone();
    operation(OperationSpec::query(name), move |_, _| {
        let flag = DropFlag(dropped.clone());
        async move {
            let _flag = flag;
            std::future::pending().await
        }
    })
}

#[tokio::test(start_paused = true)]
async fn c16_a_handler_past_its_deadline_is_cancelled() {
    let dropped = Arc::default();
    let registry = freeze([hanging("slow/query", &dropped)]);
    let peer = Peer::anonymous(&registry);
    let begun = tokio::time::Instant::now();
    let error = peer.call("/slow/query", json!({})).await.unwrap_err();
    assert_eq!((&*error.code, error.retryable), ("TIMEOUT", true));
    assert_eq!(begun.elapsed().as_secs(), 30, "the default applies");
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn c16_a_subscription_that_never_waits_is_cancelled_too() {
    let spec = OperationSpec::subscription("tick/fast");
    let ticks = plugin("tick", vec![spec], |on| {
        on.subscription_stream("tick/fast", |_, _| {
            futures_util::stream::repeat_with(|| Ok(Json::null()))
        });
    });
    let registry = freeze(ticks);
    let peer = Peer::anonymous(&registry);
    let mut request = peer.request("/tick/fast", json!({}));
    request.timeout = Some(Duration::from_secs(1));
    let mut call = peer.gateway.dispatch(request);
    assert_eq!(call.next().await, Some(GatewayEvent::Responded(Json::null())));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(call.next().await, Some(GatewayEvent::Error(CallError::timeout())));
    assert_eq!(call.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn c17_a_timeout_above_the_maximum_is_capped() {
    let registry = freeze([hanging("slow/query", &Arc::default())]);
    let peer = Peer::anonymous(&registry);
    let begun = tokio::time::Instant::now();
    let mut request = peer.request("/slow/query", json!({}));
    request.timeout = Some(Duration::MAX);
    let error = answer(peer.gateway.dispatch(request)).await.unwrap_err();
    assert_eq!(error.code, "TIMEOUT");
    assert_eq!(begun.elapsed().as_secs(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_budget_of_nothing_runs_no_handler() {
    let ran = Arc::new(AtomicUsize::new(0));
    let counter = ran.clone();
    let registry = freeze([operation(OperationSpec::query("a/b"), move |_, input| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move { Ok(input) }
    })]);
    let peer = Peer::anonymous(&registry);
    let mut request = peer.request("/a/b", json!({}));
    request.timeout = Some(Duration::ZERO);
    assert_eq!(answer(peer.gateway.dispatch(request)).await.unwrap_err().code, "TIMEOUT");
    assert_eq!(ran.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn c20_the_257th_call_in_flight_is_refused() {
    let dropped = Arc::default();
    let registry = freeze([hanging("slow/query", &dropped), echo(OperationSpec::query("a/b"))]);
    let peer = Peer::anonymous(&registry);
    let mut calls: Vec<_> = (0..256).map(|_| peer.start("/slow/query", json!({}))).collect();
    for call in &mut calls {
        start(call).await;
    }
    let error = peer.call("/a/b", json!({})).await.unwrap_err();
    assert_eq!((&*error.code, error.retryable), ("RESOURCE_EXHAUSTED", true));
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "the first 256 go on");
    for call in &mut calls {
        start(call).await;
    }
    drop(calls.pop());
    assert!(peer.call("/a/b", json!({})).await.is_ok(), "a place was given back");
    let other = Peer::anonymous(&registry);
    assert!(other.call("/a/b", json!({})).await.is_ok(), "the limit is a connection's");
}

#[tokio::test]
async fn c22_forwarded_for_changes_no_decision_and_escapes_no_limit() {
    let mut builder = builder();
    builder
        .register(echo(OperationSpec::query("a/secret").access(scopes(&["secret"]))))
        .register(echo(OperationSpec::query("a/open")))
        .limits(Limits {
            rate: Some(RateLimit { per_second: 0.001, burst: 2.0 }),
            ..Limits::default()
        });
    let registry = builder.freeze().unwrap();
    let peer = Peer::with_scopes(&registry, &[]);
    let mut request = peer.request("/a/secret", json!({}));
    request.forwarded_for = vec![identity("root", &["secret"])];
    assert_eq!(answer(peer.gateway.dispatch(request)).await.unwrap_err().code, "FORBIDDEN");
    assert!(peer.call("/a/open", json!({})).await.is_ok());
    let mut request = peer.request("/a/open", json!({}));
    request.forwarded_for = vec![identity("somebody-else", &[])];
    let error = answer(peer.gateway.dispatch(request)).await.unwrap_err();
    assert_eq!(error.code, "RESOURCE_EXHAUSTED");
    let details: Value = error.details.unwrap().to().unwrap();
    assert!(details["retry_after"].as_f64().unwrap() > 1.0);
}

#[tokio::test]
async fn c23_internal_is_not_found_whatever_the_scopes() {
    let spec = OperationSpec::query("a/inner").access(scopes(&["x"])).internal();
    let registry = freeze([echo(spec)]);
    let peer = Peer::with_scopes(&registry, &["x", "admin"]);
    assert_eq!(peer.code("/a/inner", json!({})).await, "NOT_FOUND");
    assert_eq!(peer.code("/a/unknown", json!({})).await, "NOT_FOUND");
}

#[tokio::test]
async fn c24_unrestricted_runs_and_restricted_asks_for_authentication() {
    let registry = freeze([
        echo(OperationSpec::query("a/open")),
        echo(OperationSpec::query("a/closed").access(scopes(&["x"]))),
    ]);
    let peer = Peer::anonymous(&registry);
    assert_eq!(peer.call("/a/open", json!({"n": 1})).await, Ok(json!({"n": 1})));
    let error = peer.call("/a/closed", json!({})).await.unwrap_err();
    assert_eq!((&*error.code, &*error.message), ("FORBIDDEN", "authentication required"));
}

#[tokio::test]
async fn at_most_one_leading_slash_is_stripped() {
    let registry = freeze([echo(OperationSpec::query("a/open"))]);
    let peer = Peer::anonymous(&registry);
    assert!(peer.call("a/open", json!({})).await.is_ok());
    assert_eq!(peer.code("//a/open", json!({})).await, "NOT_FOUND");
}

#[tokio::test]
async fn c26_a_missing_resource_id_is_invalid_input() {
    let store = Arc::new(MemoryOwnership::default());
    store.record("dora", "note", "n1").now_or_never().unwrap().unwrap();
    let access = AccessControl { resource_type: Some("note".into()), ..Default::default() };
    let spec = OperationSpec::query("a/note").access(access).resource_id_path("/ref/id");
    let mut builder = builder();
    builder.register(echo(spec)).ownership(store);
    let registry = builder.freeze().unwrap();
    let peer = Peer::with_scopes(&registry, &[]);
    for bad in [json!({}), json!({"ref": {"id": 7}}), json!(null), json!({"ref": "n1"})] {
        assert_eq!(peer.code("/a/note", bad).await, "INVALID_INPUT");
    }
    assert!(peer.call("/a/note", json!({"ref": {"id": "n1"}})).await.is_ok());
    assert_eq!(peer.code("/a/note", json!({"ref": {"id": "n2"}})).await, "FORBIDDEN");
}

/// Counts how often somebody looks at it.
struct Watched(Arc<AtomicUsize>);

impl alknet_plugin_api::CapabilityBackend for Watched {
    fn kind(&self) -> CapabilityKind {
        self.0.fetch_add(1, Ordering::SeqCst);
        CapabilityKind::Bearer
    }
    fn reveal(&self) -> Option<bytes::Bytes> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Some("secret".into())
    }
    fn sign(&self, _: &[u8]) -> Option<[u8; 64]> {
        self.0.fetch_add(1, Ordering::SeqCst);
        None
    }
}

#[tokio::test]
async fn c27_a_denied_call_runs_nothing_and_touches_no_capability() {
    let (ran, touched) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counter = ran.clone();
    let spec = OperationSpec::query("a/closed").access(scopes(&["x"]));
    let mut registration = operation(spec, move |context, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            context.capability("key").unwrap().reveal().unwrap();
            Ok(Json::null())
        }
    });
    let capability = Capability::new(Arc::new(Watched(touched.clone())));
    registration.capabilities.insert("key".into(), capability);
    let registry = freeze([registration]);
    assert_eq!(Peer::anonymous(&registry).code("/a/closed", json!({})).await, "FORBIDDEN");
    let denied = Peer::with_scopes(&registry, &["y"]);
    assert_eq!(denied.code("/a/closed", json!({})).await, "FORBIDDEN");
    assert_eq!((ran.load(Ordering::SeqCst), touched.load(Ordering::SeqCst)), (0, 0));
    let allowed = Peer::with_scopes(&registry, &["x"]);
    assert!(allowed.call("/a/closed", json!({})).await.is_ok());
    assert_eq!((ran.load(Ordering::SeqCst), touched.load(Ordering::SeqCst)), (1, 1));
}

fn whoami() -> HandlerRegistration {
    operation(OperationSpec::query("who/am-i"), |context, _| async move {
        Ok(Json::of(&context.identity().map(|identity| identity.id.clone())).unwrap())
    })
}

#[tokio::test]
async fn c28_a_token_changes_the_identity_of_one_request() {
    let people = Arc::new(People::default());
    people.add(identity("dora", &[]));
    people.add(identity("emil", &[]));
    let registry = freeze([whoami()]);
    let peer = Peer::new(&registry, &people, Some("dora"));
    assert_eq!(peer.call("/who/am-i", json!({})).await, Ok(json!("dora")));
    let mut request = peer.request("/who/am-i", json!({}));
    request.auth_token = Some("token-emil".into());
    assert_eq!(answer(peer.gateway.dispatch(request)).await, Ok(json!("emil")));
    assert_eq!(peer.call("/who/am-i", json!({})).await, Ok(json!("dora")));
}

#[tokio::test]
async fn c29_an_unknown_token_is_refused_even_where_nobody_need_be_known() {
    let people = Arc::new(People::default());
    people.add(identity("dora", &[]));
    let registry = freeze([whoami()]);
    let peer = Peer::new(&registry, &people, Some("dora"));
    for operation in ["/who/am-i", "/no/such"] {
        let mut request = peer.request(operation, json!({}));
        request.auth_token = Some("token-nobody".into());
        let error = answer(peer.gateway.dispatch(request)).await.unwrap_err();
        assert_eq!((&*error.code, &*error.message), ("FORBIDDEN", "invalid token"));
    }
}

#[tokio::test]
async fn a_reload_acts_on_live_connections() {
    let people = Arc::new(People::default());
    people.add(identity("dora", &["x"]));
    let registry = freeze([echo(OperationSpec::query("a/closed").access(scopes(&["x"])))]);
    let peer = Peer::new(&registry, &people, Some("dora"));
    assert!(peer.call("/a/closed", json!({})).await.is_ok());
    people.add(identity("dora", &[]));
    assert_eq!(peer.code("/a/closed", json!({})).await, "FORBIDDEN");
}

#[tokio::test]
async fn c34_invalid_input_never_reaches_the_handler() {
    let ran = Arc::new(AtomicUsize::new(0));
    let counter = ran.clone();
    let spec = OperationSpec::query("a/b").input(json!({
        "type": "object",
        "properties": { "n": { "type": "integer" } },
        "required": ["n"],
    }));
    let registry = freeze([operation(spec, move |_, input| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move { Ok(input) }
    })]);
    let peer = Peer::anonymous(&registry);
    let error = peer.call("/a/b", json!({"n": "x"})).await.unwrap_err();
    assert_eq!(error.code, "INVALID_INPUT");
    let details: Vec<BTreeMap<String, String>> = error.details.unwrap().to().unwrap();
    assert_eq!(details[0].keys().collect::<Vec<_>>(), ["message", "path"]);
    assert_eq!(details[0]["path"], "/n");
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let mut request = peer.request("/a/b", json!({}));
    request.input = Json::parse(deep).unwrap();
    assert_eq!(answer(peer.gateway.dispatch(request)).await.unwrap_err().code, "INVALID_INPUT");
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    assert!(peer.call("/a/b", json!({"n": 1})).await.is_ok());
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn c35_declared_errors_pass_and_others_become_internal() {
    let spec = OperationSpec::query("a/fail")
        .error("NOTE_LOCKED", "somebody writes")
        .error_definition(ErrorDefinition {
            code: "HELD".into(),
            description: String::new(),
            schema: json!({ "type": "object", "required": ["holder"] }),
            http_status: Some(423),
        });
    let registry =
        freeze([operation(
            spec,
            |_, input: Json| async move { Err(input.to::<CallError>().unwrap()) },
        )]);
    let peer = Peer::anonymous(&registry);
    let fail = async |error: CallError| {
        peer.call("/a/fail", serde_json::to_value(error).unwrap()).await.unwrap_err()
    };
    let locked = CallError::new("NOTE_LOCKED", "held").retryable(true);
    assert_eq!(fail(locked.clone()).await, locked);
    let held = CallError::new("HELD", "held").with_details(json!({ "holder": "w2" }));
    assert_eq!(fail(held.clone()).await, held);
    let original = |error: CallError| {
        assert_eq!(error.code, "INTERNAL");
        error.details.unwrap().to::<Value>().unwrap()["code"].clone()
    };
    assert_eq!(original(fail(CallError::new("HELD", "no details")).await), "HELD");
    assert_eq!(original(fail(CallError::new("SECRET", "hunter2")).await), "SECRET");
    assert_eq!(original(fail(CallError::not_found("x")).await), "NOT_FOUND");
    assert_eq!(original(fail(CallError::timeout()).await), "TIMEOUT");
    assert!(!fail(CallError::new("SECRET", "hunter2")).await.message.contains("hunter2"));
    assert_eq!(fail(CallError::invalid_input("x")).await.code, "INVALID_INPUT");
}

#[tokio::test]
async fn c35_imports_pass_what_the_other_side_said() {
    let failing = |provenance| {
        let mut failing = operation(OperationSpec::query("x/fail"), |_, input: Json| async move {
            Err(input.to::<CallError>().unwrap())
        });
        failing.provenance = provenance;
        failing
    };
    let registry = freeze([]);
    let peer = Peer::anonymous(&registry);
    let code = async |code: &'static str| {
        let error = serde_json::to_value(CallError::new(code, "x")).unwrap();
        peer.code("/x/fail", error).await
    };
    registry.attach_import("x", vec![failing(Provenance::FromCall)], &|_| true).unwrap();
    assert_eq!(code("RESOURCE_EXHAUSTED").await, "RESOURCE_EXHAUSTED");
    assert_eq!(code("OTHER").await, "INTERNAL");
    registry.attach_import("x", vec![failing(Provenance::FromOpenApi)], &|_| true).unwrap();
    assert_eq!(code("HTTP_503").await, "HTTP_503");
    assert_eq!(code("HTTP_5033").await, "INTERNAL");
    assert_eq!(code("NOT_FOUND").await, "INTERNAL");
}

#[tokio::test]
async fn c37_the_output_of_what_we_do_not_trust_is_checked() {
    for provenance in [
        Provenance::Session,
        Provenance::Promoted,
        Provenance::FromOpenApi,
        Provenance::FromJsonSchema,
        Provenance::FromMcp,
        Provenance::FromCall,
    ] {
        let mut registration =
            echo(OperationSpec::query("a/b").output(json!({ "type": "integer" })));
        registration.provenance = provenance;
        let registry = freeze([registration]);
        let peer = Peer::anonymous(&registry);
        assert_eq!(peer.call("/a/b", json!(1)).await, Ok(json!(1)));
        let error = peer.call("/a/b", json!("x")).await.unwrap_err();
        assert_eq!(error.code, "INTERNAL", "{provenance:?}");
    }
}

#[tokio::test]
async fn c37_local_output_is_checked_where_the_deployment_says_so() {
    let spec = OperationSpec::subscription("a/count").output(json!({ "maximum": 1 }));
    let registry = freeze(plugin("a", vec![spec], |on| {
        on.subscription_stream("a/count", |_, _| {
            futures_util::stream::iter((0..9).map(|n| Ok(Json::of(&n).unwrap())))
        });
    }));
    let peer = Peer::anonymous(&registry);
    assert_eq!(events(peer.start("/a/count", json!({}))).await.len(), 10);
    registry.set_limits(Limits { validate_local_output: true, ..Limits::default() });
    let all = events(peer.start("/a/count", json!({}))).await;
    assert_eq!(all.len(), 3, "two items, and the error that ends the stream: {all:?}");
    assert!(matches!(&all[2], GatewayEvent::Error(error) if error.code == "INTERNAL"));
}

#[tokio::test]
async fn c38_a_panic_costs_one_call() {
    let dropped = Arc::default();
    let hang = hanging("slow/query", &dropped);
    let early = operation(OperationSpec::query("bad/early"), |_, _| -> BoxFuture<'static, _> {
        panic!("before the future")
    });
    let late = operation(OperationSpec::query("bad/late"), |_, _| async {
        tokio::task::yield_now().await;
        panic!("after a wait")
    });
    struct BadDrop;
    impl Drop for BadDrop {
        fn drop(&mut self) {
            panic!("while dropped")
        }
    }
    let bad_drop = operation(OperationSpec::query("bad/drop"), |_, _| async {
        let _bad = BadDrop;
        std::future::pending().await
    });
    let registry = freeze([hang, early, late, bad_drop]);
    let peer = Peer::anonymous(&registry);
    let mut other = peer.start("/slow/query", json!({}));
    start(&mut other).await;
    assert_eq!(peer.code("/bad/early", json!({})).await, "INTERNAL");
    assert_eq!(peer.code("/bad/late", json!({})).await, "INTERNAL");
    let mut bad = peer.start("/bad/drop", json!({}));
    start(&mut bad).await;
    drop(bad);
    start(&mut other).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_subscription_ends_in_one_way_and_a_call_never_completes() {
    let specs = vec![
        OperationSpec::subscription("a/count"),
        OperationSpec::subscription("a/fail").error("BROKEN", ""),
    ];
    let registry = freeze(plugin("a", specs, |on| {
        on.subscription("a/count", |_, n: u32, mut sink| async move {
            for i in 0..n {
                sink.send(&i).await?;
            }
            Ok(())
        });
        on.subscription("a/fail", |_, _: Value, mut sink| async move {
            sink.send(&1).await?;
            Err(CallError::new("BROKEN", "x"))
        });
    }));
    let peer = Peer::anonymous(&registry);
    let item = |n: u32| GatewayEvent::Responded(Json::of(&n).unwrap());
    assert_eq!(
        events(peer.start("/a/count", json!(2))).await,
        [item(0), item(1), GatewayEvent::Completed]
    );
    assert_eq!(
        events(peer.start("/a/fail", json!(2))).await,
        [item(1), GatewayEvent::Error(CallError::new("BROKEN", "x"))]
    );
}

#[tokio::test]
async fn an_id_in_flight_cannot_be_used_again_until_its_call_has_ended() {
    let registry = freeze([hanging("slow/query", &Arc::default())]);
    let peer = Peer::anonymous(&registry);
    let request = peer.request("/slow/query", json!({}));
    let mut first = peer.gateway.dispatch(request.clone());
    start(&mut first).await;
    let second = answer(peer.gateway.dispatch(request.clone())).await.unwrap_err();
    assert_eq!(second.code, "INVALID_INPUT");
    start(&mut first).await;
    drop(first);
    start(&mut peer.gateway.dispatch(request)).await;
}

#[tokio::test]
async fn malformed_requests_are_invalid_input() {
    let registry = freeze([echo(OperationSpec::query("a/b"))]);
    let peer = Peer::anonymous(&registry);
    for id in [String::new(), "x".repeat(129)] {
        let mut request = peer.request("/a/b", json!({}));
        request.request_id = id;
        assert_eq!(answer(peer.gateway.dispatch(request)).await.unwrap_err().code, "INVALID_INPUT");
    }
    let mut request = peer.request("/a/b", json!({}));
    request.forwarded_for = vec![Identity::default(); 9];
    assert_eq!(answer(peer.gateway.dispatch(request)).await.unwrap_err().code, "INVALID_INPUT");
}

/// Keeps what it hears as text.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Recorder for Notes {
    fn call_started(&self, call: &CallStarted<'_>) {
        self.0.lock().push(format!("start {} {}", call.plugin, call.operation));
    }
    fn call_ended(&self, call: &CallEnded<'_>) {
        let code = call.code.unwrap_or("OK");
        self.0.lock().push(format!("end {} {code} {:?}", call.operation, call.caller));
    }
    fn call_refused(&self, call: &CallRefused<'_>) {
        self.0.lock().push(format!("refuse {} {}", call.operation, call.code));
    }
    fn access_decided(&self, access: &AccessDecided<'_>) {
        let decision = match access.decision {
            Ok(allowed) => allowed.to_string(),
            Err(denied) => denied.to_string(),
        };
        self.0.lock().push(format!("access {} {decision}", access.operation));
    }
    fn authentication_failed(&self, connection: u64) {
        self.0.lock().push(format!("token {connection}"));
    }
}

#[tokio::test]
async fn the_recorder_hears_of_every_call_once() {
    let notes = Arc::new(Notes::default());
    let mut builder = builder();
    builder
        .register(echo(OperationSpec::query("a/open")))
        .register(echo(OperationSpec::query("a/closed").access(scopes(&["x"]))))
        .recorder(notes.clone());
    let registry = builder.freeze().unwrap();
    let peer = Peer::with_scopes(&registry, &[]);
    peer.call("/a/open", json!({})).await.unwrap();
    peer.call("/a/closed", json!({})).await.unwrap_err();
    peer.call("/a/unknown", json!({})).await.unwrap_err();
    let mut request = peer.request("/a/open", json!({}));
    request.auth_token = Some("hunter2".into());
    answer(peer.gateway.dispatch(request)).await.unwrap_err();
    assert_eq!(
        *notes.0.lock(),
        [
            "access a/open the operation is unrestricted",
            "start echo a/open",
            "end a/open OK Some(\"dora\")",
            "access a/closed missing required scope: x",
            "refuse a/closed FORBIDDEN",
            "refuse a/unknown NOT_FOUND",
            "token 7",
            "refuse a/open FORBIDDEN",
        ]
    );
}
