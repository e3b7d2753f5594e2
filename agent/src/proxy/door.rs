//! What all sessions share: the gates, the running servers, and the tools that may be seen.

mod offers;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

pub use self::offers::Announced;
use self::offers::Offers;
use super::envelope::Limits;
use super::hub::Hub;
use super::json::Json;
use crate::admission::{Admission, AdmissionError, Tool};
use crate::config::ProxyConfig;
use crate::daemon::App;
use crate::identity::delegation::Capabilities;
use crate::identity::{Agent, Registry, SessionIdentity};
use crate::policy::Gates;
use crate::search::SearchIndex;

pub struct Door {
    pub config: ProxyConfig,
    pub gates: Arc<Gates>,
    pub registry: Arc<Registry>,
    pub admission: Arc<Admission>,
    pub index: Arc<SearchIndex>,
    pub hub: Arc<Hub>,
    /// Calls whose end is not on record yet, those of sessions that have ended among them.
    pub unfinished: TaskTracker,
    shelf: RwLock<Option<(u64, Arc<Shelf>)>>,
    patience: RwLock<Duration>,
}

/// How long a call waits for a human before a client that hears no progress is told to come again.
const PATIENCE: Duration = Duration::from_secs(20);

/// The approved tools as of one change of admission, by server and name.
#[derive(Default)]
pub struct Shelf {
    tools: BTreeMap<(String, String), (Tool, Json)>,
    offers: Offers,
}

impl Shelf {
    pub fn get(&self, server: &str, tool: &str) -> Option<&Json> {
        self.tools.get(&(server.to_owned(), tool.to_owned())).map(|(_, descriptor)| descriptor)
    }

    pub fn has(&self, server: &str, tool: &str) -> bool {
        self.get(server, tool).is_some()
    }

    /// Server, tool and descriptor, in a stable order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Json)> {
        self.tools.iter().map(|((server, tool), (_, descriptor))| (server.as_str(), tool.as_str(), descriptor))
    }

    /// Server, tool and the digest that was approved, in a stable order.
    pub fn digests(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.tools
            .iter()
            .map(|((server, tool), (approved, _))| (server.as_str(), tool.as_str(), approved.digest.as_str()))
    }

    pub fn len(&self) -> usize {
        self.tools.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }
}

/// What one agent may see of the shelf: what it is registered for. Nothing, where nobody is known to look.
#[derive(Default, Clone)]
pub struct Sight {
    shelf: Arc<Shelf>,
    agent: Option<Agent>,
    /// Those that it acts for, and what they have granted it.
    above: Vec<Agent>,
    granted: Option<Capabilities>,
}

impl Sight {
    fn shows(&self, server: &str, tool: &str) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.may_call(server, tool))
            && self.above.iter().all(|above| above.may_call(server, tool))
            && self.granted.as_ref().is_none_or(|granted| granted.allows(server, tool))
    }

    pub fn get(&self, server: &str, tool: &str) -> Option<&Json> {
        self.shelf.get(server, tool).filter(|_| self.shows(server, tool))
    }

    pub fn has(&self, server: &str, tool: &str) -> bool {
        self.get(server, tool).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Json)> {
        self.shelf.iter().filter(|(server, tool, _)| self.shows(server, tool))
    }

    /// Whether a client that listed the tools would see the same.
    fn same_as(&self, other: &Sight) -> bool {
        let digests = |sight: &Sight| {
            let shown = sight.shelf.tools.iter().filter(|((server, tool), _)| sight.shows(server, tool));
            shown.map(|(key, (tool, _))| (key.clone(), tool.digest.clone())).collect::<Vec<_>>()
        };
        digests(self) == digests(other)
    }
}

impl Door {
    pub fn of(app: &App) -> Arc<Self> {
        Self::new(
            app.config.proxy.clone(),
            app.gates.clone(),
            app.registry.clone(),
            app.admission.clone(),
            app.index.clone(),
            app.hub.clone(),
        )
    }

    pub fn new(
        config: ProxyConfig,
        gates: Arc<Gates>,
        registry: Arc<Registry>,
        admission: Arc<Admission>,
        index: Arc<SearchIndex>,
        hub: Arc<Hub>,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            gates,
            registry,
            admission,
            index,
            hub,
            unfinished: TaskTracker::new(),
            shelf: RwLock::new(None),
            patience: RwLock::new(PATIENCE),
        })
    }

    pub fn patience_for_asks(&self) -> Duration {
        *self.patience.read().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn patience(&self, patience: Duration) {
        *self.patience.write().unwrap() = patience;
    }

    pub fn limits(&self) -> Limits {
        Limits { max_message_bytes: self.config.max_message_bytes, max_depth: self.config.max_depth }
    }

    /// What may be seen now. Kept until admission changes anything; a call is judged anew anyway.
    pub fn shelf(&self) -> Result<Arc<Shelf>, AdmissionError> {
        // The count is read first: a change during the reading makes this copy an old one.
        let now = *self.admission.changes().borrow();
        let kept = self.shelf.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((count, shelf)) = kept
            && count == now
        {
            return Ok(shelf);
        }
        let mut shelf = Shelf { offers: Offers::of(&self.admission.list()?), ..Shelf::default() };
        for tool in self.admission.approved_tools()? {
            // The text comes from the store, where only what was parsed is put.
            match Json::parse(&tool.descriptor, usize::MAX) {
                Ok(descriptor) => {
                    drop(shelf.tools.insert((tool.server.clone(), tool.name.clone()), (tool, descriptor)))
                }
                Err(e) => {
                    tracing::error!(server = tool.server, tool = tool.name, "a stored descriptor cannot be read: {e}")
                }
            }
        }
        let shelf = Arc::new(shelf);
        *self.shelf.write().unwrap_or_else(PoisonError::into_inner) = Some((now, shelf.clone()));
        Ok(shelf)
    }

    /// What an agent may see now. An agent without standing sees nothing.
    pub fn sight(&self, identity: &SessionIdentity) -> Result<Sight, AdmissionError> {
        let agent = self.registry.standing_for(identity.address(), identity.did(), identity.uid());
        let agent = agent.and_then(|agent| self.registry.check_line(identity, &agent).map(|()| agent));
        let above = agent.and_then(|agent| self.registry.ancestors(identity).map(|above| (agent, above))).ok();
        let (agent, above) = above.map_or((None, Vec::new()), |(agent, above)| (Some(agent), above));
        Ok(Sight { shelf: self.shelf()?, agent, above, granted: identity.lineage().capabilities().cloned() })
    }

    /// Waits until a client that listed everything before would see something else now, and says which list it is.
    pub async fn sight_changed(
        &self,
        identity: &SessionIdentity,
        (admitted, agents): (&mut watch::Receiver<u64>, &mut watch::Receiver<u64>),
        seen: &mut Sight,
    ) -> Changed {
        loop {
            let changed = tokio::select! {
                changed = admitted.changed() => changed,
                changed = agents.changed() => changed,
            };
            if changed.is_err() {
                return std::future::pending().await;
            }
            match self.sight(identity) {
                Ok(now) => {
                    let changed = Changed {
                        tools: !now.same_as(seen),
                        prompts: !now.same_prompts(seen),
                        resources: !now.same_resources(seen),
                    };
                    *seen = now;
                    if changed != Changed::default() {
                        return changed;
                    }
                }
                Err(e) => tracing::error!("the approved tools cannot be read: {e}"),
            }
        }
    }
}

/// Lists that are others now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changed {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
}
