//! Running an author's futures in an instance, which has one thread.

use std::cell::RefCell;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use crate::host::{TaskControl, TaskHandle};

/// Something that never leaves its thread, dressed as if it could.
///
/// The author's API asks for `Send` because a native host runs handlers on any
/// thread. What `wit-bindgen` generates is not `Send`.
pub(super) struct Local<T>(pub T);

// SAFETY: a component instance without the `atomics` feature, which `guest`
// refuses to compile with, has exactly one thread: nothing can be sent anywhere.
#[allow(unsafe_code)]
unsafe impl<T> Send for Local<T> {}
// SAFETY: as above: there is no second thread to share it with.
#[allow(unsafe_code)]
unsafe impl<T> Sync for Local<T> {}

impl<T> Deref for Local<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<F: Future> Future for Local<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the field is pinned whenever the wrapper is; `Local` has no
        // `Drop`, hands out no `&mut T`, and is `Unpin` only where `T` is.
        #[allow(unsafe_code)]
        let inner = unsafe { self.map_unchecked_mut(|this| &mut this.0) };
        inner.poll(cx)
    }
}

/// Boxes a future of the imports for the author's API.
pub(super) fn boxed<F: Future + 'static>(future: F) -> BoxFuture<'static, F::Output> {
    Box::pin(Local(future))
}

thread_local! {
    /// Tasks that have been spawned and not yet polled.
    static SPAWNED: RefCell<Vec<BoxFuture<'static, ()>>> = const { RefCell::new(Vec::new()) };
}

/// Starts a task beside the connection or call that is being served, or, from
/// `build`, beside the next one.
pub(super) fn spawn(task: BoxFuture<'static, ()>) -> TaskHandle {
    let (abort, registration) = AbortHandle::new_pair();
    let (end, ended) = oneshot::channel::<()>();
    let task = async move {
        let _ = Abortable::new(task, registration).await;
        drop(end);
    };
    SPAWNED.with_borrow_mut(|spawned| spawned.push(Box::pin(task)));
    TaskHandle::new(Box::new(Control { abort, ended: Some(ended) }))
}

struct Control {
    abort: AbortHandle,
    ended: Option<oneshot::Receiver<()>>,
}

impl TaskControl for Control {
    fn abort(&self) {
        self.abort.abort();
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(ended) = &mut self.ended {
            std::task::ready!(Pin::new(ended).poll(cx)).ok();
            self.ended = None;
        }
        Poll::Ready(())
    }
}

/// Runs `main` and whatever it spawns until `main` is done, or until `ended` is:
/// then the output is `None`. What is left is dropped.
///
/// Everything runs in the one component task of the export, so that a waker
/// never has to cross from one task to another. A component task that sleeps
/// must wait for something of the host's, in case `main` waits only for itself:
/// `ended` is also that. It is started when `main` first has to wait.
pub(super) async fn run<M: Future>(main: M, ended: impl Future<Output = ()>) -> Option<M::Output> {
    let mut main = std::pin::pin!(main);
    let mut ended = std::pin::pin!(ended);
    let mut tasks: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = main.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        loop {
            tasks.extend(SPAWNED.with_borrow_mut(std::mem::take));
            while let Poll::Ready(Some(())) = tasks.poll_next_unpin(cx) {}
            if SPAWNED.with_borrow(Vec::is_empty) {
                break;
            }
        }
        ended.as_mut().poll(cx).map(|()| None)
    })
    .await
}
