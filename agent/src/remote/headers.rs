//! Header values: secrets going out, and what answers say.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use jiff::Timestamp;

use super::RemoteError;
use crate::admission::Remote;

/// Nobody is waited for longer than this, whatever it says.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The definition's headers with their secrets in them. Errors name the secret, never its value.
pub fn secret_headers(remote: &Remote, env: &BTreeMap<String, String>) -> Result<HeaderMap, RemoteError> {
    let mut headers = HeaderMap::new();
    for header in remote.headers() {
        let bad = |why: String| RemoteError::Header { name: header.name.clone(), why };
        let secret = env
            .get(&header.secret)
            .ok_or_else(|| bad(format!("there is no secret {}; add the server again with --secret", header.secret)))?;
        let name = HeaderName::try_from(&header.name).map_err(|_| bad("it is no name of a header".into()))?;
        let value = format!("{}{}", header.prefix, secret);
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| bad(format!("the secret {} has bytes that no header can carry", header.secret)))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// What MCP's transport answers with.
pub(super) fn both() -> HeaderValue {
    HeaderValue::from_static("application/json, text/event-stream")
}

/// In seconds or as a date.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(secs) => Duration::from_secs(secs),
        Err(_) => {
            let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default()
        }
    };
    Some(pause.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::SecretHeader;

    #[test]
    fn a_secret_stands_behind_its_prefix_and_in_no_error() {
        let header = SecretHeader { name: "authorization".into(), prefix: "Bearer ".into(), secret: "TOKEN".into() };
        let remote = Remote::new("https://a.example/", vec![header], false, false, None).unwrap();
        let with = |value: &str| secret_headers(&remote, &BTreeMap::from([("TOKEN".to_owned(), value.to_owned())]));
        let headers = with("hunter2").unwrap();
        assert_eq!(headers["authorization"], "Bearer hunter2");
        assert!(!format!("{headers:?}").contains("hunter2"));
        let error = with("hunter2\r\nx: y").unwrap_err().to_string();
        assert!(error.contains("TOKEN") && !error.contains("hunter2"), "{error}");
        assert!(secret_headers(&remote, &BTreeMap::new()).unwrap_err().to_string().contains("--secret"));
    }

    #[test]
    fn a_pause_is_seconds_or_a_date_and_never_too_long() {
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("99999999999"), Some(LONGEST_PAUSE));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = Timestamp::now() + jiff::SignedDuration::from_secs(100);
        let text = soon.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert!(after(&text).is_some_and(|pause| (90..=100).contains(&pause.as_secs())), "{text}");
        assert_eq!(after("soon"), None);
    }
}
