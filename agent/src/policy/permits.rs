//! The permits, and the gates that make them. A gate is the only maker of its permit and takes
//! the one before it by value, so that the order is the compiler's business and a permit is used
//! once. Fields are private to this file; there is no other constructor.

mod asking;
#[cfg(test)]
mod order;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use self::asking::Asking;
pub(super) use self::asking::Ruled;
use super::asks::HumanApproval;
use super::caller::Caller;
use super::derive::{self, Derived, TooMuch};
use super::engine::{Engine, Facts, Grounds, Refusal, Ruling};
use super::rate::RateLimiter;
use crate::admission::{Admission, AdmissionError, AdmissionState, Offer, Server, Tool, pins};
use crate::audit::{AuditError, AuditLog, Entry, Kind, Outcome};
use crate::identity::{Agent, Asserted, NotActive, Registry, SessionIdentity, Vouch};
use crate::proxy::json::Json;

/// A refusal: what the agent is told, and what only the log is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {next_step}")]
pub struct Denied {
    /// `registration`, `routing`, `rate`, `revocation`, `policy` or `intent`.
    pub gate: &'static str,
    pub reason: String,
    pub next_step: String,
    /// When to come again, where waiting helps.
    pub retry_after: Option<Duration>,
    /// The rate limit that is used up.
    pub limit: Option<String>,
    /// The policies that forbade it.
    pub(super) policies: Option<Vec<String>>,
    /// The true cause, where the agent must not learn it.
    pub(super) cause: Option<String>,
    not_found: bool,
}

impl Denied {
    fn new(gate: &'static str, reason: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            gate,
            reason: reason.into(),
            next_step: next_step.into(),
            retry_after: None,
            limit: None,
            policies: None,
            cause: None,
            not_found: false,
        }
    }

    fn by_policy(refusal: Refusal) -> Self {
        let Refusal { reason, next_step, policies, cause } = refusal;
        Self { cause, policies: Some(policies), ..Self::new(POLICY, reason, next_step) }
    }

    /// Lazaret's own trouble: the agent learns that there is some, the log what it is.
    fn internal(gate: &'static str, error: &dyn std::error::Error) -> Self {
        tracing::error!(gate, "a call was denied because a gate failed: {error}");
        let denied =
            Self::new(gate, "Lazaret could not decide on this call", "ask the operator to look at `lazaret status`");
        Self { cause: Some(error.to_string()), ..denied }
    }

    /// The same for what does not exist and for what the agent may not know to exist.
    fn not_found(gate: &'static str, server: &str, tool: &str, cause: impl Into<String>) -> Self {
        let offer = Offer::of(tool);
        let (noun, name) = (offer.noun(), shorten(offer.own_name()));
        let reason = format!("{noun} {name:?} of server {:?} was not found", shorten(server));
        let next = match offer {
            Offer::Tool(_) => "use search_tools to see which tools there are".to_owned(),
            _ => format!("list the {noun}s again to see which there are"),
        };
        let denied = Self::new(gate, reason, next);
        Self { cause: Some(cause.into()), not_found: true, ..denied }
    }

    /// Whether it must look like a name that does not exist.
    pub fn is_not_found(&self) -> bool {
        self.not_found
    }
}

const REGISTRATION: &str = "registration";
const ROUTING: &str = "routing";
const RATE: &str = "rate";
const REVOCATION: &str = "revocation";
const POLICY: &str = "policy";
const INTENT: &str = "intent";

/// The caller is an agent that is active now.
pub(super) struct Registered<'a> {
    caller: Caller<'a>,
    agent: Agent,
    /// Those that it acts for, outermost first.
    above: Vec<Agent>,
}

/// Server and tool are approved, as they are now.
pub(super) struct Routed<'a> {
    registered: Registered<'a>,
    server: Server,
    tool: Tool,
}

/// The agent has a call left.
pub(super) struct Rated<'a>(Routed<'a>);

/// Nothing of it was revoked in the meantime.
pub(super) struct Unrevoked<'a>(Routed<'a>);

/// A policy permits the call with these arguments.
pub(super) struct Permitted<'a> {
    routed: Routed<'a>,
    grounds: Grounds,
    wish: Wish,
    approval: Option<HumanApproval>,
}

/// What an agent wants to be forwarded. It is judged, written down and forwarded as this one value.
pub(super) struct Wish {
    arguments: Json,
    others: Json,
    digest: String,
    derived: Result<Derived, TooMuch>,
    described: Value,
}

impl Wish {
    /// `others` are the members of `params` besides `name` and `arguments`.
    pub(super) fn new(arguments: Json, mut others: Json) -> Self {
        if others.as_object().is_none() {
            others = Json::object::<&str>([]);
        }
        let digest = pins::arguments_digest(&arguments);
        let derived = derive::derive(&arguments);
        let mut described = describe_arguments(&arguments, &digest);
        if let Ok(derived) = &derived {
            described["facts"] = derived.described();
        }
        let mut besides = others.clone();
        besides.remove("name");
        besides.remove("arguments");
        if besides.as_object().is_some_and(|members| !members.is_empty()) {
            described["other_params_digest"] = json!(pins::arguments_digest(&besides));
        }
        Self { arguments, others, digest, derived, described }
    }

    /// For the log: names and digests, never a value.
    pub(super) fn described(&self) -> &Value {
        &self.described
    }
}

/// Every gate let the call through and its intent is on disk: what the forwarder demands.
///
/// Nobody but the gates can make one:
///
/// ```compile_fail,E0451
/// use lazaret::policy::ForwardPermit;
///
/// fn forge(real: ForwardPermit) -> ForwardPermit {
///     ForwardPermit { call_id: "mine".into(), ..real }
/// }
/// ```
///
/// nor get hold of what one gate hands to the next (that those keep their order is in `order.rs`):
///
/// ```compile_fail,E0603
/// use lazaret::policy::permits::Permitted;
/// ```
///
/// nor use one twice, for it cannot be copied:
///
/// ```compile_fail,E0277
/// fn copied<T: Clone>() {}
/// copied::<lazaret::policy::ForwardPermit>();
/// ```
#[must_use = "a call whose intent is recorded must be forwarded and finished"]
pub struct ForwardPermit {
    call_id: String,
    session: SessionIdentity,
    asserted: Option<Asserted>,
    agent: Agent,
    server: Server,
    tool: Tool,
    wish: Wish,
    intent_seq: u64,
    since: Instant,
}

impl<'a> Registered<'a> {
    /// Gate 1: the agent of the session and those that it acts for, read anew.
    pub(super) fn check(caller: Caller<'a>, registry: &Registry) -> Result<Self, Denied> {
        let session = caller.session;
        session.genuine().map_err(|why| Denied::new(REGISTRATION, why.to_string(), why.next_step()))?;
        let agent = standing(REGISTRATION, session, registry)?;
        let above = registry.ancestors(session).map_err(|refusal| not_active(REGISTRATION, refusal))?;
        Ok(Self { caller, agent, above })
    }

    /// Gate 2: unknown, quarantined, denied and not delegated all look alike to the agent.
    pub(super) fn route(self, admission: &Admission, server: &str, tool: &str) -> Result<Routed<'a>, Denied> {
        // First, and like what does not exist: an agent learns nothing of what it was not registered for.
        if !self.agent.may_call(server, tool) {
            let cause = "the agent's registered actions do not name it";
            return Err(Denied::not_found(ROUTING, server, tool, cause));
        }
        if let Some(above) = self.above.iter().find(|above| !above.may_call(server, tool)) {
            let cause = format!("the registered actions of {}, which it acts for, do not name it", above.address);
            return Err(Denied::not_found(ROUTING, server, tool, cause));
        }
        let lineage = self.caller.session.lineage();
        if !lineage.allows(server, tool) {
            let granted = lineage.capabilities().map(ToString::to_string).unwrap_or_default();
            let cause = format!("hop {} of the delegation grants {granted}, not this tool", lineage.ancestors().len());
            return Err(Denied::not_found(ROUTING, server, tool, cause));
        }
        let (server, tool) = approved(ROUTING, admission, server, tool)?;
        Ok(Routed { registered: self, server, tool })
    }
}

impl<'a> Routed<'a> {
    /// Gate 3.
    pub(super) fn rate(self, limiter: &RateLimiter) -> Result<Rated<'a>, Denied> {
        let lineage = self.registered.caller.session.lineage();
        match limiter.take(lineage, &self.server.name, &self.tool.name) {
            Ok(()) => Ok(Rated(self)),
            Err(over) => {
                // Rounded up: who comes back at the time told is not told to wait again.
                let seconds = over.wait.as_millis().div_ceil(1000).max(1);
                let next_step = match u64::try_from(seconds).ok().filter(|seconds| *seconds >= 120) {
                    None => format!("come again in {seconds} s"),
                    // Nobody counts that many: a person reads a time.
                    Some(long) => {
                        let then = jiff::Timestamp::now().saturating_add(Duration::from_secs(long));
                        let then = then.map(|then| then.strftime(", at %Y-%m-%d %H:%M:%S UTC").to_string());
                        format!("come again in {seconds} s{}", then.unwrap_or_default())
                    }
                };
                let denied = Denied::new(RATE, format!("{} may take {}", over.whose, over.limit), next_step);
                Err(Denied { retry_after: Some(over.wait), limit: Some(over.whose.to_string()), ..denied })
            }
        }
    }
}

impl<'a> Rated<'a> {
    /// Gate 4: the second look. Agent, server, tool and pin are those that were routed to.
    pub(super) fn unrevoked(self, registry: &Registry, admission: &Admission) -> Result<Unrevoked<'a>, Denied> {
        let mut routed = self.0;
        let session = routed.registered.caller.session;
        routed.registered.agent = standing(REVOCATION, session, registry)?;
        routed.registered.above = registry.ancestors(session).map_err(|refusal| not_active(REVOCATION, refusal))?;
        same_as_approved(admission, &routed.server, &routed.tool)?;
        Ok(Unrevoked(routed))
    }
}

impl Routed<'_> {
    /// All that a policy can ask about this wish.
    fn facts<'f>(&'f self, wish: &'f Wish) -> Facts<'f> {
        let caller = &self.registered.caller;
        Facts {
            agent: &self.registered.agent,
            server: &self.server,
            tool: &self.tool,
            arguments: &wish.arguments,
            derived: &wish.derived,
            arguments_digest: &wish.digest,
            transport: caller.session.transport().as_str(),
            uid: caller.session.uid(),
            depth: caller.depth(),
            evidence: caller.evidence(Some(&self.registered.agent)),
            human: caller.human(),
        }
    }

    /// What the policies say. A sub-agent may no more than every agent that it acts for.
    fn rule(&self, engine: &Engine, wish: &Wish) -> Ruling {
        let facts = self.facts(wish);
        self.registered
            .above
            .iter()
            .fold(engine.rule(&facts), |ruling, above| ruling.and(above, engine.rule(&Facts { agent: above, ..facts })))
    }

    /// What they say once a human has approved it.
    fn rule_approved(&self, engine: &Engine, wish: &Wish) -> Result<Grounds, Refusal> {
        let facts = self.facts(wish);
        let grounds = engine.judge_approved(&facts)?;
        for above in &self.registered.above {
            engine.judge_approved(&Facts { agent: above, ..facts })?;
        }
        Ok(grounds)
    }
}

impl Permitted<'_> {
    /// Gate 6: what is not on record is not forwarded.
    pub(super) fn record(self, audit: &AuditLog) -> Result<ForwardPermit, Denied> {
        let Routed { registered: Registered { caller, agent, above }, server, tool } = self.routed;
        let mut id = [0u8; 16];
        getrandom::fill(&mut id).map_err(|e| Denied::internal(INTENT, &e))?;
        let call_id = hex::encode(id);
        let mut detail = Value::Object(caller.described(Some(&agent), &above));
        detail["tool_digest"] = json!(tool.digest);
        detail["image_id"] = json!(server.review.as_ref().map(|review| &review.image_id));
        detail["arguments"] = self.wish.described.clone();
        detail["policies"] = json!(self.grounds.policies);
        if let Some(signature) = caller.session.signature() {
            detail["signature"] = json!(signature);
        }
        if let Some(approval) = &self.approval {
            detail["approval"] = approval.described();
        }
        let entry = Entry::new(Kind::Call, Outcome::Permit, agent.address.as_str())
            .agent(agent.address.as_str())
            .server(&server.name)
            .tool(&tool.name)
            .call(&call_id)
            .detail(detail);
        let intent_seq = audit.record(entry).map_err(|e| Denied::internal(INTENT, &e))?;
        let (session, asserted, wish) = (caller.session.clone(), caller.asserted, self.wish);
        Ok(ForwardPermit { call_id, session, asserted, agent, server, tool, wish, intent_seq, since: Instant::now() })
    }
}

impl std::fmt::Debug for ForwardPermit {
    /// Without the arguments: they belong into no log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("ForwardPermit");
        shown.field("call_id", &self.call_id).field("server", &self.server.name).field("tool", &self.tool.name);
        shown.finish_non_exhaustive()
    }
}

impl ForwardPermit {
    pub fn call_id(&self) -> &str {
        &self.call_id
    }

    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    pub fn tool(&self) -> &Tool {
        &self.tool
    }

    /// Digest of the arguments that were judged: others are not covered.
    pub fn arguments_digest(&self) -> &str {
        &self.wish.digest
    }

    /// The request that is permitted.
    pub fn method(&self) -> &'static str {
        Offer::of(&self.tool.name).method()
    }

    /// Its `params`: what was judged, under the server's own name for it.
    pub fn params(&self) -> Json {
        let mut params = self.wish.others.clone();
        let arguments = self.wish.arguments.clone();
        let reference =
            |kind: &str, key: &str, name: &str| Json::object([("type", Json::string(kind)), (key, Json::string(name))]);
        match Offer::of(&self.tool.name) {
            Offer::Tool(name) => {
                params.set("name", Json::string(name));
                params.set("arguments", arguments);
            }
            Offer::Prompt(name) => {
                params.set("name", Json::string(name));
                // A prompt without arguments is asked for without them.
                if arguments.as_object().is_some_and(|members| !members.is_empty()) {
                    params.set("arguments", arguments);
                }
            }
            Offer::Resource(uri) => params.set("uri", Json::string(uri)),
            Offer::PromptCompletion(name) => {
                params.set("ref", reference("ref/prompt", "name", name));
                arguments.into_members().into_iter().for_each(|(key, value)| params.set(&key.value, value));
            }
            Offer::ResourceCompletion(template) => {
                params.set("ref", reference("ref/resource", "uri", template));
                arguments.into_members().into_iter().for_each(|(key, value)| params.set(&key.value, value));
            }
        }
        params
    }

    pub fn session(&self) -> &SessionIdentity {
        &self.session
    }

    pub(super) fn described(&self) -> Value {
        self.wish.described.clone()
    }

    pub(super) fn caller(&self) -> Caller<'_> {
        Caller { session: &self.session, asserted: self.asserted.clone() }
    }

    /// The look of gate 4 once more. A vouch that held when the call was permitted must hold still.
    pub(super) fn still_stands(&self, registry: &Registry, admission: &Admission) -> Result<(), Denied> {
        let agent = standing(REVOCATION, &self.session, registry)?;
        still_vouched(self.agent.vouch, &agent)?;
        same_as_approved(admission, &self.server, &self.tool)
    }

    /// Number of the audit record that holds the intent.
    pub fn intent_seq(&self) -> u64 {
        self.intent_seq
    }

    /// Ends the call: its result goes into the log, and the permit with it.
    pub(super) fn finish(
        self,
        audit: &AuditLog,
        outcome: Outcome,
        reason: Option<String>,
        mut detail: Value,
    ) -> Result<u64, AuditError> {
        if !detail.is_object() {
            detail = if detail.is_null() { json!({}) } else { json!({ "result": detail }) };
        }
        detail["intent_seq"] = json!(self.intent_seq);
        detail["duration_us"] = json!(u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX));
        let mut entry = Entry::new(Kind::Result, outcome, self.agent.address.as_str())
            .agent(self.agent.address.as_str())
            .server(self.server.name)
            .tool(self.tool.name)
            .call(self.call_id)
            .detail(detail);
        entry.reason = reason;
        audit.record(entry)
    }
}

/// Names and digest of arguments, for the log: never a value.
pub(super) fn describe_arguments(arguments: &Json, digest: &str) -> Value {
    const NAMES: usize = 64;
    let members = arguments.as_object().unwrap_or_default();
    let names: Vec<&str> = members.iter().take(NAMES).map(|(name, _)| shorten(&name.value)).collect();
    let mut described = json!({ "digest": digest, "names": names });
    if members.len() > NAMES {
        described["names_omitted"] = json!(members.len() - NAMES);
    }
    described
}

/// The first 128 bytes or a little less: names come from the peer.
pub(super) fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary(128)]
}

fn standing(gate: &'static str, session: &SessionIdentity, registry: &Registry) -> Result<Agent, Denied> {
    let agent = registry.standing_in(session).and_then(|agent| {
        registry.demand_no_drift(&agent, session)?;
        registry.demand_vouch(&agent)?;
        registry.check_line(session, &agent)?;
        Ok(agent)
    });
    agent.map_err(|refusal| not_active(gate, refusal))
}

/// A vouch that held must hold still.
fn still_vouched(before: Vouch, agent: &Agent) -> Result<(), Denied> {
    if before != Vouch::Valid || agent.vouch == Vouch::Valid {
        return Ok(());
    }
    let reason = format!("the vouch for {} is {} now", agent.address, agent.vouch);
    Err(Denied::new(REVOCATION, reason, "ask the operator to vouch for it again"))
}

fn not_active(gate: &'static str, refusal: NotActive) -> Denied {
    match refusal {
        NotActive::Registry(e) => Denied::internal(gate, &e),
        refusal => Denied::new(gate, refusal.to_string(), refusal.next_step()),
    }
}

fn approved(gate: &'static str, admission: &Admission, server: &str, tool: &str) -> Result<(Server, Tool), Denied> {
    let failed = |e: AdmissionError| Denied::internal(gate, &e);
    let not_found = |cause: String| Denied::not_found(gate, server, tool, cause);
    let found = admission.get(server).map_err(failed)?.ok_or_else(|| not_found("no such server".into()))?;
    if !found.is_active() {
        return Err(not_found(format!("the server is {}, or changed since it was approved", found.state)));
    }
    let offer = Offer::of(tool);
    let unknown = || not_found(format!("no such {}, or it is not fit to be served", offer.noun()));
    let wanted = admission.offered(&found, tool).map_err(failed)?.ok_or_else(unknown)?;
    if wanted.state != AdmissionState::Approved {
        return Err(not_found(format!("the {} is {}", offer.noun(), wanted.state)));
    }
    Ok((found, wanted))
}

/// Server and tool where they may be called; else the true cause, for operators.
pub(super) fn routable(admission: &Admission, server: &str, tool: &str) -> Result<(Server, Tool), String> {
    approved(ROUTING, admission, server, tool).map_err(|denied| denied.cause.unwrap_or(denied.reason))
}

/// Refuses unless server and tool are approved as they were when the call was routed to them.
fn same_as_approved(admission: &Admission, server: &Server, tool: &Tool) -> Result<(), Denied> {
    let (server_now, tool_now) = approved(REVOCATION, admission, &server.name, &tool.name)?;
    if tool_now.digest != tool.digest || server_now.decided_pin != server.decided_pin {
        let cause = "the pin changed after the call was routed";
        return Err(Denied::not_found(REVOCATION, &server.name, &tool.name, cause));
    }
    Ok(())
}
