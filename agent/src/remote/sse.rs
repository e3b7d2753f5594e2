//! Server-sent events, as the WHATWG's HTML standard has them (section 9.2), out of chunks of any size.
//!
//! Invariant: no line and no event is ever held that is longer than the limit. This is a fuzz target.

/// One event that was dispatched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `None` stands for `message`.
    pub kind: Option<String>,
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {0} bytes")]
pub struct TooLong(pub usize);

#[derive(Debug)]
pub struct Parser {
    limit: usize,
    line: Vec<u8>,
    /// The last byte was a CR: an LF behind it ends the same line.
    after_cr: bool,
    /// Nothing was read yet, so that a byte-order mark may come.
    fresh: bool,
    kind: Option<String>,
    data: Vec<u8>,
    has_data: bool,
    last_id: Option<String>,
    retry_ms: Option<u64>,
    idle: u64,
}

impl Parser {
    /// `limit` is for one line and for one event's data, in bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_cr: false,
            fresh: true,
            kind: None,
            data: Vec::new(),
            has_data: false,
            last_id: None,
            retry_ms: None,
            idle: 0,
        }
    }

    /// The id that the stream can be taken up at again.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Bytes since the last time that told nobody anything: comments, unknown fields, empty events.
    pub fn take_idle(&mut self) -> u64 {
        std::mem::take(&mut self.idle)
    }

    /// Takes one chunk; the events that it completes, in order.
    pub fn feed(&mut self, mut chunk: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        while let Some(&first) = chunk.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                chunk = &chunk[1..];
                continue;
            }
            let end = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &chunk[..end.unwrap_or(chunk.len())];
            if self.line.len() + part.len() > self.limit.saturating_add("data: ".len()) {
                return Err(TooLong(self.limit));
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { break };
            self.after_cr = chunk[end] == b'\r';
            chunk = &chunk[end + 1..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.end_line(&line)?);
        }
        Ok(events)
    }

    fn end_line(&mut self, mut line: &[u8]) -> Result<Option<Event>, TooLong> {
        if std::mem::take(&mut self.fresh) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (line, &b""[..]),
        };
        let text = || String::from_utf8_lossy(value).into_owned();
        match name {
            b"data" => {
                if self.data.len() + value.len() + 1 > self.limit.saturating_add(1) {
                    return Err(TooLong(self.limit));
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                return Ok(None);
            }
            b"event" => self.kind = Some(text()),
            // One with a NUL in it is no id, and one that no header can carry is of no use.
            b"id" if value.iter().all(|byte| (0x20..0x7f).contains(byte)) => self.last_id = Some(text()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry_ms = text().parse().ok();
            }
            _ => {}
        }
        self.idle += line.len() as u64 + 1;
        Ok(None)
    }

    fn dispatch(&mut self) -> Option<Event> {
        let kind = self.kind.take().filter(|kind| !kind.is_empty());
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) && !data.is_empty() {
            return Some(Event { kind, data });
        }
        self.idle += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(chunks: &[&[u8]]) -> (Vec<(Option<String>, String)>, Parser) {
        let mut parser = Parser::new(1 << 16);
        let mut events = Vec::new();
        for chunk in chunks {
            events.extend(parser.feed(chunk).unwrap());
        }
        (events.into_iter().map(|e| (e.kind, String::from_utf8(e.data).unwrap())).collect(), parser)
    }

    fn message(data: &str) -> (Option<String>, String) {
        (None, data.to_owned())
    }

    #[test]
    fn the_standards_own_examples_are_read_as_it_says() {
        let (got, _) = events(&[b"data: YHOO\ndata: +2\ndata: 10\n\n"]);
        assert_eq!(got, [message("YHOO\n+2\n10")]);
        let (got, parser) =
            events(&[b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"]);
        assert_eq!(got, [message("first event"), message("second event"), message(" third event")]);
        assert_eq!(parser.last_id(), Some(""));
        let (got, _) = events(&[b"data\n\ndata\ndata\n\ndata:"]);
        assert_eq!(got, [message("\n")], "an event without data is none, and one that is not ended neither");
    }

    #[test]
    fn any_line_end_will_do_and_a_mark_at_the_beginning_too() {
        let want = [message("a"), (Some("x".into()), "b".into())];
        for end in ["\n", "\r", "\r\n"] {
            let text = format!("\u{feff}data: a{end}{end}event: x{end}data: b{end}retry: 15{end}{end}");
            for cut in 0..text.len() {
                let (got, parser) = events(&[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]);
                assert_eq!(got, want, "{end:?} cut at {cut}");
                assert_eq!(parser.retry_ms(), Some(15));
            }
        }
    }

    #[test]
    fn what_is_too_long_is_an_error_and_is_not_held() {
        for piece in [&b"data: xxxxxxxx\n"[..], b"xxxxxxxx", b":xxxxxxx", b"data:\n"] {
            let mut parser = Parser::new(64);
            let error = (0..1000).find_map(|_| parser.feed(piece).err());
            assert_eq!(error, Some(TooLong(64)), "{}", String::from_utf8_lossy(piece));
            assert!(parser.data.len() <= 65 && parser.line.len() <= 80);
        }
        let mut parser = Parser::new(64);
        for _ in 0..1000 {
            assert_eq!(parser.feed(b": ping\n\n").unwrap(), []);
        }
        assert!(parser.take_idle() >= 8000);
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_they_arrive(
            text in "(data: ?[a-z]{0,5}|event:x|id: [0-9]|:|[a-z]{1,3}|)(\n|\r|\r\n)(data:[a-z]|)(\n|\r\n|\r){1,3}data: [a-z]{0,3}\n\n",
            cuts in prop::collection::vec(1usize..4, 0..30),
        ) {
            let (whole, _) = events(&[text.as_bytes()]);
            let mut rest = text.as_bytes();
            let mut chunks = Vec::new();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                chunks.push(head);
                rest = tail;
            }
            chunks.push(rest);
            prop_assert_eq!(events(&chunks).0, whole);
        }

        #[test]
        fn nothing_makes_it_panic_or_hold_more_than_the_limit(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut parser = Parser::new(32);
            for chunk in &chunks {
                match parser.feed(chunk) {
                    Ok(events) => prop_assert!(events.iter().all(|event| event.data.len() <= 33)),
                    Err(TooLong(limit)) => { prop_assert_eq!(limit, 32); break; }
                }
            }
        }
    }
}
