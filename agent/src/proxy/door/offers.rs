//! What may be seen beside tools: the prompts and the resource templates of servers that are approved now, and which
//! of them have resources at all. As for tools, what an agent may not use is not there.

use std::collections::{BTreeMap, BTreeSet};

use super::Sight;
use crate::admission::offer::{self, RESOURCE, listed};
use crate::admission::{Offer, Server};
use crate::proxy::json::Json;

/// By server, as one change of admission left it.
#[derive(Default)]
pub(super) struct Offers {
    prompts: BTreeMap<(String, String), Json>,
    /// The templates of each server that has resources.
    resources: BTreeMap<String, Vec<(String, Json)>>,
    completes: BTreeSet<String>,
    logs: BTreeSet<String>,
}

impl Offers {
    pub(super) fn of(servers: &[Server]) -> Self {
        let mut offers = Self::default();
        for server in servers.iter().filter(|server| server.is_active()) {
            let Some(review) = &server.review else { continue };
            if server.has("prompts") {
                // Of two with one name nobody can say which is meant: the first is the one that is got.
                for (name, prompt) in named(&review.prompts, "name").into_iter().rev() {
                    offers.prompts.insert((server.name.clone(), name), prompt);
                }
            }
            if server.has("resources") {
                let templates = named(&review.resource_templates, "uriTemplate");
                offers.resources.insert(server.name.clone(), templates);
            }
            if server.has("completions") {
                offers.completes.insert(server.name.clone());
            }
            if server.has("logging") {
                offers.logs.insert(server.name.clone());
            }
        }
        offers
    }
}

fn named(list: &str, key: &str) -> Vec<(String, Json)> {
    let named = |item: Json| Some((item.get(key)?.as_str()?.to_owned(), item));
    listed(list).into_iter().filter_map(named).collect()
}

/// What the door says that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Announced {
    pub prompts: bool,
    pub resources: bool,
    pub completions: bool,
    pub logging: bool,
}

impl Sight {
    /// Whether something of a server whose name begins so may be used.
    fn reaches(&self, server: &str, beginning: &str) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.may_reach(server, beginning))
            && self.above.iter().all(|above| above.may_reach(server, beginning))
            && self.granted.as_ref().is_none_or(|granted| granted.reaches(server, beginning))
    }

    /// Server, name and descriptor, in a stable order.
    pub fn prompts(&self) -> impl Iterator<Item = (&str, &str, &Json)> {
        let all = self.shelf.offers.prompts.iter();
        all.filter(|((server, name), _)| self.shows(server, &Offer::Prompt(name).name()))
            .map(|((server, name), prompt)| (server.as_str(), name.as_str(), prompt))
    }

    pub fn prompt(&self, server: &str, name: &str) -> Option<&Json> {
        let prompt = self.shelf.offers.prompts.get(&(server.to_owned(), name.to_owned()));
        prompt.filter(|_| self.shows(server, &Offer::Prompt(name).name()))
    }

    /// Servers that have resources of which the agent may read some.
    pub fn with_resources(&self) -> Vec<&str> {
        let all = self.shelf.offers.resources.keys().map(String::as_str);
        all.filter(|server| self.reaches(server, RESOURCE)).collect()
    }

    /// Server, template and descriptor, in the order of the server.
    pub fn templates(&self) -> impl Iterator<Item = (&str, &str, &Json)> {
        let all = self.shelf.offers.resources.iter();
        all.flat_map(|(server, templates)| {
            templates.iter().map(move |(text, template)| (server.as_str(), text, template))
        })
        .filter(|(server, text, _)| self.shows(server, &Offer::Resource(text).name()))
        .map(|(server, text, template)| (server, text.as_str(), template))
    }

    pub fn may_read(&self, server: &str, uri: &str) -> bool {
        self.shelf.offers.resources.contains_key(server) && self.shows(server, &Offer::Resource(uri).name())
    }

    /// Announced is what the agent may use of at least one approved server.
    pub fn announced(&self) -> Announced {
        let any =
            |servers: &BTreeSet<String>, beginning: &str| servers.iter().any(|server| self.reaches(server, beginning));
        Announced {
            prompts: self.prompts().next().is_some(),
            resources: !self.with_resources().is_empty(),
            completions: any(&self.shelf.offers.completes, offer::COMPLETION),
            logging: any(&self.shelf.offers.logs, ""),
        }
    }

    pub(super) fn same_prompts(&self, other: &Sight) -> bool {
        self.prompts().eq(other.prompts())
    }

    pub(super) fn same_resources(&self, other: &Sight) -> bool {
        self.with_resources() == other.with_resources() && self.templates().eq(other.templates())
    }
}
