//! What clients' hooks say of their sub-agents and tool uses, until a call asks for it.
//!
//! Invariants: what one user's processes say is found for that user's calls only; nobody can fill memory or
//! push out what another user's hooks said. What comes from below the client of a call goes before what others of its
//! user say, and whoever contradicts himself is known as nobody, never as somebody else.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::challenge::HookNote;
use super::delegation::Asserted;
use crate::kernel::tree::Process;
use crate::proxy::json::Json;

/// Notes of one user that are kept.
const MOST_NOTES: usize = 1024;
/// Users whose notes are kept; user namespaces have many to spend.
const MOST_USERS: usize = 256;
/// A tool use that has no call by then has none.
const LIFETIME: Duration = Duration::from_secs(600);
/// Notes that one user's hooks may say in a second; more are not taken.
const PER_SECOND: u32 = 200;
/// Processes above a hook that are kept: a client's shell or two, and the client.
const MOST_ABOVE: usize = 8;
/// Longest text in a note, in bytes.
const MAX_TEXT: usize = 128;

/// Longest event of a hook, in bytes.
pub const MAX_EVENT: usize = 64 << 10;
/// Deepest nesting of one; a tool's arguments are part of it.
const MAX_DEPTH: usize = 64;

/// Why an event cannot be passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("it is longer than {MAX_EVENT} bytes")]
    TooLong,
    #[error("it is not the JSON object of a hook event ({0})")]
    Json(String),
}

/// What an event of Claude Code says that concerns the door; most say nothing.
pub fn read(event: &[u8]) -> Result<Option<HookNote>, EventError> {
    if event.len() > MAX_EVENT {
        return Err(EventError::TooLong);
    }
    let text = std::str::from_utf8(event).map_err(|e| EventError::Json(e.to_string()))?;
    let event = Json::parse(text, MAX_DEPTH).map_err(|e| EventError::Json(e.to_string()))?;
    if event.as_object().is_none() {
        return Err(EventError::Json("an array or a value".into()));
    }
    let member = |name: &str| event.get(name).and_then(Json::as_str).map(str::to_owned);
    let note = HookNote {
        client: "claude-code".into(),
        event: member("hook_event_name").unwrap_or_default(),
        session: member("session_id"),
        agent_id: member("agent_id"),
        agent_type: member("agent_type"),
        tool_use: member("tool_use_id"),
        tool: member("tool_name"),
    };
    let concerns = match note.event.as_str() {
        "PreToolUse" => note.tool_use.is_some() && note.tool.as_deref().is_some_and(|tool| tool.starts_with("mcp__")),
        "SubagentStart" => note.agent_id.is_some(),
        _ => false,
    };
    Ok(concerns.then_some(note))
}

/// Why a note was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error("hooks of this user say more than {PER_SECOND} notes in a second")]
    TooMany,
    #[error("the note names neither a tool use nor a sub-agent")]
    Empty,
    #[error("a text of the note is longer than {MAX_TEXT} bytes or holds control characters")]
    Text,
}

#[derive(Default)]
pub struct HookNotes(Mutex<HashMap<u32, User>>);

struct Note {
    at: Instant,
    said: HookNote,
    /// Who started the hook, the nearest first.
    above: Vec<Process>,
}

struct User {
    notes: VecDeque<Note>,
    second: Instant,
    said: u32,
}

impl HookNotes {
    fn users(&self) -> MutexGuard<'_, HashMap<u32, User>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a process of `uid` said that stands below `above`, the nearest first.
    pub fn note(&self, uid: u32, note: HookNote, above: &[Process], now: Instant) -> Result<(), NotTaken> {
        let texts = [&note.session, &note.agent_id, &note.agent_type, &note.tool_use, &note.tool];
        let fits = |text: &str| text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
        if !texts.into_iter().flatten().chain([&note.client, &note.event]).all(|text| fits(text)) {
            return Err(NotTaken::Text);
        }
        if note.tool_use.is_none() && note.agent_id.is_none() {
            return Err(NotTaken::Empty);
        }
        let mut users = self.users();
        if users.len() >= MOST_USERS && !users.contains_key(&uid) {
            users.retain(|_, user| user.notes.back().is_some_and(|last| now.duration_since(last.at) < LIFETIME));
            if users.len() >= MOST_USERS {
                return Err(NotTaken::TooMany);
            }
        }
        let user = users.entry(uid).or_insert_with(|| User { notes: VecDeque::new(), second: now, said: 0 });
        if now.duration_since(user.second) >= Duration::from_secs(1) {
            (user.second, user.said) = (now, 0);
        }
        if user.said >= PER_SECOND {
            return Err(NotTaken::TooMany);
        }
        user.said += 1;
        while user.notes.front().is_some_and(|first| now.duration_since(first.at) >= LIFETIME) {
            user.notes.pop_front();
        }
        if user.notes.len() >= MOST_NOTES {
            user.notes.pop_front();
        }
        let above = above.iter().take(MOST_ABOVE).copied().collect();
        user.notes.push_back(Note { at: now, said: note, above });
        Ok(())
    }

    /// What hooks of `uid` said of this tool use; where hooks below `client` did, they alone are heard.
    pub fn of_tool_use(&self, uid: u32, tool_use: &str, client: Option<Process>, now: Instant) -> Option<Asserted> {
        let users = self.users();
        let notes = &users.get(&uid)?.notes;
        let below = |note: &&Note| client.is_some_and(|client| note.above.contains(&client));
        let fresh = || notes.iter().rev().filter(|note| now.duration_since(note.at) < LIFETIME);
        let of_it = || fresh().filter(|note| note.said.tool_use.as_deref() == Some(tool_use));
        let from_client = of_it().any(|note| below(&note));
        let mut heard = of_it().filter(|note| !from_client || below(note)).map(|note| &note.said);
        let said = heard.next()?;
        let found = Asserted {
            source: said.client.clone(),
            session: said.session.clone(),
            tool_use: Some(tool_use.to_owned()),
            from_client,
            ..Asserted::default()
        };
        if heard.any(|other| (&other.agent_id, &other.session) != (&said.agent_id, &said.session)) {
            return Some(Asserted { session: None, contradicted: true, ..found });
        }
        let mut agent_type = said.agent_type.clone();
        if agent_type.is_none() && said.agent_id.is_some() {
            // The start of the sub-agent says it where the tool use does not.
            let started = |other: &&Note| other.said.agent_id == said.agent_id && other.said.session == said.session;
            let started = |other: &&Note| started(other) && (!from_client || below(other));
            agent_type = fresh().filter(started).find_map(|other| other.said.agent_type.clone());
        }
        // Some clients name a type for the main thread too; what tells a sub-agent is its id.
        let agent_type = agent_type.filter(|_| said.agent_id.is_some());
        Some(Asserted { agent_type, agent_id: said.agent_id.clone(), ..found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(tool_use: Option<&str>, agent: Option<&str>, kind: Option<&str>) -> HookNote {
        let own = |text: Option<&str>| text.map(str::to_owned);
        HookNote {
            client: "claude-code".into(),
            event: "PreToolUse".into(),
            session: Some("s1".into()),
            agent_id: own(agent),
            agent_type: own(kind),
            tool_use: own(tool_use),
            tool: None,
        }
    }

    #[test]
    fn a_tool_use_is_joined_with_the_sub_agent_that_made_it() {
        let (notes, now) = (HookNotes::default(), Instant::now());
        notes.note(1000, note(None, Some("a1"), Some("Explore")), &[], now).unwrap();
        notes.note(1000, note(Some("t1"), Some("a1"), None), &[], now).unwrap();
        notes.note(1000, note(Some("t2"), None, Some("main")), &[], now).unwrap();
        let found = notes.of_tool_use(1000, "t1", None, now).unwrap();
        assert_eq!((found.agent_id.as_deref(), found.agent_type.as_deref()), (Some("a1"), Some("Explore")));
        assert!(found.is_sub_agent());
        let main = notes.of_tool_use(1000, "t2", None, now).unwrap();
        assert!(!main.is_sub_agent() && main.session.as_deref() == Some("s1"));
        assert_eq!(notes.of_tool_use(1000, "t3", None, now), None);
        assert_eq!(notes.of_tool_use(1001, "t1", None, now), None, "another user's hooks are not heard");
        assert_eq!(notes.of_tool_use(1000, "t1", None, now + LIFETIME), None);
        notes.note(1000, note(Some("t1"), Some("a2"), None), &[], now).unwrap();
        let both = notes.of_tool_use(1000, "t1", None, now).unwrap();
        assert!(
            both.contradicted && both.is_sub_agent() && both.agent_id.is_none(),
            "nor does it pass for the top agent"
        );
    }

    #[test]
    fn hooks_below_the_client_are_heard_before_others_of_its_user() {
        let (notes, now) = (HookNotes::default(), Instant::now());
        let process = |pid| Process { pid, started: 7 };
        let (client, shell) = (process(10), process(11));
        notes.note(1, note(Some("t1"), Some("a1"), Some("Explore")), &[shell, client], now).unwrap();
        notes.note(1, note(Some("t1"), Some("other"), None), &[process(99)], now).unwrap();
        let found = notes.of_tool_use(1, "t1", Some(client), now).unwrap();
        assert_eq!((found.agent_id.as_deref(), found.from_client, found.contradicted), (Some("a1"), true, false));
        // For another client of this user neither of them comes from below it, and they contradict each other.
        let found = notes.of_tool_use(1, "t1", Some(Process { started: 8, ..client }), now).unwrap();
        assert!(found.contradicted && !found.from_client);
        notes.note(1, note(Some("t1"), None, None), &[client], now).unwrap();
        assert!(notes.of_tool_use(1, "t1", Some(client), now).unwrap().contradicted, "the client itself says both");
    }

    #[test]
    fn an_event_says_who_uses_which_tool_and_nothing_of_its_arguments() {
        let event = br#"{"session_id":"s1","transcript_path":"/x","cwd":"/y","hook_event_name":"PreToolUse","agent_id":"a1",
            "agent_type":"Explore","tool_name":"mcp__lazaret__call_tool","tool_input":{"secret":"s3cret"},"tool_use_id":"t1"}"#;
        let said = read(event).unwrap().unwrap();
        assert_eq!((said.agent_type.as_deref(), said.tool_use.as_deref()), (Some("Explore"), Some("t1")));
        assert!(!serde_json::to_string(&said).unwrap().contains("s3cret"));
        let other = br#"{"hook_event_name":"PreToolUse","tool_name":"Bash","tool_use_id":"t2"}"#;
        assert_eq!(read(other), Ok(None), "other tools do not come through the door");
        let started =
            br#"{"hook_event_name":"SubagentStart","session_id":"s1","agent_id":"a1","agent_type":"Explore"}"#;
        assert!(read(started).unwrap().is_some());
        assert_eq!(read(br#"{"hook_event_name":"Stop"}"#), Ok(None));
        for bad in [&b"[]"[..], b"", b"{", b"\xff", br#"{"agent_id":"a","agent_id":"b"}"#] {
            assert!(matches!(read(bad), Err(EventError::Json(_))), "{bad:?}");
        }
        assert_eq!(read(&vec![b' '; MAX_EVENT + 1]), Err(EventError::TooLong));
    }

    proptest::proptest! {
        #[test]
        fn any_event_is_a_note_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), text in ".{0,300}") {
            let notes = HookNotes::default();
            for event in [&bytes[..], text.as_bytes()] {
                if let Ok(Some(note)) = read(event) {
                    let _taken = notes.note(1, note, &[], Instant::now());
                }
            }
        }
    }

    #[test]
    fn nobody_fills_memory_or_pushes_out_what_others_said() {
        let (notes, now) = (HookNotes::default(), Instant::now());
        notes.note(1, note(Some("mine"), Some("a"), None), &[], now).unwrap();
        assert_eq!(notes.note(2, note(None, None, None), &[], now), Err(NotTaken::Empty));
        assert_eq!(notes.note(2, note(Some(&"x".repeat(129)), None, None), &[], now), Err(NotTaken::Text));
        assert_eq!(notes.note(2, note(Some("a\nb"), None, None), &[], now), Err(NotTaken::Text));
        for n in 0..20_000u32 {
            let at = now + Duration::from_millis(u64::from(n) * 4);
            let taken = notes.note(2, note(Some(&format!("t{n}")), Some("a"), None), &[], at);
            assert!(taken == Ok(()) || taken == Err(NotTaken::TooMany));
        }
        assert_eq!(notes.users()[&2].notes.len(), MOST_NOTES);
        let burst =
            (0..PER_SECOND * 2).filter(|n| notes.note(3, note(Some(&n.to_string()), None, None), &[], now).is_ok());
        assert_eq!(burst.count(), PER_SECOND as usize);
        for uid in 10..2000 {
            let _crowded = notes.note(uid, note(Some("t"), None, None), &[], now);
        }
        assert!(notes.users().len() <= MOST_USERS);
        assert!(notes.of_tool_use(1, "mine", None, now).is_some());
    }
}
