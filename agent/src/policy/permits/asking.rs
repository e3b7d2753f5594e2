//! Gate 5 where a human has a say: a call that waits, and its way back through the gates.

use std::time::Instant;

use tokio::sync::watch;

use super::{
    Denied, ForwardPermit, POLICY, Permitted, Registered, Routed, Unrevoked, Wish, same_as_approved, standing,
    still_vouched,
};
use crate::admission::Admission;
use crate::audit::AuditLog;
use crate::identity::{Asserted, Registry, SessionIdentity, Vouch};
use crate::policy::asks::{Answer, Asks, Binding, NotAsked, Question, Waiting};
use crate::policy::caller::Caller;
use crate::policy::engine::{Engine, Ruling};

/// A call that the policies permit once a human has approved it. It came through the gates before
/// and is forwarded by nobody: [`crate::policy::Gates::resume`] takes it through them again.
///
/// ```compile_fail,E0451
/// use lazaret::policy::{Asking, ForwardPermit};
///
/// fn forge(real: Asking, permit: ForwardPermit) -> Asking {
///     Asking { session: permit.session().clone(), ..real }
/// }
/// ```
///
/// The forwarder does not take it:
///
/// ```compile_fail,E0308
/// async fn around(upstream: &lazaret::proxy::upstream::Upstream, asking: &lazaret::policy::Asking) {
///     let _ = upstream.call_tool(asking, None).await;
/// }
/// ```
pub struct Asking {
    session: SessionIdentity,
    asserted: Option<Asserted>,
    /// What the agent's vouch was worth when the wait began.
    vouch: Vouch,
    server: crate::admission::Server,
    tool: crate::admission::Tool,
    wish: Wish,
    waiting: Waiting,
}

/// Gate 5's two ways on.
pub(in crate::policy) enum Ruled<'a> {
    Permitted(Permitted<'a>),
    Asking(Asking),
}

impl<'a> Unrevoked<'a> {
    /// Gate 5: permits, refuses, or makes the call wait. `handle` is that of a call that waits already.
    pub(in crate::policy) fn permit_or_ask(
        self,
        engine: &Engine,
        wish: Wish,
        asks: &std::sync::Arc<Asks>,
        handle: Option<&str>,
    ) -> Result<Ruled<'a>, Denied> {
        let routed = self.0;
        let (without, with) = match routed.rule(engine, &wish) {
            Ruling::Permit(grounds) => {
                return Ok(Ruled::Permitted(Permitted { routed, grounds, wish, approval: None }));
            }
            Ruling::Deny(refusal) => return Err(Denied::by_policy(refusal)),
            Ruling::Ask { without, with } => (without, with),
        };
        let binding = routed.binding(&wish);
        if let Some(approval) = asks.take(&binding) {
            return Ok(Ruled::Permitted(Permitted { routed, grounds: with, wish, approval: Some(approval) }));
        }
        let waiting = match handle {
            Some(handle) => asks.rejoin(handle, &binding),
            None => asks.open(Question {
                binding,
                arguments: &wish.arguments,
                state: wish.others.get("requestState").cloned(),
                reason: without.reason,
                policies: with.policies,
                uid: routed.registered.caller.session.uid(),
            }),
        };
        let waiting = waiting.map_err(|why| match why {
            NotAsked::TooMany(_) => Denied::new(
                POLICY,
                "this call needs a human's approval, and too many calls wait for one already",
                "wait until those are answered, or ask the operator to look at `lazaret ask list`",
            ),
            NotAsked::Foreign => Denied::new(
                POLICY,
                "the requestState is of another call, or of none that waits for approval any more: the daemon restarted, or it waited too long",
                "send the call again without requestState",
            ),
            NotAsked::Internal(cause) => Denied {
                cause: Some(cause),
                ..Denied::new(POLICY, "this call needs a human's approval and cannot wait for it", "try again later")
            },
        })?;
        let Routed { registered: Registered { caller, agent, .. }, server, tool } = routed;
        let (session, asserted, vouch) = (caller.session.clone(), caller.asserted, agent.vouch);
        Ok(Ruled::Asking(Asking { session, asserted, vouch, server, tool, wish, waiting }))
    }
}

impl Routed<'_> {
    fn binding(&self, wish: &Wish) -> Binding {
        Binding {
            agent: self.registered.agent.address.to_string(),
            did: self.registered.caller.session.did().to_owned(),
            server: self.server.name.clone(),
            tool: self.tool.name.clone(),
            tool_digest: self.tool.digest.clone(),
            arguments_digest: wish.digest.clone(),
        }
    }
}

impl Asking {
    /// What an operator knows it by.
    pub fn id(&self) -> &str {
        &self.waiting.id
    }

    /// Then the answer is no.
    pub fn deadline(&self) -> Instant {
        self.waiting.deadline
    }

    pub(in crate::policy) fn answer(&self) -> watch::Receiver<Option<Answer>> {
        self.waiting.answer.clone()
    }

    /// Leaves its place to the same call, sent again with this `requestState`.
    pub fn park(self) -> String {
        self.waiting.park()
    }

    pub(in crate::policy) fn described(&self) -> serde_json::Value {
        let mut described = self.wish.described.clone();
        described["ask"] = self.waiting.id.clone().into();
        described
    }

    pub(in crate::policy) fn session(&self) -> &SessionIdentity {
        &self.session
    }

    pub(in crate::policy) fn asserted(&self) -> Option<&Asserted> {
        self.asserted.as_ref()
    }

    pub(in crate::policy) fn caller(&self) -> Caller<'_> {
        Caller { session: &self.session, asserted: self.asserted.clone() }
    }

    pub(in crate::policy) fn target(&self) -> (&str, &str) {
        (&self.server.name, &self.tool.name)
    }

    /// The look of gates 4 and 5, at any time while it waits: nothing of it was revoked, and a human may still
    /// permit it.
    pub(in crate::policy) fn still_stands(
        &self,
        registry: &Registry,
        admission: &Admission,
        engine: &Engine,
    ) -> Result<(), Denied> {
        let agent = standing(super::REVOCATION, &self.session, registry)?;
        still_vouched(self.vouch, &agent)?;
        same_as_approved(admission, &self.server, &self.tool)?;
        let routed =
            Registered::check(self.caller(), registry)?.route(admission, &self.server.name, &self.tool.name)?;
        match routed.rule(engine, &self.wish) {
            Ruling::Deny(refusal) => Err(Denied::by_policy(refusal)),
            Ruling::Permit(_) | Ruling::Ask { .. } => Ok(()),
        }
    }

    /// Its end is on record: nothing more is said of it when it is dropped.
    pub(in crate::policy) fn settle(&self) {
        self.waiting.settle();
    }

    /// Gates 1, 2, 4, 5 and 6 once more, as things are now; the approval is used up by it.
    pub(in crate::policy) fn resume(
        self,
        registry: &Registry,
        admission: &Admission,
        engine: &Engine,
        asks: &Asks,
        audit: &AuditLog,
    ) -> Result<ForwardPermit, Denied> {
        let Self { session, asserted, server, tool, wish, waiting, .. } = self;
        waiting.settle();
        let caller = Caller { session: &session, asserted };
        let routed = Registered::check(caller, registry)?.route(admission, &server.name, &tool.name)?;
        same_as_approved(admission, &server, &tool)?;
        let grounds = routed.rule_approved(engine, &wish).map_err(Denied::by_policy)?;
        let approval = asks.take(&routed.binding(&wish)).ok_or_else(|| {
            Denied::new(
                POLICY,
                "the human's approval of this call was used by another call that equals it, or its time is over",
                "send the call again",
            )
        })?;
        drop(waiting);
        Permitted { routed, grounds, wish, approval: Some(approval) }.record(audit)
    }

    pub(in crate::policy) fn refused(&self, answer: Option<&Answer>) -> Denied {
        match answer {
            Some(Answer::Denied { by, why }) => Denied {
                cause: Some(format!("denied by {by}: {why}")),
                ..Denied::new(POLICY, "a human denied this call", "do not send it again; ask the operator why")
            },
            _ => Denied::new(
                POLICY,
                format!("no human approved this call in time (it waited as {})", self.waiting.id),
                "tell the operator of it, and send it again when somebody is there to answer",
            ),
        }
    }
}
