//! The cancellation tree: which calls stop when one is aborted.
//!
//! Each call has a [`Node`]; a composed call's node is a child of its
//! composer's. The tree holds no futures. It says what shall happen and wakes
//! whoever polls the call; dropping the handler is the poller's part.
//!
//! An abort names one call, which always stops. A started descendant survives
//! where the abort says so, or where it, or a call between it and the named
//! one, was invoked with [`AbortPolicy::ContinueRunning`]. A survivor runs on
//! but starts nothing more. When a call ends by itself, descendants that still
//! run elsewhere are aborted unless they were invoked to continue.
//!
//! A node enters its parent's list only once its handler has had to wait: most
//! calls answer at once and never take the lock of the list.

use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;

use alknet_plugin_api::AbortPolicy;
use tokio_util::sync::CancellationToken;

use super::sync::{AtomicBool, AtomicU8, AtomicUsize, Mutex, Ordering};

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// It runs and may compose.
    Open,
    /// It runs, but one of its ancestors was aborted: nothing more starts.
    Survivor,
    /// It was aborted; its handler must not be polled again.
    Aborted,
    /// Its deadline passed; its handler must not be polled again.
    TimedOut,
    /// It ended by itself.
    Done,
}

impl State {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Open,
            1 => Self::Survivor,
            2 => Self::Aborted,
            3 => Self::TimedOut,
            _ => Self::Done,
        }
    }

    /// Whether the call's handler may still run.
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Open | Self::Survivor)
    }
}

/// How a call comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Somebody aborted it, with this policy.
    Abort(AbortPolicy),
    /// Its deadline passed. No descendant outlives it, whatever its policy.
    Deadline,
    /// It answered, or failed, by itself.
    Done,
}

/// What a closing node does to its children, kept for those that were in their
/// first poll and are not yet in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// Abort all but those invoked to continue, which become survivors.
    Dependents,
    /// All become survivors.
    Spare,
    /// Abort all.
    All,
    /// Abort all but those invoked to continue, which are left alone.
    Finished,
}

/// Why a call cannot start beneath its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The parent has ended, or survived an abort.
    Closed,
    /// The root has as many live descendants as it may.
    Full,
}

/// One call's place in the tree.
pub(crate) struct Node {
    state: AtomicU8,
    policy: AbortPolicy,
    parent: Option<Arc<Node>>,
    /// `None` for a root itself.
    root: Option<Arc<Node>>,
    /// Live descendants; counted at the root alone.
    live: AtomicUsize,
    attached: AtomicBool,
    links: Mutex<Links>,
    /// Made when somebody first asks to be told.
    token: OnceLock<CancellationToken>,
}

#[derive(Default)]
struct Links {
    children: Vec<Weak<Node>>,
    waker: Option<Waker>,
    sweep: Option<Sweep>,
}

impl Node {
    fn new(policy: AbortPolicy, parent: Option<Arc<Node>>, root: Option<Arc<Node>>) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(State::Open as u8),
            policy,
            parent,
            root,
            live: AtomicUsize::new(0),
            attached: AtomicBool::new(false),
            links: Mutex::default(),
            token: OnceLock::new(),
        })
    }

    pub(crate) fn root() -> Arc<Self> {
        Self::new(AbortPolicy::AbortDependents, None, None)
    }

    /// A node beneath `self`; a root may have `limit` live ones. It must come
    /// to an end with [`Node::close`].
    pub(crate) fn child(
        self: &Arc<Self>,
        policy: AbortPolicy,
        limit: usize,
    ) -> Result<Arc<Self>, Refused> {
        if self.state() != State::Open {
            return Err(Refused::Closed);
        }
        let root = self.root.as_ref().unwrap_or(self);
        if root.live.fetch_add(1, Ordering::Relaxed) >= limit {
            root.live.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        Ok(Self::new(policy, Some(self.clone()), Some(root.clone())))
    }

    pub(crate) fn state(&self) -> State {
        State::from_u8(self.state.load(Ordering::SeqCst))
    }

    pub(crate) fn policy(&self) -> AbortPolicy {
        self.policy
    }

    /// What the end of this call means for started calls beneath it, wherever they
    /// run: the policy of the abort that reached it.
    pub(crate) fn abort_in_force(&self) -> AbortPolicy {
        match self.links.lock().sweep {
            Some(Sweep::Spare) => AbortPolicy::ContinueRunning,
            _ => AbortPolicy::AbortDependents,
        }
    }

    /// Live calls beneath this root.
    #[cfg(test)]
    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Asks to be woken when the state changes, and puts the call where aborts
    /// of its ancestors find it. Returns the state after that.
    pub(crate) fn watch(self: &Arc<Self>, waker: &Waker) -> State {
        {
            let mut links = self.links.lock();
            match &mut links.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        if !self.attached.swap(true, Ordering::Relaxed) {
            self.attach();
        }
        self.state()
    }

    fn attach(self: &Arc<Self>) {
        let Some(parent) = &self.parent else { return };
        let mut links = parent.links.lock();
        match links.sweep {
            // The parent closed while this call was in its first poll.
            Some(sweep) => {
                if parent.state().is_live() {
                    links.children.push(Arc::downgrade(self));
                }
                drop(links);
                self.sweep_from(sweep);
            }
            None => {
                links.children.push(Arc::downgrade(self));
                drop(links);
                // Aborted by name between the flag and the list.
                if !self.state().is_live() {
                    self.unlist();
                }
            }
        }
    }

    /// Ends this call, and what the rules end with it. A call that has ended
    /// already stays as it is.
    pub(crate) fn close(self: &Arc<Self>, end: End) {
        let (state, sweep) = match end {
            End::Abort(AbortPolicy::AbortDependents) => (State::Aborted, Sweep::Dependents),
            End::Abort(AbortPolicy::ContinueRunning) => (State::Aborted, Sweep::Spare),
            End::Deadline => (State::TimedOut, Sweep::All),
            End::Done => (State::Done, Sweep::Finished),
        };
        self.sweep_down(state, sweep);
    }

    fn sweep_from(self: &Arc<Self>, parents: Sweep) {
        if let Some((state, sweep)) = self.fate(parents) {
            self.sweep_down(state, sweep);
        }
    }

    /// What a parent's sweep means for this child; `None` to let it be.
    fn fate(&self, parents: Sweep) -> Option<(State, Sweep)> {
        let continues = self.policy == AbortPolicy::ContinueRunning;
        match parents {
            Sweep::Spare => Some((State::Survivor, Sweep::Spare)),
            Sweep::Dependents if continues => Some((State::Survivor, Sweep::Spare)),
            Sweep::Finished if continues => None,
            Sweep::Dependents | Sweep::Finished => Some((State::Aborted, Sweep::Dependents)),
            Sweep::All => Some((State::Aborted, Sweep::All)),
        }
    }

    /// Walks down without recursion: trees may be a thousand calls deep.
    fn sweep_down(self: &Arc<Self>, state: State, sweep: Sweep) {
        let mut rest = self.enter(state, sweep);
        while let Some((node, sweep)) = rest.pop() {
            if let Some((state, sweep)) = node.fate(sweep) {
                rest.extend(node.enter(state, sweep));
            }
        }
    }

    /// Moves this node alone; returns its children with the sweep for them.
    fn enter(self: &Arc<Self>, state: State, sweep: Sweep) -> Vec<(Arc<Node>, Sweep)> {
        let mut links = self.links.lock();
        let now = self.state();
        if !now.is_live() || now == state {
            return Vec::new();
        }
        self.state.store(state as u8, Ordering::SeqCst);
        links.sweep = Some(sweep);
        let children = if state.is_live() {
            links.children.clone()
        } else {
            std::mem::take(&mut links.children)
        };
        let waker = if state.is_live() { None } else { links.waker.take() };
        drop(links);
        if !state.is_live() {
            self.leave();
        }
        if matches!(state, State::Aborted | State::TimedOut) {
            if let Some(token) = self.token.get() {
                token.cancel();
            }
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        children.iter().filter_map(Weak::upgrade).map(|child| (child, sweep)).collect()
    }

    /// Gives the place among the root's live calls back.
    fn leave(self: &Arc<Self>) {
        if let Some(root) = &self.root {
            root.live.fetch_sub(1, Ordering::Relaxed);
        }
        if self.attached.load(Ordering::Relaxed) {
            self.unlist();
        }
    }

    fn unlist(self: &Arc<Self>) {
        let Some(parent) = &self.parent else { return };
        let mut links = parent.links.lock();
        let own = links.children.iter().position(|child| std::ptr::eq(child.as_ptr(), &**self));
        if let Some(own) = own {
            links.children.swap_remove(own);
        }
    }

    /// Resolves when the call is aborted or its deadline passes.
    pub(crate) fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        let token = self.token.get_or_init(CancellationToken::new).clone();
        // The state is read after the token can be seen, and set before it is
        // looked for: one of the two sides notices.
        if matches!(self.state(), State::Aborted | State::TimedOut) {
            token.cancel();
        }
        token.cancelled_owned()
    }
}
