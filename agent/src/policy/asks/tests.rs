use super::*;
use crate::store::Store;

fn asks(config: AskConfig) -> (tempfile::TempDir, Arc<AuditLog>, Arc<Asks>) {
    let dir = tempfile::tempdir().unwrap();
    let audit = Arc::new(AuditLog::new(Arc::new(Store::open(&dir.path().join("s")).unwrap())));
    let asks = Asks::new(config, audit.clone());
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
