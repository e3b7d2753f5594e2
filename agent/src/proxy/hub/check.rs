//! Whether a running server still is what was approved.

use std::collections::BTreeSet;

use crate::admission::{Admission, Server, offer, pins};
use crate::proxy::json::Json;
use crate::proxy::upstream::{Upstream, UpstreamError};

/// Differences that are told one by one, and bytes of a name in them: both are the server's, and
/// both end up in its history and in the audit log.
const MOST: usize = 8;
const MAX_NAME: usize = 80;

/// `None` if the listing gives the approved pin, else what differs, for people.
pub(super) async fn compare(
    upstream: &Upstream,
    server: &Server,
    admission: &Admission,
) -> Result<Option<String>, UpstreamError> {
    let Some(review) = &server.review else { return Ok(Some("it was never reviewed".into())) };
    let tools = upstream.list_all("tools/list", "tools").await?;
    let prompts = upstream.list_all("prompts/list", "prompts").await?;
    let resource_templates = upstream.list_all("resources/templates/list", "resourceTemplates").await?;
    let offers = review.offers.as_ref().map(|_| offer::kinds(upstream.capabilities()));
    let now = pins::server_pin(&pins::Reviewed {
        launch: &server.launch,
        image_id: &review.image_id,
        argv: &review.argv,
        package: &review.package,
        lock: &review.lock,
        instructions: upstream.instructions(),
        prompts: &prompts,
        resource_templates: &resource_templates,
        tools: &tools,
        offers: offers.as_deref(),
    });
    if server.decided_pin.as_deref() == Some(now.as_str()) {
        return Ok(None);
    }
    let mut what = match admission.tools(&server.name) {
        Ok(known) => {
            let known = known.iter().map(|tool| Json::parse(&tool.descriptor, 128).unwrap_or(Json::Null)).collect();
            changes("tool", "name", known, tools)
        }
        Err(_) => vec!["its tools cannot be read from the state".into()],
    };
    if upstream.instructions() != review.instructions.as_deref() {
        what.push("its instructions changed".into());
    }
    what.extend(changes("prompt", "name", listed(&review.prompts), prompts));
    what.extend(changes("resource template", "uriTemplate", listed(&review.resource_templates), resource_templates));
    if offers != review.offers {
        what.push(format!("it offers {} now", offers.unwrap_or_default().join(", ")));
    }
    if what.is_empty() {
        what.push("its launch definition or its image is not the one that was approved".into());
    }
    let more = what.len().saturating_sub(MOST);
    what.truncate(MOST);
    let text = what.join(", ");
    Ok(Some(if more == 0 { text } else { format!("{text} and {more} more") }))
}

fn listed(text: &str) -> Vec<Json> {
    match Json::parse(text, 128) {
        Ok(Json::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// What is new, gone or changed, and in which members.
fn changes(kind: &str, key: &str, before: Vec<Json>, now: Vec<Json>) -> Vec<String> {
    let name = |item: &Json| item.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let shown = |item: &Json| {
        let name = name(item);
        format!("{kind} {:?}", &name[..name.floor_char_boundary(MAX_NAME)])
    };
    let mut what = Vec::new();
    for item in &now {
        match before.iter().find(|known| name(known) == name(item)) {
            None => what.push(format!("{} is new", shown(item))),
            Some(known) if known.canonical() != item.canonical() => {
                what.push(format!("{} changed its {}", shown(item), members(known, item)));
            }
            Some(_) => {}
        }
    }
    let gone = before.iter().filter(|known| !now.iter().any(|item| name(item) == name(known)));
    what.extend(gone.map(|item| format!("{} is gone", shown(item))));
    if what.is_empty() && before.len() != now.len() {
        what.push(format!("a {kind} is listed another number of times"));
    }
    what
}

/// The names of the members that differ.
fn members(before: &Json, now: &Json) -> String {
    let names = |item: &Json| -> Vec<String> {
        item.as_object().into_iter().flatten().map(|(key, _)| key.value.clone()).collect()
    };
    let all: BTreeSet<String> = names(before).into_iter().chain(names(now)).collect();
    let value = |item: &Json, name: &str| item.get(name).map(Json::canonical);
    let mut differ: Vec<String> = all.into_iter().filter(|name| value(before, name) != value(now, name)).collect();
    let more = differ.len().saturating_sub(MOST);
    differ.truncate(MOST);
    let word = |name: &String| name[..name.floor_char_boundary(MAX_NAME)].escape_debug().to_string();
    let text = differ.iter().map(word).collect::<Vec<_>>().join(" and ");
    if more == 0 { text } else { format!("{text} and {more} more members") }
}

#[cfg(test)]
mod tests;
