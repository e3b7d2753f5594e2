//! The wait for a human, and the way back through the gates.

use std::time::{Duration, Instant};

use super::Gates;
use crate::policy::asks::Answer;
use crate::policy::caller::Caller;
use crate::policy::permits::{Asking, Denied, ForwardPermit};

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// [`Gates::resume`] says whether it goes on.
    Answered,
    /// The caller's patience is over, not the human's time.
    NotYet,
}

impl Gates {
    /// Waits until somebody answers, the time is over, or what the call stands on is revoked; that
    /// ends it at once. `told` hears every few seconds how long it may still take. Dropping the
    /// future gives the place up. A denial is on record when this returns.
    pub async fn wait(
        &self,
        asking: &Asking,
        patience: Option<Duration>,
        every: Duration,
        mut told: impl FnMut(Duration),
    ) -> Result<Waited, Denied> {
        let mut answer = asking.answer();
        let (mut agents, mut tools) = (self.registry.changes(), self.admission.changes());
        let mut policies = self.engine.changes();
        let enough = patience.map(|patience| Instant::now() + patience);
        let mut next = Instant::now();
        loop {
            // Asked after subscribing, so that no change falls in between.
            if let Err(denied) = asking.still_stands(&self.registry, &self.admission, &self.engine) {
                self.write_asked_denial(asking, &denied);
                return Err(denied);
            }
            let said = answer.borrow_and_update().clone();
            match said {
                Some(Answer::Approved) => return Ok(Waited::Answered),
                Some(said) => return Err(self.refuse(asking, Some(&said))),
                None => {}
            }
            let now = Instant::now();
            if now >= asking.deadline() {
                return Err(self.refuse(asking, None));
            }
            if enough.is_some_and(|enough| now >= enough) {
                return Ok(Waited::NotYet);
            }
            if now >= next {
                told(asking.deadline() - now);
                next = now + every;
            }
            let until = asking.deadline().min(next).min(enough.unwrap_or(next));
            let closed = tokio::select! {
                changed = answer.changed() => changed.is_err(),
                changed = agents.changed() => changed.is_err(),
                changed = tools.changed() => changed.is_err(),
                changed = policies.changed() => changed.is_err(),
                () = tokio::time::sleep_until(until.into()) => false,
            };
            if closed {
                return Err(self.refuse(asking, None));
            }
        }
    }

    /// Takes a call that a human approved through the gates again, as everything is now.
    pub fn resume(&self, asking: Asking) -> Result<ForwardPermit, Denied> {
        let (session, asserted, described) = (asking.session().clone(), asking.asserted().cloned(), asking.described());
        let (server, tool) = asking.target();
        let target = (server.to_owned(), tool.to_owned());
        asking.resume(&self.registry, &self.admission, &self.engine, &self.asks, &self.audit).inspect_err(|denied| {
            let caller = Caller { session: &session, asserted };
            self.write_denial(&caller, (&target.0, &target.1), None, described, denied);
        })
    }

    pub(super) fn refuse(&self, asking: &Asking, answer: Option<&Answer>) -> Denied {
        let denied = asking.refused(answer);
        self.write_asked_denial(asking, &denied);
        denied
    }

    fn write_asked_denial(&self, asking: &Asking, denied: &Denied) {
        asking.settle();
        self.write_denial(&asking.caller(), asking.target(), None, asking.described(), denied);
    }
}
