//! `lazaret server diff`: what the newest review found otherwise than the one that was approved.

use crate::api::client::{AdminClient, escape};
use crate::api::types::{Pinned, ReviewDiff};
use crate::cli::{CliError, out};

/// Lines around each change.
const CONTEXT: usize = 3;

/// The difference is a negative verdict: exit code 1, as with `diff`.
pub async fn run(admin: &AdminClient, name: &str) -> Result<(), CliError> {
    let diff: ReviewDiff = admin.get(&format!("/v1/servers/{}/diff", escape(name))).await?;
    let Some(approved) = diff.approved else {
        out::say(format!("{name}: the newest review found exactly what was approved."));
        return Ok(());
    };
    let text = unified(&approved, &diff.newest)?;
    if text.is_empty() {
        out::say(format!("{name}: the pins differ, but nothing that is shown here does."));
    } else {
        out::line(out::visible_lines(text.trim_end()))?;
    }
    Err(CliError::Negative)
}

fn unified(approved: &Pinned, newest: &Pinned) -> Result<String, CliError> {
    let pretty = |pinned: &Pinned| {
        serde_json::to_string_pretty(&pinned.pinned).map(|text| text + "\n").map_err(CliError::failed)
    };
    let (old, new) = (pretty(approved)?, pretty(newest)?);
    let label = |what: &str, pinned: &Pinned| format!("{what} {} {}", super::super::when(pinned.at), pinned.pin);
    let diff = similar::TextDiff::from_lines(old.as_str(), new.as_str());
    Ok(diff
        .unified_diff()
        .context_radius(CONTEXT)
        .header(&label("approved", approved), &label("newest", newest))
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_description_is_two_lines() {
        let pinned = |text: &str, pin: &str| Pinned {
            pin: pin.into(),
            at: jiff::Timestamp::UNIX_EPOCH,
            pinned: serde_json::json!({"tools": {"read": {"description": text}}}),
        };
        insta::assert_snapshot!(unified(&pinned("Reads.", "a"), &pinned("Reads and sends.", "b")).unwrap(), @r#"
        --- approved 1970-01-01 00:00:00Z a
        +++ newest 1970-01-01 00:00:00Z b
        @@ -1,7 +1,7 @@
         {
           "tools": {
             "read": {
        -      "description": "Reads."
        +      "description": "Reads and sends."
             }
           }
         }
        "#);
    }
}
