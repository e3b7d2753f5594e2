//! Log messages of servers: which of them a client hears.
//!
//! A message is given on only where it is known whose call it belongs to (`proxy/upstream`), and from the severity on
//! that the client asked for. Servers are not told of it: one of them may work for many clients.

use crate::proxy::json::Json;
use crate::proxy::versions;

/// Least severe first, as RFC 5424 has them.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
pub(super) const UNKNOWN_LEVEL: &str =
    "`level` must be one of debug, info, notice, warning, error, critical, alert, emergency";

/// From which severity on; everything by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Level(usize);

impl Level {
    pub(super) fn of(name: &str) -> Option<Self> {
        LEVELS.iter().position(|known| *known == name).map(Self)
    }

    /// What one request of 2026-07-28 asks for in its `_meta`; `None`: it wants to hear nothing.
    pub(super) fn of_request(params: &Json) -> Option<Self> {
        params.get("_meta")?.get(versions::META_LOG_LEVEL)?.as_str().and_then(Self::of)
    }

    /// Whether the `params` of a message are to be heard. A message without a known severity is none.
    pub(super) fn hears(self, message: &Json) -> bool {
        message.get("level").and_then(Json::as_str).and_then(Self::of).is_some_and(|level| level >= self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: &str) -> Json {
        Json::object([("level", Json::string(level)), ("data", Json::Null)])
    }

    #[test]
    fn what_is_less_severe_is_not_heard() {
        let warning = Level::of("warning").unwrap();
        let heard: Vec<_> = LEVELS.into_iter().filter(|level| warning.hears(&message(level))).collect();
        assert_eq!(heard, ["warning", "error", "critical", "alert", "emergency"]);
        assert!(LEVELS.iter().all(|level| Level::default().hears(&message(level))));
        assert!(!Level::default().hears(&message("loud")) && !Level::default().hears(&Json::Null));
        assert_eq!(Level::of("Warning"), None);
    }
}
