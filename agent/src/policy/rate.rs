//! How many calls may be made: by an agent and each that it acts for, to a server, to a tool.
//!
//! Invariant: a call takes one from every limit that concerns it, or from none. What was used outlives the
//! daemon: it is written down within a second, and at once after so many calls as [`Limit::batch`] says, so that
//! a daemon that is killed gives back fewer calls than that per limit (16 at most). The clock may
//! be set while it runs: only the boot clock counts then.

mod bucket;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use bucket::Span;
use bucket::{Kept, Limit, Now, Used};

use crate::config::{RateConfig, RateLimit};
use crate::identity::{CallLimits, Lineage, Registry};
use crate::kernel::boot_clock;
use crate::store::{Record, Store, StoreError};

/// Limits that are kept in memory. Only enrolled agents and what the configuration names have one; beyond
/// that many, those that nothing was used of lately are forgotten.
const MOST: usize = 4096;

/// What a limit is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Whose {
    /// By address; the calls of its sub-agents count too.
    Agent(String),
    Server(String),
    /// `server:tool`.
    Tool(String),
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent(name) => write!(f, "agent {name}"),
            Self::Server(name) => write!(f, "server {name}"),
            Self::Tool(name) => write!(f, "tool {name}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    whose: Whose,
    used: Kept,
}

impl Record for Row {
    const TABLE: &'static str = "rate";
    fn key(&self) -> String {
        self.whose.to_string()
    }
}

/// A call that would go beyond a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverLimit {
    pub whose: Whose,
    pub span: Span,
    pub wait: Duration,
    /// The limit in words.
    pub limit: String,
}

/// What was used of one limit, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateUse {
    #[serde(flatten)]
    pub whose: Whose,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_minute: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Calls that may be made at once now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_day: Option<u64>,
    /// Calls of this day (UTC).
    pub today: u64,
}

pub(super) struct RateLimiter {
    config: RateConfig,
    store: Arc<Store>,
    used: Mutex<BTreeMap<Whose, Used>>,
    /// Held over a snapshot and its writing, so that a later one is never overwritten.
    writing: Mutex<()>,
    clock: Clock,
    registered: Registered,
}

type Clock = Box<dyn Fn() -> Now + Send + Sync>;
/// What an agent's own registration allows, by address.
type Registered = Box<dyn Fn(&str) -> CallLimits + Send + Sync>;

impl RateLimiter {
    /// Takes up what an earlier daemon wrote down.
    pub(super) fn open(config: &RateConfig, registry: &Arc<Registry>) -> Result<Self, StoreError> {
        let (unix, boot) = (Timestamp::now().as_second(), boot_clock());
        let clock = move || {
            let now = boot_clock();
            Now { boot: now, unix: unix + (now - boot) / 1_000_000_000 }
        };
        let agents = registry.clone();
        let registered = move |address: &str| {
            let agent = address.parse().ok().and_then(|address| agents.get(&address).ok().flatten());
            agent.map(|agent| agent.limits).unwrap_or_default()
        };
        Self::with_clock(config, registry.store().clone(), Box::new(clock), Box::new(registered))
    }

    fn with_clock(
        config: &RateConfig,
        store: Arc<Store>,
        clock: Clock,
        registered: Registered,
    ) -> Result<Self, StoreError> {
        let (now, config) = (clock(), config.clone());
        let limiter = Self { config, store, used: Mutex::default(), writing: Mutex::default(), clock, registered };
        for row in limiter.store.list::<Row>()? {
            let used = limiter.limit(&row.whose).map(|limit| Used::resume(&row.used, &limit, now));
            match used.filter(|used| !used.is_idle(now)) {
                Some(used) => drop(limiter.table().insert(row.whose, used)),
                None => drop(limiter.store.delete::<Row>(&row.key())?),
            }
        }
        Ok(limiter)
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Whose, Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn words(&self, whose: &Whose) -> Option<RateLimit> {
        match whose {
            Whose::Agent(address) => {
                let own = self.config.agent.get(address).copied().unwrap_or_default();
                let registered = (self.registered)(address);
                let calls_per_minute = own.calls_per_minute.unwrap_or(self.config.calls_per_minute);
                let calls_per_day = own.calls_per_day.or(self.config.calls_per_day);
                let less = registered.calls_per_minute.filter(|less| *less < calls_per_minute);
                let burst = own.burst.unwrap_or(self.config.burst);
                Some(RateLimit {
                    calls_per_minute: Some(less.unwrap_or(calls_per_minute).max(1)),
                    // Who may make fewer calls in a minute may not make more than those at once.
                    burst: Some(less.map_or(burst, |less| burst.min(less)).max(1)),
                    calls_per_day: registered.calls_per_day.into_iter().chain(calls_per_day).min(),
                })
            }
            Whose::Server(name) => self.config.server.get(name).copied(),
            Whose::Tool(name) => self.config.tool.get(name).copied(),
        }
    }

    fn limit(&self, whose: &Whose) -> Option<Limit> {
        self.words(whose).map(|words| Limit::new(words.calls_per_minute, words.burst, words.calls_per_day))
    }

    /// Every limit that a call concerns: those of its agent and of all that this one acts for, of the
    /// server and of the tool.
    fn of_call(&self, lineage: &Lineage, server: &str, tool: &str) -> Vec<(Whose, Limit)> {
        let agents = lineage.hops.iter().map(|hop| Whose::Agent(hop.address.to_string()));
        let targets = [Whose::Server(server.to_owned()), Whose::Tool(format!("{server}:{tool}"))];
        agents.chain(targets).filter_map(|whose| self.limit(&whose).map(|limit| (whose, limit))).collect()
    }

    /// Takes one call off each of them, or off none and says for which to wait longest.
    pub(super) fn take(&self, lineage: &Lineage, server: &str, tool: &str) -> Result<(), OverLimit> {
        let limits = self.of_call(lineage, server, tool);
        let now = (self.clock)();
        let mut table = self.table();
        let used = |table: &BTreeMap<Whose, Used>, whose| table.get(whose).copied().unwrap_or_default();
        let longest = limits
            .iter()
            .filter_map(|(whose, limit)| {
                let (wait, span) = used(&table, whose).wait(limit, now)?;
                Some((wait, span, whose))
            })
            .max_by_key(|(wait, ..)| *wait);
        if let Some((wait, span, whose)) = longest {
            return Err(OverLimit { whose: whose.clone(), span, wait, limit: self.in_words(whose, span) });
        }
        if table.len() >= MOST {
            table.retain(|_, used| !used.is_idle(now) || used.unwritten > 0);
        }
        let mut due = false;
        for (whose, limit) in limits {
            let used = table.entry(whose).or_default();
            used.take(&limit, now);
            due |= used.unwritten >= limit.batch();
        }
        drop(table);
        if due && let Err(e) = self.write() {
            // The call's own record comes next, and is not permitted where it cannot be written.
            tracing::error!("what was used of the rate limits cannot be written down: {e}");
        }
        Ok(())
    }

    fn in_words(&self, whose: &Whose, span: Span) -> String {
        let words = self.words(whose).unwrap_or_default();
        match span {
            Span::Day => format!("{} calls a day", words.calls_per_day.unwrap_or_default()),
            Span::Minute => {
                let per_minute = words.calls_per_minute.unwrap_or_default();
                format!("{per_minute} calls a minute, {} at once", words.burst.unwrap_or(per_minute))
            }
        }
    }

    /// Writes down what is not yet; nothing where there is nothing.
    pub(super) fn write(&self) -> Result<(), StoreError> {
        let _order = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.clock)();
        let unwritten: Vec<(Row, u64)> = {
            let table = self.table();
            let new = table.iter().filter(|(_, used)| used.unwritten > 0);
            new.map(|(whose, used)| (Row { whose: whose.clone(), used: used.keep(now) }, used.unwritten)).collect()
        };
        if unwritten.is_empty() {
            return Ok(());
        }
        let (rows, counts): (Vec<Row>, Vec<u64>) = unwritten.into_iter().unzip();
        self.store.put_soon(&rows)?;
        let mut table = self.table();
        for (row, count) in rows.iter().zip(counts) {
            // Those that came meanwhile are the next writer's.
            if let Some(used) = table.get_mut(&row.whose) {
                used.unwritten -= count;
            }
        }
        Ok(())
    }

    /// Of every limit that something was used of lately, and that the configuration names.
    pub(super) fn uses(&self) -> Vec<RateUse> {
        let now = (self.clock)();
        let mut all = self.table().clone();
        let named = self.config.server.keys().cloned().map(Whose::Server);
        for whose in named.chain(self.config.tool.keys().cloned().map(Whose::Tool)) {
            all.entry(whose).or_default();
        }
        let shown = |(whose, used): (Whose, Used)| {
            let (words, limit) = (self.words(&whose)?, self.limit(&whose)?);
            Some(RateUse {
                calls_per_minute: words.calls_per_minute,
                burst: limit.pace.map(|(_, burst)| burst),
                left: used.left(&limit, now),
                calls_per_day: words.calls_per_day,
                today: used.on(now.day()),
                whose,
            })
        };
        all.into_iter().filter_map(shown).collect()
    }
}

impl Drop for RateLimiter {
    fn drop(&mut self) {
        if let Err(e) = self.write() {
            tracing::error!("what was used of the rate limits cannot be written down: {e}");
        }
    }
}

#[cfg(test)]
mod tests;
