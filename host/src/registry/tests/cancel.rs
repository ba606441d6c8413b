//! The cancellation tree by itself.

use std::sync::Arc;
use std::task::Waker;

use alknet_plugin_api::AbortPolicy;

use super::super::cancel::*;

const DEPENDENTS: AbortPolicy = AbortPolicy::AbortDependents;
const CONTINUE: AbortPolicy = AbortPolicy::ContinueRunning;

fn started(parent: &Arc<Node>, policy: AbortPolicy) -> Arc<Node> {
    let child = parent.child(policy, 1024).unwrap();
    assert_eq!(child.watch(Waker::noop()), State::Open);
    child
}

#[test]
fn c48_an_abort_reaches_descendants_and_not_siblings() {
    let root = Node::root();
    let (a, b) = (started(&root, DEPENDENTS), started(&root, DEPENDENTS));
    let aa = started(&a, DEPENDENTS);
    let aaa = started(&aa, DEPENDENTS);
    a.close(End::Abort(DEPENDENTS));
    assert_eq!([&a, &aa, &aaa].map(|node| node.state()), [State::Aborted; 3]);
    assert_eq!([&root, &b].map(|node| node.state()), [State::Open; 2]);
    assert_eq!(root.live(), 1);
}

#[test]
fn c49_survivors_run_on_and_start_nothing() {
    let root = Node::root();
    let spared = started(&root, CONTINUE);
    let below = started(&spared, DEPENDENTS);
    let other = started(&root, DEPENDENTS);
    let under_other = started(&other, CONTINUE);
    root.close(End::Abort(DEPENDENTS));
    assert_eq!(other.state(), State::Aborted);
    for survivor in [&spared, &below, &under_other] {
        assert_eq!(survivor.state(), State::Survivor);
        assert_eq!(survivor.child(CONTINUE, 1024).err(), Some(Refused::Closed));
    }
    spared.close(End::Abort(DEPENDENTS));
    assert_eq!(below.state(), State::Aborted, "a survivor can be aborted by name");
    under_other.close(End::Done);
    assert_eq!(root.live(), 0);
}

#[test]
fn c49_an_abort_that_says_so_spares_every_started_descendant() {
    let root = Node::root();
    let a = started(&root, DEPENDENTS);
    let aa = started(&a, DEPENDENTS);
    root.close(End::Abort(CONTINUE));
    assert_eq!(
        [&root, &a, &aa].map(|node| node.state()),
        [State::Aborted, State::Survivor, State::Survivor]
    );
}

#[test]
fn a_child_in_its_first_poll_learns_what_happened_meanwhile() {
    let root = Node::root();
    let spared = root.child(CONTINUE, 1024).unwrap();
    let other = root.child(DEPENDENTS, 1024).unwrap();
    let below = started(&other, DEPENDENTS);
    root.close(End::Abort(DEPENDENTS));
    assert_eq!(spared.watch(Waker::noop()), State::Survivor);
    assert_eq!(other.watch(Waker::noop()), State::Aborted);
    assert_eq!(below.state(), State::Aborted);
}

#[test]
fn a_deadline_takes_everything_with_it() {
    let root = Node::root();
    let child = started(&root, CONTINUE);
    root.close(End::Deadline);
    assert_eq!(root.state(), State::TimedOut);
    assert_eq!(child.state(), State::Aborted);
}

#[test]
fn the_end_of_a_call_ends_what_was_not_invoked_to_continue() {
    let root = Node::root();
    let (a, b) = (started(&root, DEPENDENTS), started(&root, CONTINUE));
    root.close(End::Done);
    assert_eq!(a.state(), State::Aborted);
    assert_eq!(b.state(), State::Open);
    assert!(b.child(DEPENDENTS, 1024).is_ok());
    root.close(End::Abort(DEPENDENTS));
    assert_eq!(root.state(), State::Done, "aborting what has ended does nothing");
}

#[test]
fn c21_live_descendants_are_counted_at_the_root() {
    let root = Node::root();
    let mut chain = vec![root.clone()];
    for _ in 0..8 {
        chain.push(chain[chain.len() - 1].child(DEPENDENTS, 8).unwrap());
    }
    assert_eq!(chain[8].child(DEPENDENTS, 8).err(), Some(Refused::Full));
    assert_eq!(root.child(DEPENDENTS, 8).err(), Some(Refused::Full));
    chain[8].close(End::Done);
    assert!(root.child(DEPENDENTS, 8).is_ok());
}

#[tokio::test]
async fn cancelled_resolves_before_and_after_the_abort() {
    let node = Node::root();
    let before = node.cancelled();
    node.close(End::Abort(DEPENDENTS));
    before.await;
    node.cancelled().await;
}
