//! Any event of a client's hook is a note, nothing, or an error; a note that is taken is found for its user and for nobody
//! else, and of two that contradict each other neither is believed.

use std::time::Instant;

use lazaret::identity::hooks::{HookNotes, read};

fuzz_target!(|event: &[u8]| {
    let Ok(Some(note)) = read(event) else { return };
    let (notes, now) = (HookNotes::default(), Instant::now());
    if notes.note(1, note.clone(), &[], now).is_err() {
        return;
    }
    let Some(tool_use) = &note.tool_use else { return };
    assert!(tool_use.len() <= 128 && !tool_use.chars().any(char::is_control));
    assert!(notes.of_tool_use(2, tool_use, None, now).is_none());
    let mut other = note.clone();
    other.agent_id = Some(format!("{:.100}-other", note.agent_id.clone().unwrap_or_default()));
    if notes.note(1, other, &[], now).is_ok() {
        let found = notes.of_tool_use(1, tool_use, None, now);
        let believed = found.is_some_and(|found| !found.contradicted || found.agent_id.is_some());
        assert!(!believed, "two that say different things are not believed");
    }
});
