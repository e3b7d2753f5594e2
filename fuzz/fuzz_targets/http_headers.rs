//! Any headers agree with a body, or are refused; what agrees says what the body says.

use lazaret::proxy::envelope::{Limits, Message, read};
use lazaret::proxy::http::headers::{HeaderMap, HeaderValue, METHOD, NAME, Route, SESSION, VERSION, decode, route};

// The body is the last line; each line before it is a header, by its first byte.
fuzz_target!(|input: &[u8]| {
    let mut lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let Some(body) = lines.pop() else { return };
    let mut headers = HeaderMap::new();
    for line in lines {
        if let Some((name, value)) = line.split_first()
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            headers.append([VERSION, METHOD, NAME, SESSION][usize::from(*name) % 4], value);
        }
    }
    let limits = Limits { max_message_bytes: 1 << 16, max_depth: 32 };
    let Ok(message) = read(body, &limits) else { return };
    let Ok(judged) = route(&headers, &message) else { return };
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let (Message::Request { method, params, .. }, Route::Alone) = (&message, judged) {
        assert_eq!(text(METHOD), Some(method.as_str()));
        if method == "tools/call" {
            let name = params.as_ref().and_then(|params| params.get("name")).and_then(|name| name.as_str());
            assert_eq!(text(NAME).and_then(decode).as_deref(), name);
        }
    }
});
