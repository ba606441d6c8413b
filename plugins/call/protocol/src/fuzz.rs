//! Bodies of the fuzz targets; `cargo fuzz` and a smoke test drive the same.

use bytes::Bytes;

use crate::envelope::{self, Envelope, Event};
use crate::frame::{FrameDecoder, FrameError, PREFIX};

/// However the input is split, the same frames come out.
pub fn fuzz_frame(data: &[u8]) {
    let Some((&step, data)) = data.split_first() else { return };
    let whole = frames(data, data.len().max(1));
    let split = frames(data, usize::from(step).max(1));
    assert_eq!(whole, split);
}

fn frames(data: &[u8], step: usize) -> (Vec<Bytes>, Option<FrameError>) {
    let mut decoder = FrameDecoder::new(4096);
    let mut out = Vec::new();
    for chunk in data.chunks(step) {
        decoder.buffer().extend_from_slice(chunk);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    assert!(
                        !frame.is_empty()
                            && frame.len() <= 4096
                            && frame.len() + PREFIX <= data.len()
                    );
                    out.push(frame);
                }
                Ok(None) => break,
                Err(error) => return (out, Some(error)),
            }
        }
    }
    (out, decoder.finish().err())
}

/// No input panics, every way of reading it agrees, and a request that was read
/// reads the same once written.
pub fn fuzz_envelope(data: &[u8]) {
    let frame = Bytes::copy_from_slice(data);
    let slowly = envelope::parse_slowly(&frame);
    let Ok(first) = envelope::parse(&frame) else {
        let bad_id = |id: &str| id.is_empty() || id.len() > envelope::MAX_ID;
        assert!(slowly.is_none_or(|(id, _)| bad_id(&id)));
        return;
    };
    // Their `Debug` shows all they hold.
    let both = (format!("{first:?}"), slowly.map(|(id, event)| Envelope { id, event }));
    assert_eq!(Some(both.0), both.1.map(|envelope| format!("{envelope:?}")));
    let Event::Requested(Ok(request)) = &first.event else { return };
    let mut out = bytes::BytesMut::new();
    envelope::write_request(&mut out, &first.id, request);
    let second = envelope::parse(&out.freeze()).map(|e| (e.id, e.event));
    let Ok((id, Event::Requested(Ok(again)))) = second else {
        panic!("what was written does not read back: {second:?}")
    };
    assert_eq!((id, &again.input), (first.id, &request.input));
    assert_eq!(again.auth_token, request.auth_token);
    assert_eq!(again.forwarded_for, request.forwarded_for);
    assert_eq!(again.timeout, request.timeout);
}
