//! What an agent may use of a server beside its tools: prompts, resources, and completions of their arguments.
//!
//! Invariant: everything that can be used has one name, and names of two kinds never meet: `prompt:NAME`,
//! `resource:URI`, `completion:prompt:NAME` and `completion:resource:TEMPLATE`; all others are tools, and a tool that
//! takes a name of another kind is not served. So registered actions, grants, rate limits, approvals and records name
//! all of them in one way.

use super::model::{AdmissionState, Server, Tool};
use super::{Admission, AdmissionError, pins};
use crate::proxy::json::Json;
use crate::proxy::mirrored;

pub const PROMPT: &str = "prompt:";
pub const RESOURCE: &str = "resource:";
pub const COMPLETION: &str = "completion:";

/// Read from, and written as, the one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer<'a> {
    Tool(&'a str),
    Prompt(&'a str),
    Resource(&'a str),
    /// Of the arguments of a prompt.
    PromptCompletion(&'a str),
    /// Of the variables of a resource template.
    ResourceCompletion(&'a str),
}

impl<'a> Offer<'a> {
    pub fn of(name: &'a str) -> Self {
        if let Some(name) = name.strip_prefix(PROMPT) {
            return Self::Prompt(name);
        }
        if let Some(uri) = name.strip_prefix(RESOURCE) {
            return Self::Resource(uri);
        }
        match name.strip_prefix(COMPLETION) {
            None => Self::Tool(name),
            Some(of) => match (of.strip_prefix(PROMPT), of.strip_prefix(RESOURCE)) {
                (Some(prompt), _) => Self::PromptCompletion(prompt),
                (_, Some(template)) => Self::ResourceCompletion(template),
                // No tool may have it either.
                (None, None) => Self::Prompt(""),
            },
        }
    }

    pub fn name(&self) -> String {
        match self {
            Self::Tool(name) => (*name).to_owned(),
            Self::Prompt(name) => format!("{PROMPT}{name}"),
            Self::Resource(uri) => format!("{RESOURCE}{uri}"),
            Self::PromptCompletion(name) => format!("{COMPLETION}{PROMPT}{name}"),
            Self::ResourceCompletion(template) => format!("{COMPLETION}{RESOURCE}{template}"),
        }
    }

    /// What the server itself calls it.
    pub fn own_name(&self) -> &'a str {
        match self {
            Self::Tool(name)
            | Self::Prompt(name)
            | Self::Resource(name)
            | Self::PromptCompletion(name)
            | Self::ResourceCompletion(name) => name,
        }
    }

    pub fn is_tool(&self) -> bool {
        matches!(self, Self::Tool(_))
    }

    /// For people.
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Tool(_) => "tool",
            Self::Prompt(_) | Self::PromptCompletion(_) => "prompt",
            Self::Resource(_) => "resource",
            Self::ResourceCompletion(_) => "resource template",
        }
    }

    /// The request that uses it.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Tool(_) => "tools/call",
            Self::Prompt(_) => "prompts/get",
            Self::Resource(_) => "resources/read",
            Self::PromptCompletion(_) | Self::ResourceCompletion(_) => "completion/complete",
        }
    }
}

/// Why a tool is not served, whatever was decided on it.
pub fn unfit(name: &str, descriptor: &str) -> Option<String> {
    if !Offer::of(name).is_tool() {
        return Some("its name is that of a prompt, a resource or a completion".into());
    }
    mirrored::fault_in(descriptor)
}

/// What a server has beside tools, of what its capabilities say.
pub fn kinds(capabilities: &Json) -> Vec<String> {
    let has = |kind: &&str| capabilities.get(kind).is_some_and(|of| of.as_object().is_some());
    ["completions", "logging", "prompts", "resources"].into_iter().filter(has).map(str::to_owned).collect()
}

/// The array that a review stored as text.
pub fn listed(text: &str) -> Vec<Json> {
    match Json::parse(text, usize::MAX) {
        Ok(Json::Array(items)) => items,
        _ => Vec::new(),
    }
}

impl Server {
    /// Whether its review found prompts, resources, completions or logging. One from before that was asked for has what it lists.
    pub fn has(&self, kind: &str) -> bool {
        let Some(review) = &self.review else { return false };
        match &review.offers {
            Some(offers) => offers.iter().any(|offer| offer == kind),
            None => match kind {
                "prompts" => !matches!(review.prompts.trim(), "" | "[]"),
                "resources" => !matches!(review.resource_templates.trim(), "" | "[]"),
                _ => false,
            },
        }
    }
}

impl Admission {
    /// What has this name at a server, in the shape of a tool; for all but tools, `state` is the server's, and the digest
    /// is that of the approved listing which it stands in.
    pub fn offered(&self, server: &Server, name: &str) -> Result<Option<Tool>, AdmissionError> {
        let offer = Offer::of(name);
        if offer.is_tool() {
            let tool = self.tool(&server.name, name)?;
            return Ok(tool.filter(|tool| unfit(&tool.name, &tool.descriptor).is_none()));
        }
        let Some(review) = &server.review else { return Ok(None) };
        let own = offer.own_name();
        let entry = |list: &str, key: &str| {
            listed(list).into_iter().find(|item| item.get(key).and_then(Json::as_str) == Some(own))
        };
        let descriptor = match offer {
            Offer::Tool(_) => None,
            Offer::Prompt(_) if server.has("prompts") => entry(&review.prompts, "name"),
            Offer::PromptCompletion(_) if server.has("completions") => entry(&review.prompts, "name"),
            // Which resources there are changes at any time: the server knows, and policies judge the URI.
            Offer::Resource(uri) if server.has("resources") && !uri.is_empty() => Some(Json::object::<&str>([])),
            Offer::ResourceCompletion(_) if server.has("completions") => {
                entry(&review.resource_templates, "uriTemplate")
            }
            _ => None,
        };
        Ok(descriptor.map(|descriptor| Tool {
            server: server.name.clone(),
            name: name.to_owned(),
            state: if server.is_active() { AdmissionState::Approved } else { AdmissionState::Quarantined },
            digest: pins::offer_digest(&review.pin, name, &descriptor),
            descriptor: descriptor.to_text(),
            history: Vec::new(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_has_names_of_its_own() {
        for (name, offer) in [
            ("read", Offer::Tool("read")),
            ("prompt:", Offer::Prompt("")),
            ("prompt:a:b", Offer::Prompt("a:b")),
            ("resource:file:///x", Offer::Resource("file:///x")),
            ("completion:prompt:a", Offer::PromptCompletion("a")),
            ("completion:resource:f/{x}", Offer::ResourceCompletion("f/{x}")),
            ("Prompt:a", Offer::Tool("Prompt:a")),
            ("prompts", Offer::Tool("prompts")),
        ] {
            assert_eq!(Offer::of(name), offer);
            assert_eq!(offer.name(), name);
        }
        assert!(!Offer::of("completion:x").is_tool());
    }

    #[test]
    fn a_tool_that_poses_as_something_else_is_not_served() {
        for name in ["prompt:greet", "resource:file:///x", "completion:prompt:greet", "completion:"] {
            assert!(unfit(name, "{}").is_some(), "{name}");
        }
        assert_eq!(unfit("greet", "{}"), None);
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(kind in 0..5usize, own in "\\PC{0,20}") {
            let offer = match kind {
                0 => Offer::Prompt(&own),
                1 => Offer::Resource(&own),
                2 => Offer::PromptCompletion(&own),
                3 => Offer::ResourceCompletion(&own),
                _ => Offer::of(&own),
            };
            let name = offer.name();
            // What is no name of any kind is that of no prompt.
            prop_assert!(Offer::of(&name) == offer || offer == Offer::Prompt(""));
        }
    }
}
