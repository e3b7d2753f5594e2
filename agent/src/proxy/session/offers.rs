//! Prompts, resources and their templates: the lists that an agent sees, and what becomes of a request for one.
//!
//! Prompts and templates are those of the approved reviews. Which resources there are only the servers know: they are
//! asked, each after it was found to be what was approved, and a list without one of them says so.

use futures_util::StreamExt as _;

use super::call::Call;
use super::listing::page;
use super::methods::Era;
use super::routing::{self, Found, Lost};
use crate::admission::Offer;
use crate::identity::SessionIdentity;
use crate::policy::Denied;
use crate::proxy::door::{Door, Sight};
use crate::proxy::envelope::{self, Reply, error_object};
use crate::proxy::forward::Failure;
use crate::proxy::hub::HubError;
use crate::proxy::json::Json;
use crate::proxy::versions;

/// Approvals change at any time.
const TTL_MS: u64 = 0;
/// Servers that are asked for their resources at the same time, for one list.
const AT_ONCE: usize = 4;

fn no_cursor(params: Option<&Json>) -> Result<(), Reply> {
    match params.and_then(|params| params.get("cursor")) {
        None => Ok(()),
        Some(_) => Err(Reply::error(envelope::INVALID_PARAMS, "this list has one page; leave `cursor` away")),
    }
}

fn sight(door: &Door, identity: &SessionIdentity) -> Result<Sight, Reply> {
    door.sight(identity).map_err(|e| {
        tracing::error!("what is approved cannot be read: {e}");
        let text = "what is approved cannot be read; ask the operator to look at `lazaret status`";
        Reply::error(envelope::INTERNAL_ERROR, text)
    })
}

/// Each prompt that the agent may see as its server describes it, only the name is another.
pub(super) fn prompts(door: &Door, identity: &SessionIdentity, params: Option<&Json>, era: Era) -> Reply {
    let listed = no_cursor(params).and_then(|()| sight(door, identity)).map(|sight| {
        let names = routing::shown(door.config.prefix, sight.prompts().map(|(server, name, _)| (server, name)));
        let renamed = |(name, (server, own)): (String, (&str, &str))| {
            let mut prompt = sight.prompt(server, own)?.clone();
            prompt.set("name", Json::string(name));
            Some(prompt)
        };
        let all = names.into_iter().filter_map(renamed).collect();
        Reply::Result(page(era, "prompts", all, TTL_MS))
    });
    listed.unwrap_or_else(|refused| refused)
}

pub(super) fn templates(door: &Door, identity: &SessionIdentity, params: Option<&Json>, era: Era) -> Reply {
    let listed = no_cursor(params).and_then(|()| sight(door, identity)).map(|sight| {
        let wraps = routing::wraps(door.config.prefix, &sight);
        let renamed = |(server, text, template): (&str, &str, &Json)| {
            let mut template = template.clone();
            if wraps {
                template.set("uriTemplate", Json::string(routing::wrap(server, text)));
            }
            template
        };
        Reply::Result(page(era, "resourceTemplates", sight.templates().map(renamed).collect(), TTL_MS))
    });
    listed.unwrap_or_else(|refused| refused)
}

impl Call {
    /// `resources/list`: what the servers have now.
    pub(super) async fn resources(&self, params: &Json) -> Reply {
        let sight = match no_cursor(Some(params)).and_then(|()| sight(&self.door, &self.identity)) {
            Ok(sight) => sight,
            Err(refused) => return refused,
        };
        let wraps = routing::wraps(self.door.config.prefix, &sight);
        let servers: Vec<String> = sight.with_resources().into_iter().map(str::to_owned).collect();
        let asked = servers.into_iter().map(|server| async {
            let listed = self.resources_of(&server).await;
            (server, listed)
        });
        let answers: Vec<_> = futures_util::stream::iter(asked).buffered(AT_ONCE).collect().await;
        let (mut all, mut unlisted) = (Vec::new(), Vec::new());
        for (server, listed) in answers {
            let listed = match listed {
                Ok(listed) => listed,
                Err(e) => {
                    tracing::warn!(agent = %self.identity.address(), server, "its resources are not listed: {e}");
                    unlisted.push(Json::string(server));
                    continue;
                }
            };
            for mut resource in listed {
                let Some(uri) = resource.get("uri").and_then(Json::as_str).map(str::to_owned) else { continue };
                if !sight.may_read(&server, &uri) {
                    continue;
                }
                if wraps {
                    resource.set("uri", Json::string(routing::wrap(&server, &uri)));
                }
                all.push(resource);
            }
        }
        let mut result = page(self.era, "resources", all, TTL_MS);
        if !unlisted.is_empty() {
            let mut meta = result.remove("_meta").unwrap_or_else(|| Json::object::<&str>([]));
            meta.set(versions::META_UNLISTED, Json::Array(unlisted));
            result.set("_meta", meta);
        }
        Reply::Result(result)
    }

    async fn resources_of(&self, server: &str) -> Result<Vec<Json>, HubError> {
        let gone = || HubError::NotApproved { server: server.into() };
        let entry = self.door.admission.get(server).ok().flatten().ok_or_else(gone)?;
        let upstream = self.door.hub.upstream_of(&entry, &self.identity).await?;
        let failed = |cause| HubError::Upstream { server: server.into(), cause };
        let listed = upstream.list_all("resources/list", "resources").await.map_err(failed)?;
        self.door.hub.may_answer(&entry, &self.identity, &upstream).await?;
        Ok(listed)
    }

    /// `prompts/get`.
    pub(super) async fn prompt(&self, mut params: Json) -> Reply {
        let name = params.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
        let arguments = params.remove("arguments");
        match self.find_prompt(&name) {
            Ok((server, own)) => self.used(server, Offer::Prompt(&own), params, arguments).await,
            Err(lost) => self.lost("prompt", &name, lost),
        }
    }

    /// `resources/read`.
    pub(super) async fn read(&self, mut params: Json) -> Reply {
        let uri = params.remove("uri").as_ref().and_then(Json::as_str).unwrap_or_default().to_owned();
        let found = sight(&self.door, &self.identity).map(|sight| routing::find_uri(&uri, &sight));
        match found {
            Ok(Ok((server, own))) => {
                let arguments = Json::object([("uri", Json::string(own.as_str()))]);
                let reply = self.used(server, Offer::Resource(&own), params, Some(arguments)).await;
                match (reply, self.era) {
                    (Reply::Result(mut result), Era::Stateless) => {
                        // What the older era does not say is demanded in the newer one.
                        for (key, value) in [("ttlMs", Json::number(TTL_MS)), ("cacheScope", Json::string("private"))] {
                            if result.get(key).is_none() {
                                result.set(key, value);
                            }
                        }
                        Reply::Result(result)
                    }
                    (reply, _) => reply,
                }
            }
            Ok(Err(lost)) => self.lost("resource", &uri, lost),
            Err(refused) => refused,
        }
    }

    /// `completion/complete`: for an argument of a prompt, or a variable of a template.
    pub(super) async fn complete(&self, mut params: Json) -> Reply {
        let reference = params.remove("ref").unwrap_or(Json::Null);
        let text = |key| reference.get(key).and_then(Json::as_str).unwrap_or_default();
        let mut arguments = Json::object::<&str>([]);
        for key in ["argument", "context"] {
            if let Some(value) = params.remove(key) {
                arguments.set(key, value);
            }
        }
        match text("type") {
            "ref/prompt" => match self.find_prompt(text("name")) {
                Ok((server, own)) => self.used(server, Offer::PromptCompletion(&own), params, Some(arguments)).await,
                Err(lost) => self.lost("prompt", text("name"), lost),
            },
            "ref/resource" => match sight(&self.door, &self.identity).map(|s| routing::find_uri(text("uri"), &s)) {
                Ok(Ok((server, own))) => {
                    self.used(server, Offer::ResourceCompletion(&own), params, Some(arguments)).await
                }
                Ok(Err(lost)) => self.lost("resource template", text("uri"), lost),
                Err(refused) => refused,
            },
            _ => Reply::error(envelope::INVALID_PARAMS, "`ref.type` must be ref/prompt or ref/resource"),
        }
    }

    fn find_prompt(&self, name: &str) -> Result<Found, Lost> {
        let sight = self.door.sight(&self.identity).map_err(|_| Lost::Unknown)?;
        routing::find(self.door.config.prefix, name, sight.prompts().map(|(server, name, _)| (server, name)))
    }

    async fn used(&self, server: String, offer: Offer<'_>, params: Json, arguments: Option<Json>) -> Reply {
        match self.attempt(server.clone(), offer.name(), params, arguments).await {
            Ok(reply) => reply,
            Err(failure) => self.failed(&failure, &server, offer),
        }
    }

    /// As an error: these requests have no result that says why there is none.
    fn failed(&self, failure: &Failure, server: &str, offer: Offer<'_>) -> Reply {
        let Some(text) = self.words(failure, server, &offer.name()) else {
            return self.lost(offer.noun(), offer.own_name(), Lost::Unknown);
        };
        let code = match failure {
            Failure::Denied(_) => envelope::DENIED,
            Failure::Revoked(_) | Failure::Withheld(_) => envelope::NO_LONGER_PERMITTED,
            Failure::Internal(_) | Failure::ComeAgain(_) => envelope::INTERNAL_ERROR,
            Failure::Hub(_) | Failure::Upstream(_) => envelope::UNAVAILABLE,
        };
        let data = match failure {
            Failure::Denied(denied) => Some(denied_data(denied)),
            _ => None,
        };
        Reply::Error(error_object(code, text, data))
    }

    /// The same whether there is no such thing or the agent may not know of it.
    fn lost(&self, noun: &str, name: &str, lost: Lost) -> Reply {
        let short = &name[..name.floor_char_boundary(256)];
        if let Lost::Ambiguous(names) = lost {
            let text = format!("{short:?} is of several servers; use one of {}", names.join(", "));
            return Reply::error(envelope::INVALID_PARAMS, text);
        }
        let text = format!("There is no {noun} {short:?}; list them again to see which there are");
        if noun != "resource" {
            return Reply::error(envelope::INVALID_PARAMS, text);
        }
        let code = if self.era == Era::Stateless { envelope::INVALID_PARAMS } else { envelope::NO_RESOURCE };
        Reply::Error(error_object(code, text, Some(Json::object([("uri", Json::string(name))]))))
    }
}

/// Which gate it was, and when to come again where waiting helps.
fn denied_data(denied: &Denied) -> Json {
    let mut data = Json::object([("gate", Json::string(denied.gate))]);
    if let Some(about) = super::call::retry(denied) {
        data.set(versions::META_RATE_LIMIT, about);
    }
    data
}
