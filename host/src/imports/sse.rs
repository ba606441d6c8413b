//! Server-sent events, taken out of a byte stream as it arrives.
//!
//! Pure: bytes in, events out. Memory is bounded by the limit on one event.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// The event's name, where the service gives one.
    pub(super) name: Option<String>,
    /// The id that the stream had when the event was sent.
    pub(super) id: Option<String>,
    /// The data's lines, joined.
    pub(super) data: String,
}

/// An event is larger than the limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Reads one stream from its beginning.
#[derive(Debug)]
pub(super) struct Reader {
    limit: usize,
    /// Bytes that are not a whole line yet.
    line: Vec<u8>,
    /// The event under way.
    event: Event,
    has_data: bool,
    /// The size of the event under way.
    size: usize,
    last_id: Option<String>,
    /// A line ended in a carriage return, whose line feed may still come.
    after_return: bool,
    first_line: bool,
}

impl Reader {
    /// A reader that holds at most `limit` bytes of one event.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            event: Event::default(),
            has_data: false,
            size: 0,
            last_id: None,
            after_return: false,
            first_line: true,
        }
    }

    /// Takes what arrived, and gives the events that it completes to `found`.
    ///
    /// # Errors
    /// An event over the limit; the stream cannot be read on.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        found: &mut impl Extend<Event>,
    ) -> Result<(), TooLarge> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            self.size += part.len();
            if self.size > self.limit {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { break };
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            found.extend(self.end_line());
        }
        Ok(())
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let mut line = String::from_utf8_lossy(&line);
        if std::mem::take(&mut self.first_line)
            && let Some(rest) = line.strip_prefix('\u{feff}')
        {
            line = rest.to_owned().into();
        }
        if line.is_empty() {
            return self.end_event();
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = (!value.is_empty()).then(|| value.to_owned()),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            "id" if !value.contains('\0') => {
                self.last_id = (!value.is_empty()).then(|| value.to_owned());
            }
            // Comments, `retry`, and what later versions may add.
            _ => self.size -= line.len().min(self.size),
        }
        None
    }

    fn end_event(&mut self) -> Option<Event> {
        self.size = 0;
        let event = std::mem::take(&mut self.event);
        // A block without data is no event.
        std::mem::take(&mut self.has_data).then(|| Event { id: self.last_id.clone(), ..event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&str]) -> Vec<Event> {
        let mut reader = Reader::new(64);
        let mut events = Vec::new();
        for part in parts {
            reader.push(part.as_bytes(), &mut events).unwrap();
        }
        events
    }

    fn data(text: &str) -> Event {
        Event { data: text.to_owned(), ..Event::default() }
    }

    #[test]
    fn an_event_survives_any_splitting_and_any_line_end() {
        let text =
            "\u{feff}: hello\r\nevent: tick\r\nid: 7\r\ndata: a\r\ndata:b\r\n\r\ndata: c\n\n";
        let expected = [
            Event { name: Some("tick".into()), id: Some("7".into()), data: "a\nb".into() },
            Event { name: None, id: Some("7".into()), data: "c".into() },
        ];
        assert_eq!(read(&[text]), expected);
        let bytes = text.as_bytes();
        for at in 0..=bytes.len() {
            let (mut reader, mut events) = (Reader::new(64), Vec::new());
            reader.push(&bytes[..at], &mut events).unwrap();
            reader.push(&bytes[at..], &mut events).unwrap();
            assert_eq!(events, expected, "split at {at}");
        }
        assert_eq!(read(&["data: x\r", "\r", "data: y\n", "\n"]), [data("x"), data("y")]);
    }

    #[test]
    fn blocks_without_data_and_unfinished_ones_are_no_events() {
        assert_eq!(read(&["event: x\n\n", "retry: 10\n\n", "data\n\n", "data: late"]), [data("")]);
    }

    #[test]
    fn an_event_is_bounded_and_a_stream_is_not() {
        let (mut reader, mut events) = (Reader::new(16), Vec::new());
        for _ in 0..100 {
            reader.push(b": keep-alive\n", &mut events).unwrap();
            reader.push(b"data: 12345\n\n", &mut events).unwrap();
        }
        assert_eq!(events.len(), 100);
        let long = vec![b'x'; 17];
        assert_eq!(reader.push(&long, &mut events), Err(TooLarge));
    }
}
