//! Whether an agent may act at this moment: asked when it connects, and twice for every call.

use jiff::Timestamp;

use super::{Agent, AgentState, Registry, RegistryError, Vouch};
use crate::identity::delegation::ChainError;
use crate::identity::{Address, Measurement};

/// Why an agent may not act, in words for an honest user.
#[derive(Debug, thiserror::Error)]
pub enum NotActive {
    /// Also what somebody gets who presents another key: whether the address exists is not told.
    #[error("agent {0} is not enrolled here with this key")]
    Unknown(Address),
    #[error("agent {address} is {state} since {}", .since.strftime("%Y-%m-%d %H:%M:%S UTC"))]
    State { address: Address, state: AgentState, since: Timestamp },
    #[error("agent {address} may only be used by uid {bound}, and this is uid {uid}")]
    OtherUser { address: Address, bound: u32, uid: u32 },
    #[error("agent {address} presents a key that was revoked on {}", .at.strftime("%Y-%m-%d %H:%M:%S UTC"))]
    RevokedKey { address: Address, at: Timestamp },
    #[error("{}", match .vouch {
        Vouch::Drifted => format!("agent {address} is not what was vouched for any more"),
        Vouch::None => format!("nobody vouched for agent {address}, and a vouch is required here"),
        vouch => format!("the vouch for agent {address} is {vouch}, and a valid one is required here"),
    })]
    Vouch { address: Address, vouch: Vouch },
    #[error("agent {address} is not what was vouched for any more ({what})")]
    Drifted { address: Address, what: String },
    #[error("agent {0} is a sub-agent and presents no delegation")]
    NoDelegation(Address),
    #[error("the delegation of agent {address} is refused: {source}")]
    Delegation { address: Address, source: ChainError },
    #[error("the delegation of agent {address} ended on {}", crate::identity::delegation::time(*.exp))]
    DelegationOver { address: Address, exp: i64 },
    #[error("the delegation {jti} of agent {address} was revoked on {}", .at.strftime("%Y-%m-%d %H:%M:%S UTC"))]
    DelegationRevoked { address: Address, jti: String, at: Timestamp },
    #[error("agent {address} acts for agent {place} of its delegation, whose key is not enrolled here")]
    UnknownParent { address: Address, place: usize },
    /// An agent that it acts for may not act itself.
    #[error("agent {address} acts for another agent that may not: {cause}")]
    Parent { address: Address, cause: Box<NotActive> },
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl NotActive {
    pub fn next_step(&self) -> String {
        match self {
            NotActive::Unknown(address) => {
                format!(
                    "ask the operator to run `lazaret agent enroll {address}`, or use the key file that was enrolled"
                )
            }
            NotActive::State { address, state: AgentState::Suspended, .. } => {
                format!("ask the operator to run `lazaret agent resume {address}`")
            }
            NotActive::State { address, state: AgentState::Pending, .. } => {
                format!("ask the operator to run `lazaret agent activate {address}`")
            }
            NotActive::Vouch { address, vouch: Vouch::Drifted } | NotActive::Drifted { address, .. } => {
                format!(
                    "ask the operator to look at `lazaret agent show {address}`, and to run `lazaret agent vouch {address}` if what changed is right"
                )
            }
            NotActive::Vouch { address, .. } => {
                format!("ask the operator to run `lazaret agent vouch {address}`")
            }
            NotActive::OtherUser { .. } => "enroll an agent of your own".into(),
            NotActive::State { address, .. } | NotActive::RevokedKey { address, .. } => {
                format!("ask the operator to run `lazaret agent enroll {address}` with a new key")
            }
            NotActive::NoDelegation(address) => {
                format!(
                    "let its parent run `lazaret agent delegate PARENT {address}`, and connect with --delegation FILE"
                )
            }
            NotActive::Delegation { source, .. } => source.next_step().into(),
            NotActive::DelegationOver { address, .. } | NotActive::DelegationRevoked { address, .. } => {
                format!("let its parent run `lazaret agent delegate PARENT {address}` again")
            }
            NotActive::UnknownParent { .. } => "ask the operator to enroll the agent that granted it".into(),
            NotActive::Parent { cause, .. } => cause.next_step(),
            NotActive::Registry(_) => "ask the operator to look at `lazaret status`".into(),
        }
    }
}

impl Registry {
    /// The agent of `address`, if it is active and `did` is its key. Reads the store: what was
    /// revoked a moment ago is revoked. Tells no state to who has not proven to hold `did`;
    /// callers ask only after that proof.
    pub fn standing(&self, address: &Address, did: &str) -> Result<Agent, NotActive> {
        self.standing_measured(address, did, None)
    }

    /// The same for a process that was measured so: the vouch in the answer is the one that it has.
    fn standing_measured(
        &self,
        address: &Address,
        did: &str,
        measured: Option<&Measurement>,
    ) -> Result<Agent, NotActive> {
        let stored: Option<Agent> = self.store.get(address.as_str()).map_err(RegistryError::from)?;
        let agent = stored.filter(|agent| agent.did == did).ok_or_else(|| NotActive::Unknown(address.clone()))?;
        if let Some(revocation) = self.revocation(&agent.public_key)? {
            return Err(NotActive::RevokedKey { address: address.clone(), at: revocation.revoked_at });
        }
        if let Some(since) = agent.not_after.filter(|_| agent.is_overdue(Timestamp::now())) {
            return Err(NotActive::State { address: address.clone(), state: AgentState::Expired, since });
        }
        match agent.state {
            AgentState::Active => Ok(self.judged(agent, measured)),
            state => {
                let since =
                    agent.history.iter().rev().find(|step| step.to == state).map_or(agent.created_at, |step| step.at);
                Err(NotActive::State { address: address.clone(), state, since })
            }
        }
    }

    /// The same for a process of `uid`: an agent may be bound to one user of this host, and that
    /// binding may change while a session is open.
    pub fn standing_for(&self, address: &Address, did: &str, uid: u32) -> Result<Agent, NotActive> {
        self.standing_as(address, did, uid, None)
    }

    /// The same for a process that was measured so. Without a measurement, a vouch for one has drifted.
    pub fn standing_as(
        &self,
        address: &Address,
        did: &str,
        uid: u32,
        measured: Option<&Measurement>,
    ) -> Result<Agent, NotActive> {
        let agent = self.standing_measured(address, did, measured)?;
        match agent.uid {
            Some(bound) if bound != uid => Err(NotActive::OtherUser { address: address.clone(), bound, uid }),
            _ => Ok(agent),
        }
    }
}
