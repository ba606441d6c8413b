//! A set of futures that are polled when they are woken, and only then.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// `FuturesUnordered` with one member more, which never wakes. Once it has polled all
/// that it holds, it wakes itself; with a single future it does so at each turn, and
/// tokio moves a task that wakes itself to another thread. It never polls the one more.
pub(crate) struct Set<F>(FuturesUnordered<Member<F>>);

enum Member<F> {
    One(F),
    Idle,
}

impl<F: Future + Unpin> Future for Member<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match &mut *self {
            Self::One(future) => Pin::new(future).poll(cx),
            Self::Idle => Poll::Pending,
        }
    }
}

impl<F> Default for Set<F> {
    fn default() -> Self {
        Self(FuturesUnordered::from_iter([Member::Idle]))
    }
}

impl<F: Future + Unpin> Set<F> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    pub(crate) fn push(&self, future: F) {
        self.0.push(Member::One(future));
    }

    /// Takes all of them out.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = F> + use<F> {
        std::mem::take(self).0.into_iter().filter_map(|member| match member {
            Member::One(future) => Some(future),
            Member::Idle => None,
        })
    }

    /// What the next one gives that has come to its end.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.0.poll_next_unpin(cx) {
            Poll::Ready(Some(output)) => Poll::Ready(output),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_turn_of_the_only_future_wakes_nobody() {
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut set = Set::default();
        let (answer, mut asked) = oneshot::channel::<u8>();
        set.push(Box::pin(async move { asked.try_recv().ok() }).left_future());
        assert_eq!(set.poll_next(&mut cx), Poll::Ready(None));
        drop(answer);
        let (answer, asked) = oneshot::channel::<u8>();
        set.push(asked.map(Result::ok).boxed().right_future());
        assert!(set.poll_next(&mut cx).is_pending());
        assert!(!set.is_empty());
        let before = woken.0.load(Ordering::Relaxed);
        assert!(set.poll_next(&mut cx).is_pending());
        assert_eq!(woken.0.load(Ordering::Relaxed), before);
        answer.send(1).unwrap();
        assert_eq!(woken.0.load(Ordering::Relaxed), before + 1);
        assert_eq!(set.poll_next(&mut cx), Poll::Ready(Some(1)));
        assert!(set.is_empty());
        assert_eq!(set.take().count(), 0);
    }
}
