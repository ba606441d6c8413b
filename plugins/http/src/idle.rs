//! When an HTTP/2 connection has had nothing to do for too long.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;

/// Counts the requests of a connection that are under way.
#[derive(Clone)]
pub(crate) struct Work(Arc<watch::Sender<usize>>);

/// What counts requests, and what is done once there has been none for so long.
pub(crate) fn track(limit: Duration) -> (Work, impl Future<Output = ()>) {
    let (count, mut counted) = watch::channel(0);
    let idle = async move {
        loop {
            let idle = *counted.borrow_and_update() == 0;
            let changed = counted.changed();
            let goes_on = match idle {
                true => matches!(tokio::time::timeout(limit, changed).await, Ok(Ok(()))),
                false => changed.await.is_ok(),
            };
            if !goes_on {
                return;
            }
        }
    };
    (Work(Arc::new(count)), idle)
}

impl Work {
    /// Has a request count as under way until its answer has been sent; one for a
    /// tunnel counts for ever, since that has a time limit of its own.
    pub(crate) fn count<E, F>(
        self,
        method: &Method,
        answer: F,
    ) -> impl Future<Output = Result<Response<Body>, E>> + use<E, F>
    where
        F: Future<Output = Result<Response<Body>, E>>,
    {
        self.0.send_modify(|count| *count += 1);
        let under_way = (method != Method::CONNECT).then(|| UnderWay(self));
        async move { Ok(answer.await?.map(|body| Body::new(Sending { body, under_way }))) }
    }
}

/// A request that counts until this is dropped.
struct UnderWay(Work);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// An answer that is being sent.
struct Sending {
    body: Body,
    #[expect(dead_code, reason = "its end matters")]
    under_way: Option<UnderWay>,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};

    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    fn answer() -> Ready<Result<Response<Body>, Infallible>> {
        ready(Ok(Response::new(Body::from("answer"))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_while_no_request_is_under_way() {
        let limit = Duration::from_secs(10);
        let (work, idle) = track(limit);
        let mut idle = Box::pin(idle);
        let mut begun = tokio::time::Instant::now();
        let response = work.clone().count(&Method::GET, answer()).await.unwrap();
        // Its body is still to be sent.
        assert!(tokio::time::timeout(limit * 9, &mut idle).await.is_err());
        assert_eq!(response.body().size_hint().exact(), Some(6));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "answer");
        assert!(tokio::time::timeout(limit / 2, &mut idle).await.is_err());
        // One that comes and goes between two looks begins the time anew.
        drop(work.clone().count(&Method::GET, answer()).await);
        begun += limit * 9 + limit / 2;
        idle.await;
        assert_eq!(tokio::time::Instant::now() - begun, limit);
        let (work, idle) = track(limit);
        drop(work.clone().count(&Method::CONNECT, answer()).await);
        tokio::time::sleep(limit * 2).await;
        assert!(idle.now_or_never().is_none());
    }
}
