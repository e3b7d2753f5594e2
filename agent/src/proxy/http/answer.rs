//! Answers: one JSON object, or a stream of events where there is more to say or to wait for.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;

use super::link::{Event, News, Waiter};
use crate::proxy::envelope::{self, Malformed, Reply, RequestId};
use crate::proxy::json::Json;

pub(super) const JSON: &str = "application/json";
pub(super) const EVENTS: &str = "text/event-stream";

/// Codes of errors in the range for implementations.
pub(super) const NO_SESSION: i32 = -32001;
pub(super) const REFUSED: i32 = -32000;

/// An answer that comes within this is plain JSON; later ones come as events, so that the client sees life.
const PLAIN: Duration = Duration::from_secs(2);
/// Silence after which a stream shows that it is alive.
const STILL_THERE: Duration = Duration::from_secs(15);

pub(super) fn json(status: StatusCode, line: String) -> Response {
    (status, [(CONTENT_TYPE, JSON)], line).into_response()
}

pub(super) fn error(status: StatusCode, id: Option<&RequestId>, code: i32, why: impl Into<String>) -> Response {
    let error = envelope::error_object(code, why, None);
    let line = match id {
        Some(_) => envelope::reply_line(id, &Reply::Error(error)),
        // MCP's schema knows no null id; what answers no request has none.
        None => Json::object([("jsonrpc", Json::string("2.0")), ("error", error)]).to_text(),
    };
    json(status, line)
}

pub(super) fn malformed(malformed: Malformed) -> Response {
    let status =
        if malformed.code == envelope::METHOD_NOT_FOUND { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
    error(status, malformed.id.as_ref(), malformed.code, malformed.message)
}

/// How the answer to one request is to be given.
pub(super) struct Manner {
    pub id: RequestId,
    /// Errors have a status of their own in 2026-07-28.
    pub by_code: bool,
}

/// Answers a request. `keep` lives until the answer was given or the client has gone.
pub(super) async fn to_request<K: Send + 'static>(mut waiter: Waiter, manner: Manner, keep: K) -> Response {
    match tokio::time::timeout(PLAIN, waiter.next()).await {
        Ok(Event::Reply(line)) => {
            json(if manner.by_code { status_of(&manner.id, &line) } else { StatusCode::OK }, line)
        }
        Ok(Event::Gone) => json(StatusCode::OK, gone(&manner.id)),
        Ok(Event::Progress(line)) => stream(Some(line), waiter, manner, keep),
        Err(_) => stream(None, waiter, manner, keep),
    }
}

fn stream<K: Send + 'static>(first: Option<String>, waiter: Waiter, manner: Manner, keep: K) -> Response {
    let events = futures_util::stream::unfold(Some((first, waiter, manner, keep)), async |state| {
        let (first, mut waiter, manner, keep) = state?;
        if let Some(line) = first {
            return Some((event(&line), Some((None, waiter, manner, keep))));
        }
        let (bytes, goes_on) = match tokio::time::timeout(STILL_THERE, waiter.next()).await {
            Err(_) => (ping(), true),
            Ok(Event::Progress(line)) => (event(&line), true),
            Ok(Event::Reply(line)) => (event(&line), false),
            Ok(Event::Gone) => (event(&gone(&manner.id)), false),
        };
        Some((bytes, goes_on.then_some((None, waiter, manner, keep))))
    });
    events_of(events)
}

/// The stream of a GET.
pub(super) fn to_get(news: News) -> Response {
    let events = futures_util::stream::unfold((true, news), async |(first, mut news)| {
        if first {
            return Some((ping(), (false, news)));
        }
        match tokio::time::timeout(STILL_THERE, news.next()).await {
            Err(_) => Some((ping(), (false, news))),
            Ok(Some(line)) => Some((event(&line), (false, news))),
            Ok(None) => None,
        }
    });
    events_of(events)
}

fn events_of(events: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Response {
    use futures_util::StreamExt as _;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(EVENTS)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
    ];
    (headers, Body::from_stream(events.map(Ok::<_, Infallible>))).into_response()
}

/// A message has no line break within, so that it is one line of data.
fn event(line: &str) -> Bytes {
    format!("event: message\ndata: {}\n\n", line.trim_end()).into()
}

fn ping() -> Bytes {
    Bytes::from_static(b": still there\n\n")
}

fn gone(id: &RequestId) -> String {
    let why = "the session ended before the answer; whether a call took effect is not known";
    envelope::reply_line(Some(id), &Reply::error(REFUSED, why))
}

/// Only an error is read again, and it is short.
fn status_of(id: &RequestId, line: &str) -> StatusCode {
    let head = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":"#, id.as_json());
    let code =
        line.strip_prefix(&head).and_then(|rest| rest.split([',', '}']).next()).and_then(|code| code.parse().ok());
    match code {
        Some(
            envelope::PARSE_ERROR
            | envelope::INVALID_REQUEST
            | envelope::INVALID_PARAMS
            | envelope::HEADER_MISMATCH
            | envelope::MISSING_CAPABILITY
            | envelope::UNSUPPORTED_VERSION,
        ) => StatusCode::BAD_REQUEST,
        Some(envelope::METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        _ => StatusCode::OK,
    }
}
