//! RFC 8259 by recursive descent, keeping the text of numbers and strings.
//!
//! Every index moves forward only, and only over bytes that were matched; slices are taken at ASCII
//! bytes, which are always character boundaries.

use super::{Json, JsonError, JsonString, second_of_a_kind};

pub(super) fn parse(text: &str, max_depth: usize) -> Result<Json, JsonError> {
    let mut parser = Parser { text, bytes: text.as_bytes(), at: 0, max_depth };
    parser.space();
    let json = parser.value(0)?;
    parser.space();
    if parser.at == text.len() { Ok(json) } else { Err(parser.expected("the end of the text")) }
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    max_depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let matched = self.peek() == Some(byte);
        self.at += usize::from(matched);
        matched
    }

    fn expected(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { at: self.at, expected }
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json, JsonError> {
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            _ => Err(self.expected("a value")),
        }
    }

    fn word(&mut self, word: &'static str, json: Json) -> Result<Json, JsonError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.expected(word));
        }
        self.at += word.len();
        Ok(json)
    }

    fn deeper(&self, depth: usize) -> Result<usize, JsonError> {
        if depth < self.max_depth {
            Ok(depth + 1)
        } else {
            Err(JsonError::TooDeep { at: self.at, limit: self.max_depth })
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, JsonError> {
        let depth = self.deeper(depth)?;
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            self.space();
            items.push(self.value(depth)?);
            self.space();
            if self.take(b']') {
                return Ok(Json::Array(items));
            }
            if !self.take(b',') {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, JsonError> {
        let depth = self.deeper(depth)?;
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a member name"));
            }
            let key = self.string()?;
            self.space();
            if !self.take(b':') {
                return Err(self.expected("`:`"));
            }
            self.space();
            members.push((key, self.value(depth)?));
            self.space();
            if self.take(b'}') {
                break;
            }
            if !self.take(b',') {
                return Err(self.expected("`,` or `}`"));
            }
        }
        match second_of_a_kind(&members) {
            Some(member) => Err(JsonError::Duplicate { at: self.at, member: member.to_owned() }),
            None => Ok(Json::Object(members)),
        }
    }

    fn string(&mut self) -> Result<JsonString, JsonError> {
        let start = self.at;
        self.at += 1;
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    // Whatever follows belongs to the escape; `serde_json` judges it below.
                    if self.peek().is_none() {
                        return Err(self.expected("the end of the string"));
                    }
                    self.at += 1;
                }
                Some(0..=0x1f) => return Err(self.expected("an escape instead of a control character")),
                Some(_) => self.at += 1,
                None => return Err(self.expected("the end of the string")),
            }
        }
        self.at += 1;
        let inner = &self.text[start + 1..self.at - 1];
        if !escaped {
            return Ok(JsonString { value: inner.to_owned(), spelling: None });
        }
        match serde_json::from_str::<String>(&self.text[start..self.at]) {
            Ok(value) => Ok(JsonString { value, spelling: Some(inner.into()) }),
            Err(e) => Err(JsonError::Escape { at: start, cause: e.to_string() }),
        }
    }

    fn number(&mut self) -> Result<Json, JsonError> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(Json::Number(self.text[start..self.at].to_owned()))
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.expected("a digit")) }
    }
}
