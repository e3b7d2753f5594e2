//! Reads a stream of events until its call is answered; takes it up again where the server ends it before.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming as Body;
use hyper::header::{ACCEPT, HeaderName, HeaderValue};

use super::{UpstreamError, Wire, remote_error};
use crate::remote::{Ask, is_type, sse};

const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
/// What a message that nobody asked for counts at least.
const LEAST_BYTES: u64 = 1 << 10;
/// How often one call's stream is taken up again, and after which pauses.
const MOST_RESUMES: usize = 100;
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For the end of a stream behind its last answer: a connection that has ended it can be used again.
const TAIL: Duration = Duration::from_millis(50);

/// Where a stream stood when it ended.
#[derive(Default)]
pub(super) struct Stop {
    pub last_id: Option<String>,
    pub retry: Option<Duration>,
}

impl Wire {
    /// All events of a call's answer.
    pub(super) async fn stream(&self, id: u64, response: Response<Body>) -> Result<(), UpstreamError> {
        let mut stop = self.events(Some(id), response).await?;
        for _ in 0..MOST_RESUMES {
            if !self.calls().is_open(id) {
                return Ok(());
            }
            let Some(last) = stop.last_id.take() else { break };
            tokio::time::sleep(stop.retry.unwrap_or(PAUSE)).await;
            let response = self.get(Some(&last)).await?;
            if !response.status().is_success() || !is_type(&response, "text/event-stream") {
                break;
            }
            stop = self.events(Some(id), response).await?;
            stop.last_id = stop.last_id.or(Some(last));
        }
        if self.calls().is_open(id) {
            return Err(remote_error("it ended its stream without an answer".into(), true));
        }
        Ok(())
    }

    /// A stream that the server may speak on by itself.
    pub(super) async fn get(&self, last: Option<&str>) -> Result<Response<Body>, UpstreamError> {
        let mut ask = Ask::get(self.link.url.clone());
        ask.headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        ask.headers.extend(last.and_then(|id| HeaderValue::from_str(id).ok()).map(|id| (LAST_EVENT, id)));
        self.send(ask).await
    }

    /// Until the stream ends, or the call that is waited for has its answer.
    pub(super) async fn events(&self, id: Option<u64>, response: Response<Body>) -> Result<Stop, UpstreamError> {
        let mut parser = sse::Parser::new(self.ears.bounds.max_message_bytes);
        let mut body = response.into_body();
        let mut broke = None;
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(e) => {
                    broke = Some(e.to_string());
                    break;
                }
            };
            let Some(data) = frame.data_ref() else { continue };
            let events = match parser.feed(data) {
                Ok(events) => events,
                Err(sse::TooLong(limit)) => {
                    self.end(&format!("it sent a message of more than {limit} bytes"));
                    return Ok(Stop::default());
                }
            };
            for event in events {
                if !self.take(id, &event) {
                    self.end("it floods its stream with messages that nobody asked for");
                    return Ok(Stop::default());
                }
            }
            if !self.may_say(parser.take_idle()) {
                self.end("it floods its stream with nothing");
                return Ok(Stop::default());
            }
            if id.is_some_and(|id| !self.calls().is_open(id)) {
                let _open_still = tokio::time::timeout(TAIL, body.frame()).await;
                return Ok(Stop::default());
            }
        }
        let last_id = parser.last_id().filter(|id| !id.is_empty()).map(str::to_owned);
        if let (Some(why), None) = (broke, &last_id) {
            return Err(remote_error(format!("its stream broke: {why}"), true));
        }
        let retry = parser.retry_ms().map(|ms| Duration::from_millis(ms).min(LONGEST_PAUSE));
        Ok(Stop { last_id, retry })
    }

    fn take(&self, call: Option<u64>, event: &sse::Event) -> bool {
        let is_message = event.kind.as_deref().is_none_or(|kind| kind == "message");
        let wanted = is_message && self.ears.take_on(call, &event.data);
        wanted || self.may_say(LEAST_BYTES.max(event.data.len() as u64))
    }

    fn may_say(&self, unasked: u64) -> bool {
        unasked == 0 || self.unasked.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take(unasked)
    }
}
