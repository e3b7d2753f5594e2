//! `lazaret server diff`: what the newest review found otherwise than the one that was approved.

use crate::admission::AdmissionState;
use crate::api::client::{AdminClient, ClientError, escape};
use crate::api::types::{ErrorKind, Pinned, ReviewDiff, ServerView};
use crate::cli::{CliError, out, review, when};

/// Lines around each change of the unified diff.
const CONTEXT: usize = 3;

/// The difference is a negative verdict: exit code 1, as with `diff`.
pub async fn run(admin: &AdminClient, name: &str, full: bool) -> Result<(), CliError> {
    let diff: ReviewDiff = admin.get(&path(name)).await?;
    let Some(approved) = diff.approved else {
        out::say(format!("{name}: the newest review found exactly what was approved."));
        return Ok(());
    };
    let text = if full {
        out::visible_lines(unified(&approved, &diff.newest)?.trim_end())
    } else {
        readable(&approved, &diff.newest)
    };
    if text.is_empty() {
        out::say(format!("{name}: the pins differ, but nothing that is shown here does."));
    } else {
        out::line(text)?;
    }
    Err(CliError::Negative)
}

/// What changed since the approval, for whoever reads the review of a server that lost it.
pub async fn since_approval(admin: &AdminClient, server: &ServerView) -> Result<Option<String>, CliError> {
    let newest = server.review.as_ref().map(|review| &review.pin);
    if server.state != AdmissionState::Quarantined
        || server.decided_pin.is_none()
        || server.decided_pin.as_ref() == newest
    {
        return Ok(None);
    }
    let diff: ReviewDiff = match admin.get(&path(&server.name)).await {
        Ok(diff) => diff,
        // It was denied, not approved, what came before.
        Err(ClientError::Refused(body)) if body.kind == ErrorKind::Conflict => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    Ok(diff.approved.map(|approved| readable(&approved, &diff.newest)).filter(|text| !text.is_empty()))
}

fn path(name: &str) -> String {
    format!("/v1/servers/{}/diff", escape(name))
}

fn readable(approved: &Pinned, newest: &Pinned) -> String {
    let mut lines = review::changed_lines(&approved.pinned, &newest.pinned);
    if !lines.is_empty() {
        lines.insert(0, format!("changed since it was approved as reviewed at {}:", when(approved.at)));
    }
    lines.join("\n")
}

fn unified(approved: &Pinned, newest: &Pinned) -> Result<String, CliError> {
    let pretty = |pinned: &Pinned| {
        serde_json::to_string_pretty(&pinned.pinned).map(|text| text + "\n").map_err(CliError::failed)
    };
    let (old, new) = (pretty(approved)?, pretty(newest)?);
    let label = |what: &str, pinned: &Pinned| format!("{what} {} {}", when(pinned.at), pinned.pin);
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
