//! Cedar: who may call which tool with which arguments.
//!
//! Invariant: whatever cannot be evaluated is a denial. Cedar itself skips a policy that errs, a
//! `forbid` too; here one error denies the call.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicySet, Request,
    ResourceConstraint, RestrictedExpression as Value, Schema,
};
use serde::Serialize;

use super::derive::{self, Derived};
use super::load::{self, PolicyError};
use crate::admission::{Server, Source, Tool};
use crate::identity::{Agent, Evidence};
use crate::proxy::json::Json;

/// All that a policy can ask about a call.
pub struct Facts<'a> {
    pub agent: &'a Agent,
    pub server: &'a Server,
    pub tool: &'a Tool,
    pub arguments: &'a Json,
    pub arguments_digest: &'a str,
    pub transport: &'a str,
    pub uid: u32,
    /// Of the agent that calls: a human is 0, a top agent 1.
    pub depth: u32,
    /// The weakest of its chain.
    pub evidence: Evidence,
    /// For whom, in the end.
    pub human: Option<&'a str>,
}

/// The policies that permitted a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grounds {
    pub policies: Vec<String>,
}

/// Why a call is not permitted; `cause` is for the log alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub next_step: String,
    /// The policies that forbade it; empty where none permitted it.
    pub policies: Vec<String>,
    pub cause: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicySource {
    Builtin,
    Files,
}

/// What is in force, for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    pub source: PolicySource,
    pub dir: PathBuf,
    /// Number of policies.
    pub count: usize,
    pub files: Vec<PathBuf>,
}

pub struct Engine {
    dir: PathBuf,
    rules: RwLock<Arc<Rules>>,
}

/// Policies by the resource that their head names, so that a call meets only those that can match.
struct Rules {
    schema: Schema,
    types: Types,
    general: PolicySet,
    by_resource: HashMap<EntityUid, PolicySet>,
    description: Description,
}

struct Types {
    agent: EntityTypeName,
    server: EntityTypeName,
    tool: EntityTypeName,
    call: EntityUid,
}

impl Engine {
    /// Reads the policies of `dir`; all of them are valid, or this fails.
    pub fn load(dir: &Path) -> Result<Self, PolicyError> {
        Ok(Self { dir: dir.into(), rules: RwLock::new(Arc::new(Rules::load(dir)?)) })
    }

    /// Reads them again. On an error, `confirm`'s too, the former ones stay in force.
    pub fn reload<E: From<PolicyError>>(
        &self,
        confirm: impl FnOnce(&Description) -> Result<(), E>,
    ) -> Result<Description, E> {
        let rules = Arc::new(Rules::load(&self.dir)?);
        let description = rules.description.clone();
        confirm(&description)?;
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        Ok(description)
    }

    pub fn describe(&self) -> Description {
        self.rules().description.clone()
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn judge(&self, facts: &Facts<'_>) -> Result<Grounds, Refusal> {
        let rules = self.rules();
        match rules.ask(facts) {
            Ok(Question { request, entities, resources }) => rules.answer(&request, &entities, &resources),
            Err(cause) => Err(Refusal::undecided(cause)),
        }
    }
}

/// A call in Cedar's terms; `resources` are the tool and its server.
struct Question {
    request: Request,
    entities: Entities,
    resources: [EntityUid; 2],
}

impl Refusal {
    fn undecided(cause: String) -> Self {
        Self {
            reason: "the policies could not be evaluated for this call".into(),
            next_step: "ask the operator to look at `lazaret audit tail` and `lazaret policy check`".into(),
            policies: Vec::new(),
            cause: Some(cause),
        }
    }
}

impl Rules {
    fn load(dir: &Path) -> Result<Self, PolicyError> {
        let loaded = load::load(dir)?;
        let bug = |e: String| PolicyError::Schema(e);
        let name = |name: &str| name.parse::<EntityTypeName>().map_err(|e| bug(e.to_string()));
        let types = Types {
            agent: name("Agent")?,
            server: name("Server")?,
            tool: name("Tool")?,
            call: EntityUid::from_type_name_and_id(name("Action")?, EntityId::new("call")),
        };
        let source = if loaded.files.is_empty() { PolicySource::Builtin } else { PolicySource::Files };
        let description = Description { source, dir: dir.into(), count: loaded.policies.len(), files: loaded.files };
        let mut rules =
            Self { schema: loaded.schema, types, general: PolicySet::new(), by_resource: HashMap::new(), description };
        for policy in loaded.policies {
            let slice = match policy.resource_constraint() {
                ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
                    rules.by_resource.entry(uid).or_default()
                }
                ResourceConstraint::Any | ResourceConstraint::Is(_) => &mut rules.general,
            };
            slice.add(policy).map_err(|e| bug(e.to_string()))?;
        }
        Ok(rules)
    }

    fn ask(&self, facts: &Facts<'_>) -> Result<Question, String> {
        let derived = derive::derive(facts.arguments).map_err(|e| e.to_string())?;
        let uid = |kind: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id));
        let principal = uid(&self.types.agent, facts.agent.address.as_str());
        let server = uid(&self.types.server, &facts.server.name);
        // No server's name holds a colon: the id is unambiguous.
        let tool = uid(&self.types.tool, &format!("{}:{}", facts.server.name, facts.tool.name));
        let entities = Entities::from_entities(
            [
                entity(principal.clone(), agent_attrs(facts.agent), [])?,
                entity(server.clone(), server_attrs(facts.server), [])?,
                entity(tool.clone(), tool_attrs(facts.tool), [server.clone()])?,
            ],
            // The functions above make what the schema asks for; tests hold them to it.
            cfg!(debug_assertions).then_some(&self.schema),
        )
        .map_err(|e| e.to_string())?;
        let context = Context::from_pairs(context(facts, derived)).map_err(|e| e.to_string())?;
        let request = Request::new(principal, self.types.call.clone(), tool.clone(), context, Some(&self.schema))
            .map_err(|e| e.to_string())?;
        Ok(Question { request, entities, resources: [tool, server] })
    }

    /// Cedar's own rule over the slices together: one forbid denies, else one permit permits.
    fn answer(&self, request: &Request, entities: &Entities, resources: &[EntityUid; 2]) -> Result<Grounds, Refusal> {
        let authorizer = Authorizer::new();
        let (mut permits, mut forbids) = (Vec::new(), Vec::new());
        let slices = resources.iter().filter_map(|uid| self.by_resource.get(uid));
        for slice in slices.chain([&self.general]) {
            let response = authorizer.is_authorized(request, slice, entities);
            let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
            if !errors.is_empty() {
                return Err(Refusal::undecided(errors.join("; ")));
            }
            let grounds = response.diagnostics().reason().filter_map(|id| slice.policy(id));
            match response.decision() {
                Decision::Allow => permits.extend(grounds.map(name)),
                // Without grounds this slice says nothing: no policy in it applied.
                Decision::Deny => forbids.extend(grounds),
            }
        }
        if !forbids.is_empty() {
            let names = forbids.iter().copied().map(name).collect::<Vec<_>>();
            let said = forbids.iter().find_map(|policy| policy.annotation("reason")).map(|text| format!(": {text}"));
            return Err(Refusal {
                reason: format!("policy {} forbids this call{}", names.join(", "), said.unwrap_or_default()),
                next_step: "change the arguments, or ask the operator about that policy".into(),
                policies: sorted(names),
                cause: None,
            });
        }
        if permits.is_empty() {
            return Err(Refusal {
                reason: "no policy permits this call".into(),
                next_step: "change the arguments, or ask the operator for a policy that permits it".into(),
                policies: Vec::new(),
                cause: None,
            });
        }
        Ok(Grounds { policies: sorted(permits) })
    }
}

fn name(policy: &Policy) -> String {
    policy.id().to_string()
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn entity<const A: usize, const P: usize>(
    uid: EntityUid,
    attrs: [(&str, Option<String>); A],
    parents: [EntityUid; P],
) -> Result<Entity, String> {
    let attrs = attrs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), text(value?)))).collect();
    Entity::new(uid, attrs, parents.into_iter().collect()).map_err(|e| e.to_string())
}

fn agent_attrs(agent: &Agent) -> [(&'static str, Option<String>); 7] {
    [
        ("address", Some(agent.address.to_string())),
        ("name", Some(agent.address.name().into())),
        ("domain", Some(agent.address.domain().into())),
        ("did", Some(agent.did.clone())),
        ("owner", agent.owner.clone()),
        ("state", Some(agent.state.to_string())),
        ("vouch", Some(agent.vouch.to_string())),
    ]
}

fn server_attrs(server: &Server) -> [(&'static str, Option<String>); 3] {
    let (source, package) = match &server.launch.source {
        Source::Npm { package, .. } => ("npm", Some(package.clone())),
        Source::Pypi { package, .. } => ("pypi", Some(package.clone())),
        Source::Local { .. } => ("local", None),
        Source::Image { image, .. } => ("image", Some(image.clone())),
        Source::Remote(remote) => ("remote", Some(remote.url().to_string())),
    };
    [("name", Some(server.name.clone())), ("source", Some(source.into())), ("package", package)]
}

fn tool_attrs(tool: &Tool) -> [(&'static str, Option<String>); 4] {
    [
        ("name", Some(tool.name.clone())),
        ("server", Some(tool.server.clone())),
        ("digest", Some(tool.digest.clone())),
        ("state", Some(tool.state.to_string())),
    ]
}

fn context(facts: &Facts<'_>, derived: Derived) -> Vec<(String, Value)> {
    let names = facts.arguments.as_object().unwrap_or_default().iter().map(|(name, _)| name.value.clone());
    let mut pairs = vec![
        ("approval", text("none".into())),
        ("arguments", set(names)),
        ("arguments_digest", text(facts.arguments_digest.into())),
        ("depth", Value::new_long(facts.depth.into())),
        ("evidence", text(facts.evidence.to_string())),
        ("path_canon", set(derived.path_canon)),
        ("path_ancestors", set(derived.path_ancestors)),
        ("path_unresolved", Value::new_bool(derived.path_unresolved)),
        ("transport", text(facts.transport.into())),
        ("uid", Value::new_long(facts.uid.into())),
        ("url_host", set(derived.url_host)),
    ];
    pairs.extend(facts.human.map(|human| ("human", text(human.to_owned()))));
    pairs.extend(derived.path_common.map(|path| ("path_common", text(path))));
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn text(value: String) -> Value {
    Value::new_string(value)
}

fn set(values: impl IntoIterator<Item = String>) -> Value {
    Value::new_set(values.into_iter().map(text))
}

#[cfg(test)]
mod tests;
