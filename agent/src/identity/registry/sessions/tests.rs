use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::audit::AuditLog;
use crate::identity::measure::{Surroundings, Witness};
use crate::identity::vouch::NAMESPACE;
use crate::identity::vouch::testing::{public_line, sign, signer};
use crate::identity::{Address, AgentKey, Part, PartKind, Peer, PeerProcess};
use crate::store::Store;

/// A part that a test changes.
#[derive(Default)]
struct Tools(AtomicU64);

impl Surroundings for Tools {
    fn parts(&self) -> Vec<Part> {
        let digest = format!("sha256:{}", self.0.load(Ordering::Relaxed));
        vec![Part { kind: PartKind::Tools, name: "tools".into(), digest }]
    }
}

struct House {
    _dir: tempfile::TempDir,
    registry: Registry,
    audit: Arc<AuditLog>,
    agent: Address,
    key: AgentKey,
    tools: Arc<Tools>,
}

fn house(on_drift: OnDrift) -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    let signers = dir.path().join("allowed_signers");
    std::fs::write(&signers, format!("ann@acme.example {}\n", public_line(signer(1).public_key()))).unwrap();
    let registry = Registry::new(store, audit.clone()).vouching(signers, false).on_drift(on_drift);
    let (agent, key): (Address, _) = ("claude@acme.lazaret.local".parse().unwrap(), AgentKey::generate().unwrap());
    registry.enroll(&agent, key.public(), None, "o").unwrap();
    House { _dir: dir, registry, audit, agent, key, tools: Arc::default() }
}

impl House {
    /// A session of this very process, with what is above it as the client.
    fn session(&self) -> SessionIdentity {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer { uid: 0, gid: 0, pid: i32::try_from(std::process::id()).ok() };
        let process = PeerProcess::of(socket.as_fd(), peer).unwrap();
        let witness = Witness::new(process, Arc::default(), self.tools.clone());
        SessionIdentity::for_test(&self.agent, &self.key.public()).witnessed(Arc::new(witness))
    }

    fn vouch(&self) {
        let end = Timestamp::now() + SignedDuration::from_hours(1);
        let document = self.registry.draft_vouch(&self.agent, None, None, end).unwrap().document;
        let signature = sign(&signer(1), NAMESPACE, &document);
        self.registry.vouch(&self.agent, &document, &signature, None, "o").unwrap();
    }

    /// As gate 1 judges.
    fn judge(&self, session: &SessionIdentity) -> Result<Vouch, NotActive> {
        let agent = self.registry.standing_in(session)?;
        self.registry.demand_no_drift(&agent, session)?;
        Ok(agent.vouch)
    }

    fn change_the_tools(&self, session: &SessionIdentity) {
        let before = session.measurement();
        self.tools.0.fetch_add(1, Ordering::Relaxed);
        let began = std::time::Instant::now();
        while session.measurement() == before {
            assert!(began.elapsed().as_secs() < 30, "the change is not seen");
        }
    }

    fn last_reason(&self) -> String {
        self.audit.tail(1).unwrap().remove(0).reason.unwrap()
    }
}

#[test]
fn what_is_seen_first_is_recorded_and_not_trusted() {
    let house = house(OnDrift::Deny);
    let session = house.session();
    assert_eq!(house.judge(&session).unwrap(), Vouch::None);
    let record = house.audit.tail(1).unwrap().remove(0);
    assert_eq!(record.reason.as_deref(), Some("measured for the first time"));
    assert!(record.detail["parts"].as_array().unwrap().iter().any(|part| part["kind"] == "executable"));
    assert_eq!(house.judge(&session).unwrap(), Vouch::None);
    assert_eq!(house.judge(&house.session()).unwrap(), Vouch::None);
    assert_eq!(house.audit.tail(10).unwrap().iter().filter(|r| r.reason == record.reason).count(), 1);
    house.change_the_tools(&session);
    assert_eq!(house.judge(&session).unwrap(), Vouch::None);
    assert_eq!(house.last_reason(), "its measurement changed");
    assert_eq!(house.audit.tail(1).unwrap()[0].detail["drift"][0]["how"], "changed");
}

#[test]
fn a_vouched_agent_that_drifts_is_refused_on_its_open_session_and_told_what_drifted() {
    let house = house(OnDrift::Deny);
    let session = house.session();
    house.judge(&session).unwrap();
    house.vouch();
    assert_eq!(house.judge(&session).unwrap(), Vouch::Valid);
    house.change_the_tools(&session);
    let refusal = house.judge(&session).unwrap_err();
    assert!(refusal.to_string().contains("not what was vouched for any more (changed tools tools)"), "{refusal}");
    assert!(refusal.next_step().contains("lazaret agent vouch"), "{}", refusal.next_step());
    house.vouch();
    assert_eq!(house.judge(&session).unwrap(), Vouch::Valid);
}

#[test]
fn a_vouch_for_what_was_measured_is_worth_nothing_where_nothing_can_be_measured() {
    let house = house(OnDrift::Deny);
    house.judge(&house.session()).unwrap();
    house.vouch();
    let elsewhere = SessionIdentity::for_test(&house.agent, &house.key.public());
    let refusal = house.judge(&elsewhere).unwrap_err();
    assert!(matches!(refusal, NotActive::Drifted { .. }), "{refusal}");
}

#[test]
fn drift_can_be_left_to_policies() {
    let house = house(OnDrift::Report);
    let session = house.session();
    house.judge(&session).unwrap();
    house.vouch();
    house.change_the_tools(&session);
    assert_eq!(house.judge(&session).unwrap(), Vouch::Drifted);
    assert_eq!(house.last_reason(), "its measurement changed");
}
