//! One HTTP request: judged, then given to the session that it belongs to.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::answer::{self, EVENTS, JSON, Manner, NO_SESSION, REFUSED};
use super::guard::only;
use super::headers::{self, Route};
use super::link::{Link, Refused};
use super::room::Room;
use super::{Http, PATH};
use crate::identity::{Grant, TokenRefused};
use crate::proxy::envelope::{self, Malformed, Message, RequestId};

const METHODS: &str = "GET, POST, DELETE";

/// The uid behind the connection, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerUid(pub Option<u32>);

pub(super) async fn handle(State(http): State<Arc<Http>>, request: Request) -> Response {
    let origin = match http.guard.check(request.uri(), request.headers()) {
        Ok(origin) => origin,
        Err(foreign) => {
            tracing::info!("an HTTP request was refused: {foreign}");
            return finished(answer::error(StatusCode::FORBIDDEN, None, REFUSED, foreign.to_string()), None);
        }
    };
    finished(judged(&http, request, origin.is_some()).await, origin)
}

async fn judged(http: &Arc<Http>, request: Request, named_origin: bool) -> Response {
    let (parts, body) = request.into_parts();
    if parts.uri.path() != PATH {
        return answer::error(
            StatusCode::NOT_FOUND,
            None,
            REFUSED,
            format!("there is nothing here; the door is at {PATH}"),
        );
    }
    if parts.uri.query().is_some() {
        let why = "the URL takes no query; a token belongs in the Authorization header, where no log keeps it";
        return answer::error(StatusCode::BAD_REQUEST, None, REFUSED, why);
    }
    let method = parts.method.clone();
    if method == Method::OPTIONS && named_origin {
        return StatusCode::NO_CONTENT.into_response();
    }
    if ![Method::GET, Method::POST, Method::DELETE].contains(&method) {
        return not_allowed(METHODS);
    }
    let grant = match admit(http, &parts).await {
        Ok(grant) => grant,
        Err(refused) => return unauthorized(&refused),
    };
    let room = http.rooms.of(http, &grant);
    match method {
        Method::POST => post(http, &room, &parts.headers, body).await,
        _ if is_newer(&parts.headers) => not_allowed("POST"),
        Method::GET => get(&room, &parts.headers),
        _ => delete(&room, &parts.headers),
    }
}

/// The state is asked anew for every request.
async fn admit(http: &Arc<Http>, request: &Parts) -> Result<Arc<Grant>, TokenRefused> {
    let uid = request.extensions.get::<PeerUid>().and_then(|peer| peer.0);
    let mut values = request.headers.get_all(header::AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (value, None) => value.map(|value| value.as_bytes().to_vec()),
        // Of two, neither is believed.
        _ => Some(Vec::new()),
    };
    let work = {
        let http = http.clone();
        move || http.tokens.admit(&http.registry, value.as_deref(), uid, &http.url)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(judged) => judged,
        Err(e) => {
            tracing::error!("judging a token failed: {e}");
            Err(TokenRefused::Unknown)
        }
    }
}

fn unauthorized(refused: &TokenRefused) -> Response {
    tracing::info!("an HTTP request was refused: {refused}");
    let text = format!("{refused}; {}", refused.next_step());
    let quoted: String = text.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect();
    let challenge = match refused {
        TokenRefused::Missing => r#"Bearer realm="lazaret""#.to_owned(),
        _ => format!(r#"Bearer realm="lazaret", error="invalid_token", error_description="{quoted}""#),
    };
    let mut response = answer::error(StatusCode::UNAUTHORIZED, None, REFUSED, text);
    if let Ok(challenge) = HeaderValue::from_str(&challenge) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn not_allowed(methods: &'static str) -> Response {
    let mut response =
        answer::error(StatusCode::METHOD_NOT_ALLOWED, None, REFUSED, format!("only {methods} are served here"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

/// Of 2026-07-28, which has neither GET nor DELETE.
fn is_newer(headers: &HeaderMap) -> bool {
    let version = only(headers, headers::VERSION).ok().flatten();
    version.is_some_and(|version| crate::proxy::versions::STATELESS.contains(&version))
}

async fn post(http: &Arc<Http>, room: &Arc<Room>, headers: &HeaderMap, body: Body) -> Response {
    if !only(headers, header::CONTENT_TYPE.as_str()).ok().flatten().is_some_and(is_json) {
        let why = format!("the body must be {JSON}");
        return answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, REFUSED, why);
    }
    if !(accepts(headers, JSON) && accepts(headers, EVENTS)) {
        let why = format!("the Accept header must name {JSON} and {EVENTS}");
        return answer::error(StatusCode::NOT_ACCEPTABLE, None, REFUSED, why);
    }
    let limits = http.door.limits();
    let body = match tokio::time::timeout(http.deadlines.body, to_bytes(body, limits.max_message_bytes)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let too_long = Malformed::too_long(limits.max_message_bytes);
            return answer::error(StatusCode::PAYLOAD_TOO_LARGE, None, too_long.code, too_long.message);
        }
        Err(_) => return answer::error(StatusCode::REQUEST_TIMEOUT, None, REFUSED, "the body did not come in time"),
    };
    let judged = envelope::read(&body, &limits).and_then(|message| {
        let route = headers::route(headers, &message)?;
        Ok((message, route))
    });
    // 2026-07-28 has no `initialize`, whatever its shape.
    let judged = match judged {
        judged if !(is_newer(headers) && only(headers, headers::METHOD) == Ok(Some("initialize"))) => judged,
        Ok((Message::Request { id, .. }, _)) => Err(no_initialize(Some(id))),
        Ok(_) => Err(no_initialize(None)),
        Err(malformed) => Err(no_initialize(malformed.id)),
    };
    match judged {
        Ok((message, Route::Alone)) => alone(http, room, message).await,
        Ok((message, Route::Session)) => in_session(http, room, headers, message).await,
        Err(malformed) => {
            tracing::info!(agent = %room.identity.address(), "a message was refused: {malformed}");
            answer::malformed(malformed)
        }
    }
}

fn no_initialize(id: Option<RequestId>) -> Malformed {
    let why = "Method not found: initialize; 2026-07-28 has none, send requests as they are";
    Malformed { id, ..Malformed::new(envelope::METHOD_NOT_FOUND, why) }
}

/// A request that is a session of its own; it is cancelled when the client goes away.
async fn alone(http: &Arc<Http>, room: &Arc<Room>, message: Message) -> Response {
    let (id, params) = match &message {
        Message::Request { id, params, .. } => (id.clone(), params.as_ref()),
        Message::Notification { .. } => return StatusCode::ACCEPTED.into_response(),
        Message::Response { id, .. } => {
            let why = "the door asks the client for nothing, so that there is nothing to answer";
            return answer::error(StatusCode::BAD_REQUEST, Some(id), envelope::INVALID_REQUEST, why);
        }
    };
    let Some(place) = room.alone() else {
        let why = "too many requests at once with this token; wait for one of them to end";
        return answer::error(StatusCode::TOO_MANY_REQUESTS, Some(&id), REFUSED, why);
    };
    let link = Link::open(http, room);
    let waiter = match link.expect(&id, params) {
        Ok(waiter) => waiter,
        Err(refused) => return not_taken(refused, Some(&id)),
    };
    if let Err(refused) = link.send(message).await {
        return not_taken(refused, Some(&id));
    }
    answer::to_request(waiter, Manner { id, by_code: true }, (link, place)).await
}

async fn in_session(http: &Arc<Http>, room: &Arc<Room>, headers: &HeaderMap, message: Message) -> Response {
    let id = match &message {
        Message::Request { id, .. } => Some(id.clone()),
        _ => None,
    };
    let opens = matches!(&message, Message::Request { method, .. } if method == "initialize");
    let (link, opened) = match only(headers, headers::SESSION) {
        Ok(None) if opens => match open(http, room) {
            Ok((link, name)) => (link, Some(name)),
            Err(response) => return response,
        },
        Ok(Some(name)) => match room.session(name) {
            Some(link) => (link, None),
            None => return no_session(id.as_ref()),
        },
        _ => {
            let why = "the Mcp-Session-Id header is missing; send `initialize` first, and then the header that its answer has";
            return answer::error(StatusCode::BAD_REQUEST, id.as_ref(), envelope::INVALID_REQUEST, why);
        }
    };
    let Message::Request { id, params, .. } = &message else {
        if let Message::Notification { method, params: Some(params) } = &message
            && method == "notifications/cancelled"
            && let Some(id) = params.get("requestId").and_then(RequestId::read)
        {
            link.forget(&id);
        }
        return match link.send(message).await {
            Ok(()) => StatusCode::ACCEPTED.into_response(),
            Err(refused) => not_taken(refused, None),
        };
    };
    let id = id.clone();
    let waiter = match link.expect(&id, params.as_ref()) {
        Ok(waiter) => waiter,
        Err(refused) => return not_taken(refused, Some(&id)),
    };
    if let Err(refused) = link.send(message).await {
        return not_taken(refused, Some(&id));
    }
    let mut response = answer::to_request(waiter, Manner { id, by_code: false }, link).await;
    if let Some(name) = opened
        && let Ok(name) = HeaderValue::from_str(&name)
    {
        response.headers_mut().insert(HeaderName::from_static(headers::SESSION), name);
    }
    response
}

fn open(http: &Arc<Http>, room: &Arc<Room>) -> Result<(Arc<Link>, String), Response> {
    let failed = |status, why: &str| Err(answer::error(status, None, REFUSED, why));
    let mut bytes = [0u8; 32];
    if getrandom::fill(&mut bytes).is_err() {
        return failed(StatusCode::INTERNAL_SERVER_ERROR, "no session could be opened");
    }
    let name = hex::encode(bytes);
    let link = Arc::new(Link::open(http, room));
    if room.keep(name.clone(), link.clone()).is_none() {
        return failed(
            StatusCode::TOO_MANY_REQUESTS,
            "this token has too many sessions open; end one with DELETE, or get another token",
        );
    }
    Ok((link, name))
}

fn get(room: &Arc<Room>, headers: &HeaderMap) -> Response {
    if !accepts(headers, EVENTS) {
        let why = format!("the Accept header must name {EVENTS}");
        return answer::error(StatusCode::NOT_ACCEPTABLE, None, REFUSED, why);
    }
    let link = match named(room, headers) {
        Ok((_, link)) => link,
        Err(response) => return response,
    };
    match link.news() {
        Some(news) => answer::to_get(news),
        None => answer::error(StatusCode::CONFLICT, None, REFUSED, "the session has its stream already"),
    }
}

fn delete(room: &Arc<Room>, headers: &HeaderMap) -> Response {
    match named(room, headers) {
        Ok((name, _)) if room.close(&name) => StatusCode::NO_CONTENT.into_response(),
        Ok(_) => no_session(None),
        Err(response) => response,
    }
}

fn named(room: &Arc<Room>, headers: &HeaderMap) -> Result<(String, Arc<Link>), Response> {
    match only(headers, headers::SESSION) {
        Ok(Some(name)) => room.session(name).map(|link| (name.to_owned(), link)).ok_or_else(|| no_session(None)),
        _ => {
            let why = "the Mcp-Session-Id header is missing";
            Err(answer::error(StatusCode::BAD_REQUEST, None, envelope::INVALID_REQUEST, why))
        }
    }
}

/// The same for a session that ended, one that never was, and one of another token.
fn no_session(id: Option<&RequestId>) -> Response {
    answer::error(StatusCode::NOT_FOUND, id, NO_SESSION, "there is no such session; send `initialize` to open one")
}

fn not_taken(refused: Refused, id: Option<&RequestId>) -> Response {
    match refused {
        Refused::Over => no_session(id),
        Refused::SameId => {
            let why = "the id is that of a request in flight; give each request an id of its own";
            answer::error(StatusCode::BAD_REQUEST, id, envelope::INVALID_REQUEST, why)
        }
    }
}

fn is_json(value: &str) -> bool {
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(JSON))
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let group = kind.split('/').next().unwrap_or_default();
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        let range = range.split(';').next().unwrap_or_default().trim();
        range.eq_ignore_ascii_case(kind) || range == "*/*" || range.eq_ignore_ascii_case(&format!("{group}/*"))
    })
}

/// What every answer carries. Other origins read it only where the operator named them.
fn finished(mut response: Response, origin: Option<String>) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = origin.and_then(|origin| HeaderValue::from_str(&origin).ok()) {
        const ASKED: &str = "authorization, content-type, accept, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, last-event-id";
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ASKED));
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("mcp-session-id, www-authenticate"),
        );
    }
    response
}
