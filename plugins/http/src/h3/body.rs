//! A request's body as it comes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::{Buf, Bytes};
use h3::server::RequestStream;
use hyper::body::{Body, Frame, SizeHint};

use super::quic::Recv;

/// The data of a request, and then its trailers. What is not read holds the client
/// up.
pub(super) struct RequestBody {
    stream: RequestStream<Recv, Bytes>,
    /// What the header says is still to come.
    declared: Option<u64>,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Ended,
}

/// The header that says how long the body is, and says nothing that can be true.
#[derive(Debug, thiserror::Error)]
#[error("the body is not as long as the header `content-length` says")]
pub(super) struct WrongLength;

impl RequestBody {
    pub(super) fn new(
        stream: RequestStream<Recv, Bytes>,
        headers: &HeaderMap,
    ) -> Result<Self, WrongLength> {
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        let declared = match (lengths.next(), lengths.next()) {
            (None, _) => None,
            (Some(length), None) => {
                let text = length.to_str().map_err(|_| WrongLength)?;
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                Some(text.parse().ok().filter(|_| digits).ok_or(WrongLength)?)
            }
            (Some(_), Some(_)) => return Err(WrongLength),
        };
        Ok(Self { stream, declared, state: State::Data })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.state == State::Data {
            let data = ready!(this.stream.poll_recv_data(cx));
            let data = data.map(|data| data.map(|mut data| data.copy_to_bytes(data.remaining())));
            match data {
                Err(error) => {
                    this.state = State::Ended;
                    return Poll::Ready(Some(Err(error.into())));
                }
                Ok(Some(data)) => {
                    if let Some(left) = &mut this.declared {
                        let Some(less) = left.checked_sub(data.len() as u64) else {
                            this.state = State::Ended;
                            return Poll::Ready(Some(Err(WrongLength.into())));
                        };
                        *left = less;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(None) if this.declared.is_some_and(|left| left > 0) => {
                    this.state = State::Ended;
                    return Poll::Ready(Some(Err(WrongLength.into())));
                }
                Ok(None) => this.state = State::Trailers,
            }
        }
        if this.state == State::Trailers {
            let trailers = ready!(this.stream.poll_recv_trailers(cx));
            this.state = State::Ended;
            if let Some(trailers) = trailers.transpose() {
                return Poll::Ready(Some(trailers.map(Frame::trailers).map_err(Into::into)));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Ended
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.state, self.declared) {
            (State::Data, Some(left)) => SizeHint::with_exact(left),
            (State::Data, None) => SizeHint::default(),
            _ => SizeHint::with_exact(0),
        }
    }
}
