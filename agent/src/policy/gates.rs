//! The way of a call through the gates, and the record of where it ended.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

mod waiting;

pub use self::waiting::Waited;
use super::asks::{AskError, Asks};
use super::caller::{self, Caller};
use super::permits::{Asking, Denied, ForwardPermit, Registered, Ruled, Wish};
use super::rate::{RateLimiter, RateUse};
use super::{Description, Engine, Explanation, Facts, PolicyError, derive};
use crate::admission::{Admission, pins};
use crate::audit::{AuditError, AuditLog, Entry, Flood, Kind, Outcome};
use crate::config::{AskConfig, RateConfig};
use crate::identity::hooks::HookNotes;
use crate::identity::{Address, Agent, AgentState, Evidence, Registry, SessionIdentity};
use crate::proxy::json::Json;
use crate::store::StoreError;

/// Denials of one agent that are written down in a minute: in ordinary life each of them. Beyond,
/// where an agent that is denied tries again at once, they are only counted, and the agent's next
/// record says how many went before it unwritten; they are denied all the same.
const MOST_DENIALS: u32 = 1200;

pub struct Gates {
    registry: Arc<Registry>,
    admission: Arc<Admission>,
    rate: RateLimiter,
    engine: Engine,
    audit: Arc<AuditLog>,
    denials: Flood<Address>,
    hooks: HookNotes,
    asks: Arc<Asks>,
}

/// What came of a call at the gates.
#[expect(clippy::large_enum_variant, reason = "one for each call, taken apart where it is made")]
pub enum Admitted {
    Forward(ForwardPermit),
    /// It waits for a human.
    Ask(Asking),
}

impl Gates {
    /// Loads the policies of `policy_dir`.
    pub fn new(
        registry: Arc<Registry>,
        admission: Arc<Admission>,
        audit: Arc<AuditLog>,
        rate: &RateConfig,
        policy_dir: &Path,
    ) -> Result<Self, PolicyError> {
        let engine = Engine::load(policy_dir)?;
        let rate = RateLimiter::open(rate, &registry).map_err(PolicyError::Rate)?;
        let asks = Asks::new(AskConfig::default(), audit.clone(), registry.store().clone());
        let (denials, hooks) = (Flood::new(MOST_DENIALS), HookNotes::default());
        let gates = Self { registry, admission, rate, engine, audit, denials, hooks, asks };
        // What does not fit a tool fences that tool, and does not keep the daemon from its other work.
        for fenced in gates.policies().fenced {
            tracing::error!(tool = fenced.tool, "every call of this tool is denied: {}", fenced.error);
        }
        Ok(gates)
    }

    pub fn with_asks(mut self, config: AskConfig) -> Self {
        self.asks = Asks::new(config, self.audit.clone(), self.registry.store().clone());
        self
    }

    /// What the policies would say of a call; nothing is counted, recorded or forwarded. The error
    /// says why it would not come as far as the policies.
    pub fn explain(
        &self,
        agent: Agent,
        server: &str,
        tool: &str,
        arguments: &Json,
        uid: u32,
    ) -> Result<Explanation, String> {
        let no = |gate: &str, cause: String| {
            format!("the call would be denied before the policies are asked, at the gate {gate}: {cause}")
        };
        if agent.state != AgentState::Active {
            return Err(no("registration", format!("the agent {} is {}", agent.address, agent.state)));
        }
        if !agent.may_call(server, tool) {
            return Err(no("routing", "the agent's registered actions do not name it".to_owned()));
        }
        let (server, tool) =
            super::permits::routable(&self.admission, server, tool).map_err(|cause| no("routing", cause))?;
        let facts = Facts {
            agent: &agent,
            server: &server,
            tool: &tool,
            arguments,
            derived: &derive::derive(arguments),
            arguments_digest: &pins::arguments_digest(arguments),
            transport: "unix",
            uid,
            depth: 1,
            evidence: Evidence::Proven,
            human: agent.owner.as_deref(),
        };
        Ok(self.engine.explain(&facts))
    }

    pub fn asks(&self) -> &Arc<Asks> {
        &self.asks
    }

    /// Ends the approvals of agents, keys and tools that have lost their standing: it does not come back to life with
    /// them.
    pub fn forget_approvals(&self) -> Result<(), AskError> {
        self.asks.forget(|binding| {
            let agent = binding.agent.parse::<Address>().ok();
            let active = agent.is_some_and(|agent| self.registry.standing(&agent, &binding.did).is_ok());
            let tool = super::permits::routable(&self.admission, &binding.server, &binding.tool);
            active && tool.is_ok_and(|(_, tool)| tool.digest == binding.tool_digest)
        })
    }

    /// What is in force, and where it does not fit the tools that are approved now.
    pub fn policies(&self) -> Description {
        match self.admission.approved_tools() {
            Ok(tools) => self.engine.describe_with(&tools),
            Err(e) => {
                tracing::error!("the policies cannot be held against the approved tools: {e}");
                self.engine.describe()
            }
        }
    }

    /// Reads the policies again: all of them are valid, recorded and in force, or nothing changed.
    pub fn reload(&self) -> Result<(), PolicyError> {
        let entry = |outcome, reason| Entry::new(Kind::Admin, outcome, "daemon").reason(reason);
        let tools = match self.admission.approved_tools() {
            Ok(tools) => tools,
            Err(e) => return Err(PolicyError::Tools(e.to_string())),
        };
        let reloaded = self.engine.reload(&tools, |description| {
            let entry = entry(Outcome::Ok, "policies reloaded").detail(json!(description));
            self.audit.record(entry).map(drop).map_err(PolicyError::from)
        });
        if let Err(e) = &reloaded {
            let entry = entry(Outcome::Error, "policies not reloaded").detail(json!({ "error": e.to_string() }));
            if let Err(e) = self.audit.record(entry) {
                // The caller has the first error to tell, and nothing changed.
                tracing::error!("a failed reload could not be recorded: {e}");
            }
        }
        reloaded.map(drop)
    }

    /// What clients' hooks said of their sub-agents.
    pub fn hooks(&self) -> &HookNotes {
        &self.hooks
    }

    /// What was used of each rate limit.
    pub fn rates(&self) -> Vec<RateUse> {
        self.rate.uses()
    }

    /// Writes down what was used of the rate limits and is not on disk yet.
    pub fn keep_rates(&self) -> Result<(), StoreError> {
        self.rate.write()
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Judges one call. A permit means that its intent is on record; it holds the arguments that were
    /// judged, and whoever has it forwards them and then calls [`Gates::finish`]. A denial is on
    /// record when this returns; of a flood of them, the rest is counted in the next record.
    /// `others` are the other members of the call's `params`: they are forwarded as they are.
    pub fn admit(
        &self,
        session: &SessionIdentity,
        server: &str,
        tool: &str,
        arguments: Json,
        others: Json,
    ) -> Result<ForwardPermit, Denied> {
        match self.admit_or_ask(session, (server, tool), arguments, others, None)? {
            Admitted::Forward(permit) => Ok(permit),
            // Whoever asks this way cannot wait.
            Admitted::Ask(asking) => Err(self.refuse(&asking, None)),
        }
    }

    /// Judges one call, which may come to wait for a human. `handle` is that of a call that waits
    /// already, and is sent again.
    pub fn admit_or_ask(
        &self,
        session: &SessionIdentity,
        (server, tool): (&str, &str),
        arguments: Json,
        others: Json,
        handle: Option<&str>,
    ) -> Result<Admitted, Denied> {
        let caller = Caller { session, asserted: caller::asserted(&others, session, &self.hooks) };
        let wish = Wish::new(arguments, others);
        let described = wish.described().clone();
        self.walk(caller.clone(), (server, tool), wish, handle)
            .inspect_err(|denied| self.write_denial(&caller, (server, tool), None, described, denied))
    }

    /// Whether the permit would be given now: asked where time passed since it was, right before
    /// it is used. A denial is on record when this returns; the call is still to be finished.
    pub fn still_permitted(&self, permit: &ForwardPermit) -> Result<(), Denied> {
        permit.still_stands(&self.registry, &self.admission).inspect_err(|denied| {
            let target = (permit.server().name.as_str(), permit.tool().name.as_str());
            self.write_denial(&permit.caller(), target, Some(permit.call_id()), permit.described(), denied);
        })
    }

    fn walk(
        &self,
        caller: Caller<'_>,
        (server, tool): (&str, &str),
        wish: Wish,
        handle: Option<&str>,
    ) -> Result<Admitted, Denied> {
        let ruled = Registered::check(caller, &self.registry)?
            .route(&self.admission, server, tool)?
            .rate(&self.rate)?
            .unrevoked(&self.registry, &self.admission)?
            .permit_or_ask(&self.engine, wish, &self.asks, handle)?;
        match ruled {
            Ruled::Permitted(permitted) => permitted.record(&self.audit).map(Admitted::Forward),
            Ruled::Asking(asking) => Ok(Admitted::Ask(asking)),
        }
    }

    /// Records what became of a call: `ok`, `error`, or `unknown` where nobody saw its end.
    /// `detail` holds no argument and no result, only facts about them.
    pub fn finish(
        &self,
        permit: ForwardPermit,
        outcome: Outcome,
        reason: Option<String>,
        detail: Value,
    ) -> Result<u64, AuditError> {
        permit.finish(&self.audit, outcome, reason, detail)
    }

    fn write_denial(
        &self,
        caller: &Caller<'_>,
        target: (&str, &str),
        call: Option<&str>,
        arguments: Value,
        denied: &Denied,
    ) {
        if let Err(e) = self.record_denial(caller, target, call, arguments, denied) {
            // It stays denied: an unwritten denial permits nothing.
            tracing::error!(gate = denied.gate, agent = %caller.session.address(), "a denial could not be recorded: {e}");
        }
    }

    fn record_denial(
        &self,
        caller: &Caller<'_>,
        (server, tool): (&str, &str),
        call: Option<&str>,
        arguments: Value,
        denied: &Denied,
    ) -> Result<(), AuditError> {
        let session = caller.session;
        let Some(unwritten) = self.denials.admit(session.address().clone(), Instant::now()) else { return Ok(()) };
        // Who it is matters most where it is not let through; that the registry cannot be read does not.
        let agent = self.registry.get(session.address()).ok().flatten();
        let above =
            session.lineage().ancestors().iter().filter_map(|hop| self.registry.get(&hop.address).ok().flatten());
        let above: Vec<Agent> = above.collect();
        let mut detail = Value::Object(caller.described(agent.as_ref(), &above));
        detail["gate"] = json!(denied.gate);
        detail["told"] = json!(denied.reason);
        detail["arguments"] = arguments;
        if let Some(limit) = &denied.limit {
            detail["limit"] = json!(limit);
        }
        if let Some(policies) = &denied.policies {
            detail["policies"] = json!(policies);
        }
        if unwritten > 0 {
            detail["unwritten_before"] = json!(unwritten);
        }
        let agent = session.address().as_str();
        let mut entry = Entry::new(Kind::Denial, Outcome::Deny, agent)
            .agent(agent)
            .server(super::permits::shorten(server))
            .tool(super::permits::shorten(tool))
            .reason(denied.cause.as_ref().unwrap_or(&denied.reason))
            .detail(detail);
        entry.call_id = call.map(str::to_owned);
        self.audit.record(entry).map(drop)
    }
}

#[cfg(test)]
mod tests;
