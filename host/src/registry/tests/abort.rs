use std::sync::atomic::{AtomicUsize, Ordering};

use alknet_plugin_api::{AbortPolicy, OperationContext};
use futures_util::StreamExt;
use tokio::sync::{Notify, mpsc};

use super::*;

const DEPENDENTS: AbortPolicy = AbortPolicy::AbortDependents;
const CONTINUE: AbortPolicy = AbortPolicy::ContinueRunning;

/// Holds a resource and waits for ever.
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

fn composing(
    name: &str,
    targets: &[&str],
    policy: AbortPolicy,
    dropped: &Arc<AtomicUsize>,
) -> HandlerRegistration {
    let (names, dropped): (Vec<String>, _) =
        (targets.iter().map(ToString::to_string).collect(), dropped.clone());
    let mut composing =
        operation(OperationSpec::query(name), move |context: OperationContext, input| {
            let (names, flag) = (names.clone(), DropFlag(dropped.clone()));
            async move {
                let _flag = flag;
                let env = context.env();
                let calls =
                    names.iter().map(|name| env.invoke_with_policy(name, input.clone(), policy));
                futures_util::future::join_all(calls).await.into_iter().next_back().unwrap()
            }
        });
    composing.scoped_env = reach(targets);
    composing
}

#[tokio::test]
async fn c47_an_abort_stops_the_running_handler() {
    let dropped = Arc::default();
    let registry = freeze([hanging("a/hang", &dropped)]);
    let peer = Peer::anonymous(&registry);
    let request = peer.request("/a/hang", json!({}));
    let id = request.request_id.clone();
    let mut call = peer.gateway.dispatch(request);
    start(&mut call).await;
    peer.gateway.abort(&id, DEPENDENTS);
    let GatewayEvent::Error(error) = call.next().await.unwrap() else { panic!() };
    assert_eq!(error.code, "ABORTED");
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(call.next().await, None);
    peer.gateway.abort(&id, DEPENDENTS);
    peer.gateway.abort("unknown", DEPENDENTS);
}

#[tokio::test]
async fn c47_dropping_the_call_drops_the_handlers_resources() {
    let dropped = Arc::default();
    let registry = freeze([hanging("a/hang", &dropped)]);
    let peer = Peer::anonymous(&registry);
    for n in 1..=1000 {
        let mut call = peer.start("/a/hang", json!({}));
        start(&mut call).await;
        drop(call);
        assert_eq!(dropped.load(Ordering::SeqCst), n);
    }
    assert_eq!(Arc::strong_count(&registry), 2, "no call is left that holds the registry");
}

#[tokio::test]
async fn c47_an_abort_before_the_first_poll_runs_no_handler() {
    let ran = Arc::new(AtomicUsize::new(0));
    let counter = ran.clone();
    let registry = freeze([operation(OperationSpec::query("a/b"), move |_, input| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move { Ok(input) }
    })]);
    let peer = Peer::anonymous(&registry);
    let request = peer.request("/a/b", json!({}));
    let id = request.request_id.clone();
    let call = peer.gateway.dispatch(request);
    peer.gateway.abort(&id, DEPENDENTS);
    assert_eq!(answer(call).await.unwrap_err().code, "ABORTED");
    let call = peer.start("/a/b", json!({}));
    drop(peer);
    assert_eq!(answer(call).await.unwrap_err().code, "ABORTED");
    assert_eq!(ran.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn c48_an_abort_reaches_depth_3_and_subscriptions_and_not_siblings() {
    let dropped: [Arc<AtomicUsize>; 4] = Default::default();
    let [top, middle, leaf, sibling] = &dropped;
    let stream_dropped = Arc::new(AtomicUsize::new(0));
    let in_stream = stream_dropped.clone();
    let stream_started = Arc::new(Notify::new());
    let tell = stream_started.clone();
    let mut all = plugin("s", vec![OperationSpec::subscription("s/tick")], move |on| {
        on.subscription("s/tick", move |_, _: Value, mut sink| {
            let flag = DropFlag(in_stream.clone());
            tell.notify_one();
            async move {
                let _flag = flag;
                sink.send(&1).await?;
                std::future::pending().await
            }
        });
    });
    let mut watcher = operation(OperationSpec::query("a/watch"), |context, input| async move {
        let items = context.subscribe("s/tick", input);
        items.count().await;
        Ok(Json::null())
    });
    watcher.scoped_env = reach(&["s/tick"]);
    all.push(watcher);
    all.push(hanging("a/leaf", leaf));
    all.push(hanging("a/sibling", sibling));
    all.push(composing("a/middle", &["a/leaf", "a/watch"], DEPENDENTS, middle));
    all.push(composing("a/top", &["a/middle"], DEPENDENTS, top));
    let registry = freeze(all);
    let peer = Peer::anonymous(&registry);
    let request = peer.request("/a/top", json!({}));
    let id = request.request_id.clone();
    let mut call = peer.gateway.dispatch(request);
    let mut other = peer.start("/a/sibling", json!({}));
    start(&mut call).await;
    start(&mut other).await;
    // A call this deep has a task of its own.
    stream_started.notified().await;
    peer.gateway.abort(&id, DEPENDENTS);
    assert_eq!(answer(call).await.unwrap_err().code, "ABORTED");
    for gone in [top, middle, leaf] {
        assert_eq!(gone.load(Ordering::SeqCst), 1);
    }
    // That task has to be woken before it drops its handler.
    while stream_dropped.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sibling.load(Ordering::SeqCst), 0);
    start(&mut other).await;
}

/// A child that, once let go, invokes on and reports how that went.
struct Survivor {
    registry: Arc<Registry>,
    go: Arc<Notify>,
    reports: mpsc::UnboundedReceiver<Result<Json, CallError>>,
    dropped: Arc<AtomicUsize>,
}

fn survivor(policy: AbortPolicy) -> Survivor {
    let (go, (report, reports)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let wait = go.clone();
    let mut child = operation(OperationSpec::query("a/child"), move |context, input| {
        let (wait, report) = (wait.clone(), report.clone());
        async move {
            wait.notified().await;
            report.send(context.invoke("a/leaf", input).await).unwrap();
            Ok(Json::null())
        }
    });
    child.scoped_env = reach(&["a/leaf"]);
    let dropped = Arc::default();
    let parent = composing("a/parent", &["a/child"], policy, &dropped);
    let registry = freeze([child, parent, echo(OperationSpec::query("a/leaf"))]);
    Survivor { registry, go, reports, dropped }
}

#[tokio::test(start_paused = true)]
async fn c49_continue_running_spares_the_started_and_starts_none() {
    for (invoked, aborted) in [(CONTINUE, DEPENDENTS), (DEPENDENTS, CONTINUE)] {
        let mut test = survivor(invoked);
        let peer = Peer::anonymous(&test.registry);
        let request = peer.request("/a/parent", json!({}));
        let id = request.request_id.clone();
        let mut call = peer.gateway.dispatch(request);
        start(&mut call).await;
        peer.gateway.abort(&id, aborted);
        assert_eq!(answer(call).await.unwrap_err().code, "ABORTED");
        assert_eq!(test.dropped.load(Ordering::SeqCst), 1, "the named call always stops");
        test.go.notify_one();
        let report = test.reports.recv().await.unwrap();
        assert_eq!(report.unwrap_err().code, "ABORTED");
    }
}

#[tokio::test(start_paused = true)]
async fn c49_survivors_of_a_lost_caller_run_on_and_others_do_not() {
    let mut test = survivor(CONTINUE);
    let peer = Peer::anonymous(&test.registry);
    let mut call = peer.start("/a/parent", json!({}));
    start(&mut call).await;
    drop(call);
    test.go.notify_one();
    assert_eq!(test.reports.recv().await.unwrap().unwrap_err().code, "ABORTED");

    let mut test = survivor(DEPENDENTS);
    let peer = Peer::anonymous(&test.registry);
    let mut call = peer.start("/a/parent", json!({}));
    start(&mut call).await;
    drop((call, peer));
    test.go.notify_one();
    drop(test.registry);
    assert!(test.reports.recv().await.is_none(), "its handler is gone");
}

#[tokio::test(start_paused = true)]
async fn c49_deadlines_hold_for_survivors() {
    let dropped: [Arc<AtomicUsize>; 2] = Default::default();
    let registry = freeze([
        hanging("a/child", &dropped[0]),
        composing("a/parent", &["a/child"], CONTINUE, &dropped[1]),
    ]);
    let peer = Peer::anonymous(&registry);
    let mut call = peer.start("/a/parent", json!({}));
    start(&mut call).await;
    drop(call);
    let count = || dropped.each_ref().map(|count| count.load(Ordering::SeqCst));
    assert_eq!(count(), [0, 1]);
    tokio::time::sleep(Duration::from_millis(29_999)).await;
    assert_eq!(count(), [0, 1]);
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(count(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn c49_a_call_not_yet_started_never_starts() {
    let (hand_over, mut futures) = mpsc::unbounded_channel();
    let mut parent = operation(OperationSpec::query("a/parent"), move |context, input| {
        let hand_over = hand_over.clone();
        async move {
            let child = context.env().invoke_with_policy("a/leaf", input, CONTINUE);
            hand_over.send(child).ok().unwrap();
            std::future::pending().await
        }
    });
    parent.scoped_env = reach(&["a/leaf"]);
    let registry = freeze([parent, echo(OperationSpec::query("a/leaf"))]);
    let peer = Peer::anonymous(&registry);
    let mut call = peer.start("/a/parent", json!({}));
    start(&mut call).await;
    drop(call);
    let unstarted = futures.recv().await.unwrap();
    assert_eq!(unstarted.await.unwrap_err().code, "ABORTED");
}

#[tokio::test]
async fn c51_closing_a_connection_cancels_its_calls_and_no_others() {
    let dropped: [Arc<AtomicUsize>; 2] = Default::default();
    let registry = freeze([hanging("a/mine", &dropped[0]), hanging("a/theirs", &dropped[1])]);
    let (mine, theirs) = (Peer::anonymous(&registry), Peer::anonymous(&registry));
    let mut my_call = mine.start("/a/mine", json!({}));
    let mut their_call = theirs.start("/a/theirs", json!({}));
    start(&mut my_call).await;
    start(&mut their_call).await;
    drop(mine);
    assert_eq!(answer(my_call).await.unwrap_err().code, "ABORTED");
    start(&mut their_call).await;
    let count = dropped.each_ref().map(|count| count.load(Ordering::SeqCst));
    assert_eq!(count, [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_context_tells_of_the_abort() {
    let (hand_over, mut contexts) = mpsc::unbounded_channel();
    let registry = freeze([operation(OperationSpec::query("a/b"), move |context, _| {
        hand_over.send(context).unwrap();
        std::future::pending()
    })]);
    let peer = Peer::anonymous(&registry);
    let mut call = peer.start("/a/b", json!({}));
    start(&mut call).await;
    let context = contexts.recv().await.unwrap();
    assert!(!context.is_cancelled());
    let told = tokio::spawn({
        let context = context.clone();
        async move { context.cancelled().await }
    });
    drop(call);
    told.await.unwrap();
    assert!(context.is_cancelled());
    let after = context.invoke("a/b", Json::null()).await;
    assert_eq!(after.unwrap_err().code, "ABORTED");

    let mut call = peer.start("/a/b", json!({}));
    start(&mut call).await;
    let context = contexts.recv().await.unwrap();
    let waiting = tokio::spawn(answer(call));
    context.cancelled().await;
    assert_eq!(waiting.await.unwrap().unwrap_err().code, "TIMEOUT");
}

#[tokio::test]
async fn what_a_call_leaves_running_ends_with_it() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let (send, mut results) = mpsc::unbounded_channel();
    let mut parent = operation(OperationSpec::query("a/parent"), move |context, input| {
        let send = send.clone();
        async move {
            let child = context.env().invoke("a/hang", input);
            let started = Arc::new(Notify::new());
            let tell = started.clone();
            tokio::spawn(async move {
                let mut child = child;
                assert!(futures_util::poll!(&mut child).is_pending());
                tell.notify_one();
                send.send(child.await).unwrap();
            });
            started.notified().await;
            Ok(Json::null())
        }
    });
    parent.scoped_env = reach(&["a/hang"]);
    let registry = freeze([parent, hanging("a/hang", &dropped)]);
    Peer::anonymous(&registry).call("/a/parent", json!({})).await.unwrap();
    assert_eq!(results.recv().await.unwrap().unwrap_err().code, "ABORTED");
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}
