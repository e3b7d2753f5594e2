//! Whether a running server still is what was approved.

use crate::admission::{Admission, Server, pins};
use crate::proxy::json::Json;
use crate::proxy::upstream::{Upstream, UpstreamError};

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
    });
    if server.decided_pin.as_deref() == Some(now.as_str()) {
        return Ok(None);
    }
    let mut what = changed_tools(&tools, admission, server);
    if upstream.instructions() != review.instructions.as_deref() {
        what.push("instructions changed".into());
    }
    if what.is_empty() {
        what.push("prompts, resource templates or the launch definition changed".into());
    }
    Ok(Some(what.join(", ")))
}

fn changed_tools(now: &[Json], admission: &Admission, server: &Server) -> Vec<String> {
    let Ok(known) = admission.tools(&server.name) else {
        return vec!["its tools cannot be read from the state".into()];
    };
    let name_of = |tool: &Json| tool.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
    let mut what = Vec::new();
    for tool in now {
        let name = name_of(tool);
        match known.iter().find(|known| known.name == name) {
            None => what.push(format!("tool {name:?} is new")),
            Some(known) if known.digest != pins::tool_digest(tool) => what.push(format!("tool {name:?} changed")),
            Some(_) => {}
        }
    }
    let gone = known.iter().filter(|known| !now.iter().any(|tool| name_of(tool) == known.name));
    what.extend(gone.map(|tool| format!("tool {:?} is gone", tool.name)));
    what
}
