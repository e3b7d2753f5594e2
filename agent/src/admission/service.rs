//! The state machine of servers and tools: `quarantined -> approved | denied -> quarantined`.
//!
//! Invariants: a server is active only while it is approved *and* the pin of its last review is
//! the one that was approved; whatever takes rights away is written before, and whatever gives
//! them after, everything else that belongs to the step; every step is in the entry's history and
//! in the audit log.

mod tools;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::former::FormerReview;
use super::model::{AdmissionState, LaunchDefinition, Review, Server, Tool, Transition};
use super::{AdmissionError, findings, pins};
use crate::audit::{AuditLog, Entry, Kind, Outcome};
use crate::proxy::json::Json;
use crate::store::{Record, Store};

/// A digest (of a server, of its content, of a launch definition or of a tool) that somebody
/// denied. It outlives the entry that it was denied under.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeniedPin {
    pub digest: String,
    pub server: String,
    pub tool: Option<String>,
    /// Whether a review stood behind it. A launch that was denied unseen stays denied whatever a
    /// later review finds; one that was denied for what it was may come back as something else.
    #[serde(default)]
    pub reviewed: bool,
    pub by: String,
    pub why: String,
    pub at: Timestamp,
}

impl Record for DeniedPin {
    const TABLE: &'static str = "denied_pins";
    fn key(&self) -> String {
        self.digest.clone()
    }
}

/// `[a-z0-9][a-z0-9._-]{0,63}` without `__`, which separates server and tool where both are shown as one name,
/// and without `_` at its end: `a_` + `__` + `b` would read as the tool `_b` of `a`.
pub fn valid_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|c| plain(c) || matches!(c, b'.' | b'_' | b'-'))
        && !name.contains("__")
        && !name.ends_with('_')
}

pub struct Admission {
    store: Arc<Store>,
    audit: Arc<AuditLog>,
    changes: watch::Sender<u64>,
    /// One step at a time: a step touches several records.
    step: Mutex<()>,
}

type Result<T> = std::result::Result<T, AdmissionError>;

impl Admission {
    pub fn new(store: Arc<Store>, audit: Arc<AuditLog>) -> Self {
        Self { store, audit, changes: watch::Sender::new(0), step: Mutex::new(()) }
    }

    /// Bumped on every change of a server or a tool.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn list(&self) -> Result<Vec<Server>> {
        Ok(self.store.list()?)
    }

    pub fn get(&self, name: &str) -> Result<Option<Server>> {
        Ok(self.store.get(name)?)
    }

    fn server(&self, name: &str) -> Result<Server> {
        self.get(name)?.ok_or_else(|| AdmissionError::NoServer(name.into()))
    }

    /// The first of `wish`, `wish-2`, `wish-3`, … that no entry has.
    pub fn free_name(&self, wish: &str) -> Result<String> {
        let mut name = wish.to_owned();
        let mut n = 1;
        while self.get(&name)?.is_some() {
            n += 1;
            name = format!("{}-{n}", &wish[..wish.floor_char_boundary(58)]);
        }
        Ok(name)
    }

    /// A new entry, in quarantine; denied at once where this very launch was denied before.
    pub fn add(&self, name: &str, launch: LaunchDefinition, origin: &str, by: &str) -> Result<Server> {
        let _step = self.lock();
        if !valid_name(name) {
            return Err(AdmissionError::Name(name.into()));
        }
        if self.get(name)?.is_some() {
            return Err(AdmissionError::Taken(name.into()));
        }
        let mut server = Server {
            name: name.into(),
            state: AdmissionState::Quarantined,
            launch,
            origin: origin.into(),
            review: None,
            decided_pin: None,
            history: Vec::new(),
        };
        let digest = pins::launch_digest(&server.launch);
        let denied = self.denied(&[&digest])?;
        step(&mut server, AdmissionState::Quarantined, by, &format!("added ({origin})"));
        if let Some(denied) = denied {
            let why = format!("this launch was denied as {} by {}: {}", denied.server, denied.by, denied.why);
            step(&mut server, AdmissionState::Denied, "lazaret", &why);
            server.decided_pin = Some(denied.digest);
        }
        self.commit_server(&server, by, &format!("added ({origin})"))?;
        Ok(server)
    }

    /// Takes the entry and its tools out. What was denied stays denied.
    pub fn remove(&self, name: &str, by: &str) -> Result<()> {
        let _step = self.lock();
        let server = self.server(name)?;
        self.store.delete::<Server>(name)?;
        self.store.delete::<FormerReview>(name)?;
        for tool in self.tools(name)? {
            self.store.delete::<Tool>(&tool.key())?;
        }
        self.audit(Entry::new(Kind::Admin, Outcome::Ok, by).server(&server.name).reason("removed"))?;
        self.changed();
        Ok(())
    }

    /// Writes down what a review found. The pin is computed here, from what is stored.
    /// A pin that differs from the decided one puts the server into quarantine, a pin or a
    /// tool that was denied before stays denied.
    pub fn record_review(&self, name: &str, mut review: Review, tools: Vec<Json>, by: &str) -> Result<Server> {
        let _step = self.lock();
        let mut server = self.server(name)?;
        let bad = |what: String| AdmissionError::BadListing { server: name.into(), what };
        let names = pins::tool_names(&tools).map_err(bad)?;
        let prompts = listed(&review.prompts).map_err(bad)?;
        let templates = listed(&review.resource_templates).map_err(bad)?;
        let reviewed = pins::Reviewed {
            launch: &server.launch,
            image_id: &review.image_id,
            argv: &review.argv,
            package: &review.package,
            lock: &review.lock,
            instructions: review.instructions.as_deref(),
            prompts: &prompts,
            resource_templates: &templates,
            tools: &tools,
            offers: review.offers.as_deref(),
        };
        let (pin, content) = (pins::server_pin(&reviewed), pins::content_digest(&reviewed));
        review.pin.clone_from(&pin);
        review.content.clone_from(&content);
        let known = self.store.list()?;
        let code = pins::code_digest(&review).unwrap_or_default();
        let denied_before = self.denied(&[&pins::package_digest(&server.launch), &code])?;
        let around = findings::Around { tools: &known, denied: denied_before.as_ref() };
        let listed: [(&str, &[Json]); 3] = [("tool", &tools), ("prompt", &prompts), ("template", &templates)];
        review.findings = findings::scan(&server, &review, &listed, &around);

        let unseen = self.denied(&[&pins::launch_digest(&server.launch)])?.filter(|denied| !denied.reviewed);
        let denied = self.denied(&[&pin, &content])?.or(unseen);
        let before = server.state;
        self.keep_decided(&server, &pin)?;
        if let Some(denied) = &denied {
            if before != AdmissionState::Denied {
                step(
                    &mut server,
                    AdmissionState::Denied,
                    "lazaret",
                    &format!("denied by {}: {}", denied.by, denied.why),
                );
            }
            server.decided_pin = Some(pin.clone());
        } else if server.decided_pin.as_deref() != Some(&pin) && before != AdmissionState::Quarantined {
            step(
                &mut server,
                AdmissionState::Quarantined,
                by,
                "the review found something other than what was decided on",
            );
        }
        // A state that takes rights away goes first; the review itself, which `approved_tools`
        // compares with, last.
        if server.state != before {
            self.store.put(&server)?;
            self.changed();
        }
        let fell = self.replace_tools(name, names, &tools, by)?;
        server.review = Some(review);
        let changed = server.state != before;
        let why =
            server.history.last().filter(|_| changed).map_or_else(|| "reviewed".to_owned(), |last| last.why.clone());
        self.commit(&server, by, &why, &fell)?;
        Ok(server)
    }

    /// Keeps the review that was decided on, before another takes its place.
    fn keep_decided(&self, server: &Server, new: &str) -> Result<()> {
        let Some(review) = server.review.as_ref().filter(|review| review.pin != new) else { return Ok(()) };
        if server.state == AdmissionState::Denied || server.decided_pin.as_deref() != Some(&review.pin) {
            return Ok(());
        }
        let tools = self.tools(&server.name)?.into_iter().map(|tool| tool.descriptor).collect();
        let (server, launch, review) = (server.name.clone(), server.launch.clone(), review.clone());
        Ok(self.store.put(&FormerReview { server, launch, review, tools })?)
    }

    /// The review that was approved before the newest one; `None` while the newest is the approved one.
    pub fn former(&self, name: &str) -> Result<Option<FormerReview>> {
        let server = self.server(name)?;
        let Some(review) = &server.review else { return Err(AdmissionError::NoFormer(name.into())) };
        if server.state != AdmissionState::Denied && server.decided_pin.as_deref() == Some(&review.pin) {
            return Ok(None);
        }
        self.store.get(name)?.map(Some).ok_or_else(|| AdmissionError::NoFormer(name.into()))
    }

    /// Approves exactly the pin of the last review, and every tool in it that is not denied and was
    /// not denied before it changed: that one is decided on by itself.
    /// `expected_pin` is what the person was shown; naming it also reverses a denial.
    pub fn approve(&self, name: &str, by: &str, expected_pin: Option<&str>) -> Result<Server> {
        self.approve_because(name, by, expected_pin, "approved")
    }

    /// The same, with the reason that the person gave.
    pub fn approve_because(&self, name: &str, by: &str, expected_pin: Option<&str>, why: &str) -> Result<Server> {
        let _step = self.lock();
        let mut server = self.server(name)?;
        let Some(review) = &server.review else { return Err(AdmissionError::NotReviewed(name.into())) };
        let pin = review.pin.clone();
        if let Some(expected) = expected_pin
            && expected != pin
        {
            return Err(AdmissionError::PinChanged { server: name.into(), expected: expected.into(), found: pin });
        }
        let launch = pins::launch_digest(&server.launch);
        let keys = [pin.as_str(), review.content.as_str(), launch.as_str()];
        if let Some(denied) = self.denied(&keys)? {
            if expected_pin.is_none() {
                return Err(AdmissionError::WasDenied { server: name.into(), pin, by: denied.by, why: denied.why });
            }
            for key in keys.into_iter().chain([pins::package_digest(&server.launch).as_str()]) {
                self.store.delete::<DeniedPin>(key)?;
            }
        }
        let mut tools = self.tools(name)?;
        for tool in
            tools.iter_mut().filter(|tool| tool.state == AdmissionState::Quarantined && tool.denied_before().is_none())
        {
            tool_step(tool, AdmissionState::Approved, by, "approved with its server");
        }
        self.store.put_all(&tools)?;
        server.decided_pin = Some(pin);
        step(&mut server, AdmissionState::Approved, by, why);
        self.commit_server(&server, by, why)?;
        Ok(server)
    }

    /// Denies the launch and, where there was a review, what it found: under this name and every
    /// other, those that are approved already among them.
    pub fn deny(&self, name: &str, by: &str, why: &str) -> Result<Server> {
        if why.trim().is_empty() {
            return Err(AdmissionError::NoReason(name.into()));
        }
        let _step = self.lock();
        let mut server = self.server(name)?;
        let launch = pins::launch_digest(&server.launch);
        let mut digests = vec![launch.clone()];
        if let Some(review) = &server.review {
            digests.extend([review.pin.clone(), review.content.clone()]);
        }
        let at = Timestamp::now();
        let reviewed = server.review.is_some();
        let record = |digest| DeniedPin {
            digest,
            server: name.into(),
            tool: None,
            reviewed,
            by: by.into(),
            why: why.into(),
            at,
        };
        server.decided_pin = Some(server.review.as_ref().map_or(launch, |review| review.pin.clone()));
        step(&mut server, AdmissionState::Denied, by, why);
        self.store.put(&server)?;
        // The package is not denied with it: another version, or fewer rights, may do. Whoever
        // reviews it is told.
        digests.push(pins::package_digest(&server.launch));
        digests.extend(server.review.as_ref().and_then(pins::code_digest));
        self.store.put_all(&digests.into_iter().map(record).collect::<Vec<_>>())?;
        self.commit_server(&server, by, why)?;
        for mut other in self.list()?.into_iter().filter(|other| other.state != AdmissionState::Denied) {
            let Some(denied) = self.denied_as_it_is(&other)? else { continue };
            let why = format!("it is what was denied as {} by {}: {}", denied.server, denied.by, denied.why);
            step(&mut other, AdmissionState::Denied, "lazaret", &why);
            other.decided_pin = Some(other.review.as_ref().map_or(denied.digest, |review| review.pin.clone()));
            self.commit_server(&other, "lazaret", &why)?;
        }
        Ok(server)
    }

    /// The denial that an entry falls under by its last review, or by its launch where it has none.
    fn denied_as_it_is(&self, server: &Server) -> Result<Option<DeniedPin>> {
        let launch = self.denied(&[&pins::launch_digest(&server.launch)])?;
        let Some(review) = &server.review else { return Ok(launch) };
        let found = self.denied(&[&review.pin, &review.content])?;
        Ok(found.or(launch.filter(|denied| !denied.reviewed)))
    }

    /// Back into quarantine. Calls stop at once; a denial is not weakened by it.
    pub fn quarantine(&self, name: &str, by: &str, why: &str) -> Result<Server> {
        let _step = self.lock();
        let mut server = self.server(name)?;
        if server.state == AdmissionState::Denied {
            return Err(AdmissionError::IsDenied { server: name.into() });
        }
        step(&mut server, AdmissionState::Quarantined, by, why);
        self.commit_server(&server, by, why)?;
        Ok(server)
    }

    fn denied(&self, digests: &[&str]) -> Result<Option<DeniedPin>> {
        for digest in digests {
            if let Some(denied) = self.store.get(digest)? {
                return Ok(Some(denied));
            }
        }
        Ok(None)
    }

    /// Writes the entry and its audit record: the record first where rights are given, so that no
    /// approval exists that the log does not know, and last where they are taken.
    fn commit_server(&self, server: &Server, by: &str, why: &str) -> Result<()> {
        self.commit(server, by, why, &[])
    }

    /// `tools` are those that lost a decision in this step, and why.
    fn commit(&self, server: &Server, by: &str, why: &str, tools: &[String]) -> Result<()> {
        let mut detail = serde_json::json!({
            "state": server.state,
            "pin": server.review.as_ref().map(|review| &review.pin),
            "image": server.review.as_ref().map(|review| &review.image_id),
        });
        if !tools.is_empty() {
            detail["tools"] = serde_json::json!(tools);
        }
        let entry = Entry::new(Kind::Review, outcome(server.state), by).server(&server.name).reason(why).detail(detail);
        if server.state == AdmissionState::Approved {
            self.audit(entry)?;
            self.store.put(server)?;
            self.changed();
            return Ok(());
        }
        self.store.put(server)?;
        self.changed();
        self.audit(entry)
    }

    fn audit(&self, entry: Entry) -> Result<()> {
        self.audit.record(entry)?;
        Ok(())
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// A step that panicked left whole records behind: each is one transaction.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outcome(state: AdmissionState) -> Outcome {
    match state {
        AdmissionState::Quarantined => Outcome::Held,
        AdmissionState::Approved => Outcome::Permit,
        AdmissionState::Denied => Outcome::Deny,
    }
}

fn step(server: &mut Server, to: AdmissionState, by: &str, why: &str) {
    server.state = to;
    server.history.push(Transition { at: Timestamp::now(), to, by: by.into(), why: why.into() });
}

fn tool_step(tool: &mut Tool, to: AdmissionState, by: &str, why: &str) {
    tool.state = to;
    tool.history.push(Transition { at: Timestamp::now(), to, by: by.into(), why: why.into() });
}

/// The array that a review stored as text; empty text is an empty list.
fn listed(text: &str) -> std::result::Result<Vec<Json>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    match Json::parse(text, 128) {
        Ok(Json::Array(items)) => Ok(items),
        Ok(_) => Err("its list of prompts or resource templates is no array".into()),
        Err(e) => Err(format!("its list of prompts or resource templates cannot be read: {e}")),
    }
}

#[cfg(test)]
mod tests;
