use super::*;
use crate::store::Store;

fn asks(config: AskConfig) -> (tempfile::TempDir, Arc<AuditLog>, Arc<Asks>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    let asks = Asks::new(config, audit.clone(), store);
    (dir, audit, asks)
}

fn binding(agent: &str) -> Binding {
    let text = |text: &str| text.to_owned();
    Binding {
        agent: text(agent),
        did: text("did:key:z1"),
        server: text("fs"),
        tool: text("write"),
        tool_digest: text("sha256:1"),
        arguments_digest: text("sha256:2"),
    }
}

fn question(binding: Binding, arguments: &Json) -> Question<'_> {
    Question { binding, arguments, state: None, reason: "r".into(), policies: vec!["p".into()], uid: 1000 }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn an_approval_is_for_this_call_alone_and_counts() {
    let (_dir, audit, asks) = asks(AskConfig::default());
    let arguments = Json::parse(r#"{"path":"secret-value"}"#, 8).unwrap();
    let waiting = asks.open(question(binding("a@x.y.z"), &arguments)).ok().unwrap();
    assert!(asks.take(&binding("a@x.y.z")).is_none(), "nobody approved it yet");
    asks.approve(&waiting.id, "ann", 2, MINUTE).unwrap();
    assert_eq!(*waiting.answer.borrow(), Some(Answer::Approved));
    type Change = fn(&mut Binding);
    let others: [Change; 6] = [
        |b| b.agent = "b@x.y.z".into(),
        |b| b.did = "did:key:z2".into(),
        |b| b.server = "fs2".into(),
        |b| b.tool = "delete".into(),
        |b| b.tool_digest = "sha256:9".into(),
        |b| b.arguments_digest = "sha256:9".into(),
    ];
    for change in others {
        let mut other = binding("a@x.y.z");
        change(&mut other);
        assert!(asks.take(&other).is_none(), "{other:?}");
    }
    assert!(asks.take(&binding("a@x.y.z")).is_some());
    assert!(asks.take(&binding("a@x.y.z")).is_some());
    assert!(asks.take(&binding("a@x.y.z")).is_none(), "twice was granted");
    let log = format!("{:?}", audit.tail(10).unwrap());
    assert!(!log.contains("secret-value") && log.contains("ann"), "{log}");
    assert!(matches!(asks.deny(&waiting.id, "bob", "no"), Err(AskError::Answered { .. })), "one answer");
}

#[test]
fn an_approval_ends_with_its_time() {
    let (_dir, _audit, asks) = asks(AskConfig::default());
    let arguments = Json::Null;
    let waiting = asks.open(question(binding("a@x.y.z"), &arguments)).ok().unwrap();
    asks.approve(&waiting.id, "ann", 5, Duration::from_millis(1)).unwrap();
    let over = Instant::now() + Duration::from_millis(2);
    while Instant::now() < over {}
    assert!(asks.take(&binding("a@x.y.z")).is_none());
    assert!(asks.list().1.is_empty());
}

#[test]
fn only_so_many_calls_wait() {
    let (_dir, _audit, asks) = asks(AskConfig { max_waiting: 3, max_per_agent: 2, ..AskConfig::default() });
    let arguments = Json::Null;
    let open = |agent: &str| asks.open(question(binding(agent), &arguments));
    let first = open("a@x.y.z").ok().unwrap();
    let _second = open("a@x.y.z").ok().unwrap();
    assert!(matches!(open("a@x.y.z"), Err(NotAsked::TooMany(2))));
    let _third = open("b@x.y.z").ok().unwrap();
    assert!(matches!(open("c@x.y.z"), Err(NotAsked::TooMany(_))), "the house is full");
    drop(first);
    assert!(open("c@x.y.z").is_ok());
}

#[test]
fn a_place_is_kept_for_the_same_call_only() {
    let (_dir, _audit, asks) = asks(AskConfig::default());
    let arguments = Json::Null;
    let waiting = asks.open(question(binding("a@x.y.z"), &arguments)).ok().unwrap();
    let state = waiting.park();
    let handle = state.strip_prefix(STATE_PREFIX).unwrap();
    assert!(matches!(asks.rejoin(handle, &binding("b@x.y.z")), Err(NotAsked::Foreign)));
    assert!(matches!(asks.rejoin("", &binding("a@x.y.z")), Err(NotAsked::Foreign)));
    let again = asks.rejoin(handle, &binding("a@x.y.z")).ok().unwrap();
    assert!(!again.id.is_empty());
    drop(again);
    assert!(matches!(asks.rejoin(handle, &binding("a@x.y.z")), Err(NotAsked::Foreign)), "it left without parking");
}

#[test]
fn a_client_that_does_not_come_again_leaves_an_end_on_record() {
    let (_dir, audit, asks) = asks(AskConfig { timeout_secs: 0, ..AskConfig::default() });
    let waiting = asks.open(question(binding("a@x.y.z"), &Json::Null)).ok().unwrap();
    let id = waiting.id.clone();
    waiting.park();
    assert!(asks.list().0.is_empty());
    let last = audit.tail(1).unwrap().remove(0);
    assert!(last.outcome == Outcome::Unknown && last.detail["ask"] == id.as_str(), "{last:?}");
    assert!(asks.list().0.is_empty());
    assert_eq!(audit.tail(10).unwrap().len(), 2, "it is told once");
}

#[test]
fn nobody_grants_without_bounds() {
    let (_dir, _audit, asks) = asks(AskConfig::default());
    let arguments = Json::Null;
    let waiting = asks.open(question(binding("a@x.y.z"), &arguments)).ok().unwrap();
    for (times, span) in [(0, MINUTE), (MOST_TIMES + 1, MINUTE), (1, Duration::ZERO), (1, LONGEST_SPAN + MINUTE)] {
        assert!(matches!(asks.approve(&waiting.id, "ann", times, span), Err(AskError::Bounds { .. })));
    }
    assert!(matches!(asks.approve("nope", "ann", 1, MINUTE), Err(AskError::Unknown(_))));
    asks.deny(&waiting.id, "ann", "no").unwrap();
    assert!(matches!(asks.approve(&waiting.id, "bob", 1, MINUTE), Err(AskError::Answered { .. })));
}

#[test]
fn what_is_left_of_an_approval_outlives_the_daemon_and_no_more_than_that() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    let start = || {
        let asks = Asks::new(AskConfig::default(), audit.clone(), store.clone());
        let waited = asks.restore().unwrap();
        (asks, waited)
    };
    let arguments = Json::Null;
    let (asks, _) = start();
    let approve = |agent: &str, times, span| {
        let waiting = asks.open(question(binding(agent), &arguments)).ok().unwrap();
        asks.approve(&waiting.id, "ann", times, span).unwrap();
        waiting.id.clone()
    };
    let id = approve("a@x.y.z", 3, MINUTE);
    approve("b@x.y.z", 1, MINUTE);
    approve("c@x.y.z", 5, Duration::from_millis(1));
    assert!(asks.take(&binding("a@x.y.z")).is_some() && asks.take(&binding("b@x.y.z")).is_some());
    let over = Instant::now() + Duration::from_millis(5);
    while Instant::now() < over {}

    // As after a `kill -9`: nobody said goodbye.
    let (asks, _) = start();
    let grants = asks.list().1;
    assert_eq!(grants.len(), 1, "what was used up or has expired is gone: {grants:?}");
    assert_eq!((grants[0].ask.as_str(), grants[0].by.as_str(), grants[0].times_left), (id.as_str(), "ann", 2));
    assert!(asks.take(&binding("a@x.y.z")).is_some());
    let (asks, _) = start();
    assert!(asks.take(&binding("a@x.y.z")).is_some());
    assert!(asks.take(&binding("a@x.y.z")).is_none(), "three in all, over two restarts");
    let (asks, _) = start();
    assert!(asks.list().1.is_empty());
}

#[test]
fn a_call_that_waited_when_the_daemon_ended_is_over_and_everybody_can_see_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    let start = || Asks::new(AskConfig::default(), audit.clone(), store.clone());
    let arguments = Json::Null;
    let asks = start();
    let open = |agent: &str| asks.open(question(binding(agent), &arguments)).ok().unwrap();
    let (cut_off, denied, left) = (open("a@x.y.z"), open("b@x.y.z"), open("c@x.y.z"));
    asks.deny(&denied.id, "ann", "no").unwrap();
    drop(left);
    let last = audit.tail(1).unwrap().remove(0);
    assert_eq!((last.kind, last.outcome, last.agent.as_deref()), (Kind::Ask, Outcome::Unknown, Some("c@x.y.z")));
    let id = cut_off.id.clone();
    std::mem::forget(cut_off);

    let asks = start();
    assert_eq!(asks.restore().unwrap(), 1);
    let ended = asks.list().0;
    assert_eq!((ended.len(), ended[0].id.as_str(), ended[0].state.as_str()), (1, id.as_str(), "ended"));
    assert_eq!(ended[0].binding, binding("a@x.y.z"));
    assert!(ended[0].reason.contains("call again"));
    for error in [asks.approve(&id, "ann", 1, MINUTE).unwrap_err(), asks.show(&id).unwrap_err()] {
        assert!(matches!(error, AskError::Restarted(_)), "{error}");
    }
    let last = audit.tail(1).unwrap().remove(0);
    assert!(last.outcome == Outcome::Deny && last.detail["ask"] == id.as_str(), "{last:?}");
    assert!(last.reason.unwrap().contains("the daemon restarted"));
    assert_eq!(start().restore().unwrap(), 0, "its end is told once");
}

#[test]
fn an_approval_is_taken_back_by_a_human_or_with_what_it_stands_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    let asks = Asks::new(AskConfig::default(), audit.clone(), store.clone());
    let arguments = Json::Null;
    let ids = ["a@x.y.z", "b@x.y.z", "c@x.y.z"].map(|agent| {
        let waiting = asks.open(question(binding(agent), &arguments)).ok().unwrap();
        asks.approve(&waiting.id, "ann", 9, MINUTE).unwrap();
        waiting.id.clone()
    });
    assert_eq!(asks.revoke(&ids[0], "bob").unwrap().times_left, 9);
    assert!(matches!(asks.revoke(&ids[0], "bob"), Err(AskError::NoApproval(_))));
    asks.forget(|binding| binding.agent != "b@x.y.z").unwrap();
    for (agent, held) in [("a@x.y.z", false), ("b@x.y.z", false), ("c@x.y.z", true)] {
        assert_eq!(asks.take(&binding(agent)).is_some(), held, "{agent}");
    }
    let again = Asks::new(AskConfig::default(), audit.clone(), store);
    again.restore().unwrap();
    assert_eq!(again.list().1.len(), 1, "a restart brings none of them back");
    let log = format!("{:?}", audit.tail(20).unwrap());
    assert!(log.contains("taken back by bob") && log.contains("was revoked or changed"), "{log}");
}
