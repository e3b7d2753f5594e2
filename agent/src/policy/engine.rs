//! Cedar: who may call which tool with which arguments.
//!
//! Invariant: whatever cannot be evaluated is a denial. Cedar itself skips a policy that errs, a
//! `forbid` too; here one error denies the call.

mod entities;
mod explain;
mod slices;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use cedar_policy::{Authorizer, Context, Decision, Entities, EntityId, EntityTypeName, EntityUid, Policy, Request};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::explain::{Explanation, Near};
use self::slices::Slices;
use super::derive::{Derived, TooMuch};
use super::input::InputType;
use super::load::{self, PolicyError};
use crate::admission::{Offer, Server, Tool};
use crate::identity::{Agent, Evidence};
use crate::proxy::json::Json;

/// All that a policy can ask about a call.
pub struct Facts<'a> {
    pub agent: &'a Agent,
    pub server: &'a Server,
    pub tool: &'a Tool,
    pub arguments: &'a Json,
    pub derived: &'a Result<Derived, TooMuch>,
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

/// What the policies say of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    Permit(Grounds),
    /// Denied as it is; the policies permit it once a human has approved it.
    Ask {
        without: Refusal,
        with: Grounds,
    },
    Deny(Refusal),
}

impl Ruling {
    /// The stricter of this and what they say of `above`, which the caller acts for.
    #[must_use]
    pub fn and(self, above: &Agent, theirs: Self) -> Self {
        let of = |refusal: Refusal| {
            let reason = format!("{} may not do this itself: {}", above.address, refusal.reason);
            Refusal { reason, ..refusal }
        };
        match (self, theirs) {
            (Self::Deny(own), _) => Self::Deny(own),
            (_, Self::Deny(theirs)) => Self::Deny(of(theirs)),
            (Self::Permit(with), Self::Ask { without, .. }) => Self::Ask { without: of(without), with },
            (own, _) => own,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicySource {
    Builtin,
    Files,
}

/// What is in force, for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub source: PolicySource,
    pub dir: PathBuf,
    /// Number of policies.
    pub count: usize,
    pub files: Vec<PathBuf>,
    /// Why the files as they are now are not in force; what was before is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// Approved tools that nobody can call: their policies do not fit their arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fenced: Vec<Fenced>,
    /// Tools that policies speak of by argument, and that are not approved: those policies wait unchecked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asleep: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub at: Timestamp,
    pub error: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fenced {
    /// `server:tool`.
    pub tool: String,
    pub error: String,
}

pub struct Engine {
    dir: PathBuf,
    rules: RwLock<Arc<Rules>>,
    refused: RwLock<Option<Refused>>,
}

struct Rules {
    slices: Slices,
    types: Types,
    authorizer: Authorizer,
    description: Description,
}

struct Types {
    agent: EntityTypeName,
    server: EntityTypeName,
    tool: EntityTypeName,
    prompt: EntityTypeName,
    resource: EntityTypeName,
    action: EntityTypeName,
}

impl Types {
    /// The action and the kind of thing that it is done with.
    fn of(&self, offer: Offer<'_>) -> (&'static str, &EntityTypeName) {
        match offer {
            Offer::Tool(_) => ("call", &self.tool),
            Offer::Prompt(_) => ("get_prompt", &self.prompt),
            Offer::Resource(_) => ("read_resource", &self.resource),
            Offer::PromptCompletion(_) => ("complete", &self.prompt),
            Offer::ResourceCompletion(_) => ("complete", &self.resource),
        }
    }
}

/// What stands in the context besides what the call itself gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Approval {
    #[default]
    None,
    Human,
}

impl Approval {
    fn as_str(self) -> &'static str {
        match self {
            Approval::None => "none",
            Approval::Human => "human",
        }
    }
}

impl Engine {
    /// Reads the policies of `dir`; all of them are valid, or this fails. Arguments of tools are
    /// held against the tool at the call.
    pub fn load(dir: &Path) -> Result<Self, PolicyError> {
        Ok(Self { dir: dir.into(), rules: RwLock::new(Arc::new(Rules::load(dir)?)), refused: RwLock::default() })
    }

    /// Reads them again, and holds them against the approved tools. On an error, `confirm`'s too,
    /// the former ones stay in force.
    pub fn reload<E: From<PolicyError> + std::fmt::Display>(
        &self,
        approved: &[Tool],
        confirm: impl FnOnce(&Description) -> Result<(), E>,
    ) -> Result<Description, E> {
        let reloaded = Rules::load(&self.dir).and_then(|rules| rules.slices.check(approved).map(|()| rules));
        let reloaded = reloaded.map_err(E::from).and_then(|rules| {
            let description = rules.describe(approved);
            confirm(&description)?;
            *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
            Ok(description)
        });
        *self.refused.write().unwrap_or_else(PoisonError::into_inner) =
            reloaded.as_ref().err().map(|e| Refused { at: Timestamp::now(), error: e.to_string() });
        reloaded
    }

    /// Whether the policies fit the approved tools; the fault names file, line and column.
    pub fn check(&self, approved: &[Tool]) -> Result<(), PolicyError> {
        self.rules().slices.check(approved)
    }

    pub fn describe(&self) -> Description {
        self.describe_with(&[])
    }

    /// The same, held against the tools that are approved now.
    pub fn describe_with(&self, approved: &[Tool]) -> Description {
        let refused = self.refused.read().unwrap_or_else(PoisonError::into_inner).clone();
        Description { refused, ..self.rules().describe(approved) }
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the policies say of the call as it is.
    pub fn judge(&self, facts: &Facts<'_>) -> Result<Grounds, Refusal> {
        self.rules().judge(facts, Approval::None)
    }

    /// What they say of it when somebody has approved it.
    pub fn judge_approved(&self, facts: &Facts<'_>) -> Result<Grounds, Refusal> {
        self.rules().judge(facts, Approval::Human)
    }

    /// The same set of policies, asked both ways.
    pub fn rule(&self, facts: &Facts<'_>) -> Ruling {
        let rules = self.rules();
        match rules.judge(facts, Approval::None) {
            Ok(grounds) => Ruling::Permit(grounds),
            // What could not be evaluated is not for a human to wave through.
            Err(refusal) if refusal.cause.is_some() => Ruling::Deny(refusal),
            Err(without) => match rules.judge(facts, Approval::Human) {
                Ok(with) => Ruling::Ask { without, with },
                Err(_) => Ruling::Deny(without),
            },
        }
    }

    /// Which policies decide, which came near, and what would change it.
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        self.rules().explain(facts)
    }
}

/// A call in Cedar's terms; `at` are the entities that slices go by.
struct Question {
    request: Request,
    entities: Entities,
    at: [EntityUid; 3],
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

    /// The agent can do something about it.
    fn mistyped(cause: String) -> Self {
        Self {
            reason: cause.clone(),
            next_step: "give the arguments as the inputSchema of the tool has them".into(),
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
            prompt: name("Prompt")?,
            resource: name("Resource")?,
            action: name("Action")?,
        };
        let source = if loaded.files.is_empty() { PolicySource::Builtin } else { PolicySource::Files };
        let description = Description {
            source,
            dir: dir.into(),
            count: loaded.policies.len(),
            files: loaded.files,
            refused: None,
            fenced: Vec::new(),
            asleep: Vec::new(),
        };
        let slices = Slices::of(loaded.schema, loaded.policies).map_err(bug)?;
        Ok(Self { slices, types, authorizer: Authorizer::new(), description })
    }

    fn describe(&self, approved: &[Tool]) -> Description {
        let (fenced, asleep) = self.slices.misfits(approved);
        Description { fenced, asleep, ..self.description.clone() }
    }

    fn judge(&self, facts: &Facts<'_>, approval: Approval) -> Result<Grounds, Refusal> {
        let question = self.question(facts, approval)?;
        self.answer(&question)
    }

    fn uid(&self, kind: &EntityTypeName, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
    }

    fn question(&self, facts: &Facts<'_>, approval: Approval) -> Result<Question, Refusal> {
        let undecided = |e: String| Refusal::undecided(e);
        let derived = facts.derived.as_ref().map_err(|e| undecided(e.to_string()))?;
        let principal = self.uid(&self.types.agent, facts.agent.address.as_str());
        let server = self.uid(&self.types.server, &facts.server.name);
        let offer = Offer::of(&facts.tool.name);
        let (action, kind) = self.types.of(offer);
        // No server's name holds a colon: the id is unambiguous.
        let tool = self.uid(kind, &tool_id(&facts.server.name, offer.own_name()));
        let mut context = entities::context(facts, derived, approval.as_str());
        let typed = match offer {
            Offer::Tool(_) => self.slices.types_for(&tool, facts.tool).map_err(undecided)?,
            _ => None,
        };
        if let Some(typed) = &typed {
            let input = typed.input.values(facts.arguments).map_err(|e| Refusal::mistyped(e.to_string()))?;
            context.push(("input".to_owned(), input));
        }
        let schema = typed.as_ref().map_or(&self.slices.schema, |typed| &typed.schema);
        let entities = Entities::from_entities(
            [
                entities::entity(principal.clone(), entities::agent_attrs(facts.agent), []).map_err(undecided)?,
                entities::entity(server.clone(), entities::server_attrs(facts.server), []).map_err(undecided)?,
                entities::entity(tool.clone(), entities::tool_attrs(facts.tool), [server.clone()])
                    .map_err(undecided)?,
            ],
            // The functions above make what the schema asks for; tests hold them to it.
            cfg!(debug_assertions).then_some(schema),
        )
        .map_err(|e| undecided(e.to_string()))?;
        let context = Context::from_pairs(context).map_err(|e| undecided(e.to_string()))?;
        let request =
            Request::new(principal.clone(), self.uid(&self.types.action, action), tool.clone(), context, Some(schema))
                .map_err(|e| undecided(e.to_string()))?;
        Ok(Question { request, entities, at: [tool, server, principal] })
    }

    /// Cedar's own rule over the slices together: one forbid denies, else one permit permits.
    fn answer(&self, question: &Question) -> Result<Grounds, Refusal> {
        let (mut permits, mut forbids) = (Vec::new(), Vec::new());
        for slice in self.slices.sets(&question.at) {
            let response = self.authorizer.is_authorized(&question.request, slice, &question.entities);
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

pub(super) fn tool_id(server: &str, tool: &str) -> String {
    format!("{server}:{tool}")
}

fn name(policy: &Policy) -> String {
    policy.id().to_string()
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[cfg(test)]
mod tests;
