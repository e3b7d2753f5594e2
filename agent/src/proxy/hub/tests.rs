use super::*;
use crate::admission::AdmissionState;
use crate::config::Expose;
use crate::proxy::testing::{ECHO, House, Script, house};

const CHANGED: &str = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;

fn server(house: &House) -> Server {
    house.door.admission.get("s").unwrap().unwrap()
}

/// The server says that its tools changed, and answers the next listing with `tool`.
async fn changes_to(house: &House, script: &mut Script, tool: &str) -> Result<Arc<Upstream>, HubError> {
    let running = house.door.hub.upstream(&server(house)).await.unwrap();
    let mut changed = running.tools_changed();
    script.say(CHANGED).await;
    changed.changed().await.unwrap();
    let (entry, hub) = (server(house), house.door.hub.clone());
    let asked = tokio::spawn(async move { hub.upstream(&entry).await });
    let (id, method, _) = script.request().await;
    assert_eq!(method, "tools/list");
    script.answer(&id, &format!(r#"{{"tools":[{tool}]}}"#)).await;
    asked.await.unwrap()
}

#[tokio::test]
async fn a_changed_annotation_quarantines_the_server_before_anybody_gets_it() {
    let (house, mut script) = house(Expose::Search).await;
    let changed = ECHO.replace(r#""inputSchema""#, r#""annotations":{"readOnlyHint":true},"inputSchema""#);
    let error = changes_to(&house, &mut script, &changed).await.err().unwrap();
    assert!(error.to_string().contains(r#"tool "echo" changed"#), "{error}");
    let entry = server(&house);
    assert_eq!(entry.state, AdmissionState::Quarantined);
    assert!(matches!(house.door.hub.upstream(&entry).await, Err(HubError::NotApproved { .. })));
    assert_eq!(house.door.hub.running(), []);
}

#[tokio::test]
async fn a_listing_that_is_still_the_approved_one_goes_on_serving() {
    let (house, mut script) = house(Expose::Search).await;
    let again = changes_to(&house, &mut script, ECHO).await.unwrap();
    let next = house.door.hub.upstream(&server(&house)).await.unwrap();
    assert!(Arc::ptr_eq(&again, &next), "checked once for each change");
    assert_eq!(house.door.hub.running(), [("s".to_owned(), "c0ffee".to_owned())]);
}

#[tokio::test]
async fn a_server_that_cannot_start_is_not_tried_again_at_once() {
    let (house, script) = house(Expose::Search).await;
    drop(script);
    let running = house.door.hub.upstream(&server(&house)).await.unwrap();
    running.ended().await;
    let first = house.door.hub.upstream(&server(&house)).await.err().unwrap();
    assert!(matches!(&first, HubError::Cage { .. }), "{first}");
    assert!(first.to_string().contains("Docker"), "{first}");
    let second = house.door.hub.upstream(&server(&house)).await.err().unwrap();
    assert!(matches!(second, HubError::Backoff { times: 1, .. }), "{second}");
}

#[tokio::test]
async fn nothing_is_started_once_everything_was_stopped() {
    let (house, mut script) = house(Expose::Search).await;
    let ends = async { while script.next().await.is_some() {} };
    let stops = async {
        house.door.hub.stop_all().await;
    };
    tokio::join!(ends, stops);
    assert!(matches!(house.door.hub.upstream(&server(&house)).await, Err(HubError::Stopping { .. })));
}

/// The server says that its tools changed, somebody wants it, and it has been asked what they are.
async fn in_a_check(
    house: &House,
    script: &mut Script,
) -> (crate::proxy::envelope::RequestId, tokio::task::JoinHandle<Result<Arc<Upstream>, HubError>>) {
    let mut changed = house.door.hub.upstream(&server(house)).await.unwrap().tools_changed();
    script.say(CHANGED).await;
    changed.changed().await.unwrap();
    let (entry, hub) = (server(house), house.door.hub.clone());
    let asked = tokio::spawn(async move { hub.upstream(&entry).await });
    let (id, _, _) = script.request().await;
    (id, asked)
}

#[tokio::test]
async fn an_approval_that_goes_during_the_check_ends_the_server() {
    let (house, mut script) = house(Expose::Search).await;
    let (id, asked) = in_a_check(&house, &mut script).await;
    house.door.admission.deny("s", "operator", "no").unwrap();
    script.answer(&id, &format!(r#"{{"tools":[{ECHO}]}}"#)).await;
    let ends = async {
        while script.next().await.is_some() {}
        drop(script.out);
    };
    let (asked, ()) = tokio::join!(asked, ends);
    assert!(matches!(asked.unwrap(), Err(HubError::NotApproved { .. })));
    assert_eq!(house.door.hub.running(), []);
}

#[tokio::test]
async fn a_server_that_is_being_checked_does_not_hold_up_the_stop() {
    let (house, mut script) = house(Expose::Search).await;
    let (_never_answered, asked) = in_a_check(&house, &mut script).await;
    let ends = async {
        while script.next().await.is_some() {}
        drop(script.out);
    };
    let stops = tokio::time::timeout(Duration::from_secs(4), house.door.hub.stop_all());
    let (stopped, (), asked) = tokio::join!(stops, ends, asked);
    stopped.expect("stopped before the check runs into its timeout");
    assert!(asked.unwrap().is_err());
    assert_eq!(house.door.hub.running(), []);
}

#[tokio::test]
async fn whoever_looks_after_a_server_sees_an_approval_that_had_gone_before() {
    let (house, mut script) = house(Expose::Search).await;
    let entry = server(&house);
    let upstream = house.door.hub.upstream(&entry).await.unwrap();
    house.door.admission.deny("s", "operator", "no").unwrap();
    let slot = house.door.hub.slots.of_server("s").remove(0);
    let looks = watch::watch(Arc::downgrade(&house.door.hub), slot, entry, upstream, Duration::from_secs(600));
    let ends = async {
        while script.next().await.is_some() {}
        drop(script.out);
    };
    tokio::time::timeout(Duration::from_secs(4), async { tokio::join!(looks, ends) }).await.unwrap();
    assert_eq!(house.door.hub.running(), []);
    assert!(house.audit.tail(1).unwrap()[0].reason.as_deref().unwrap().contains("approval is gone"));
}

#[tokio::test]
async fn a_session_that_is_over_gets_no_container_of_its_own() {
    let (house, _script) = house(Expose::Search).await;
    let hub = &house.door.hub;
    let mut entry = server(&house);
    entry.launch.isolation = crate::admission::Isolation::PerSession;
    let refused = async || hub.upstream_of(&entry, &house.identity).await.err().unwrap();
    assert!(matches!(refused().await, HubError::SessionOver { .. }), "it was never opened");
    let lease = hub.open_session(&house.identity);
    // It would be started now, if there were a Docker.
    assert!(matches!(refused().await, HubError::Cage { .. }));
    assert_eq!(hub.slots.of_server("s").len(), 1, "a place where nothing started is forgotten");
    drop(lease);
    assert!(matches!(refused().await, HubError::SessionOver { .. }));
}

#[tokio::test]
async fn a_remote_server_takes_no_container_s_place() {
    let (house, _script) = house(Expose::Search).await;
    let hub = &house.door.hub;
    let all = u32::try_from(hub.max_running).unwrap();
    let _all = hub.places.clone().acquire_many_owned(all).await.unwrap();
    let mut entry = server(&house);
    let remote = crate::admission::Remote::new("https://mcp.example.com/", Vec::new(), false, false, None).unwrap();
    entry.launch.source = crate::admission::Source::Remote(Box::new(remote));
    let taken = tokio::time::timeout(Duration::from_secs(5), hub.place(&entry)).await;
    taken.expect("it waits for nobody").unwrap();
    assert!(hub.least_recently_used().is_none(), "what takes no place makes none");
}

#[tokio::test]
async fn the_words_of_a_server_that_died_outlive_it() {
    let (house, script) = house(Expose::Search).await;
    let hub = &house.door.hub;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("logs");
    hub.keep_logs_in(&dir).unwrap();
    let upstream = hub.upstream(&server(&house)).await.unwrap();
    drop(script);
    upstream.ended().await;
    let slot = hub.slots.of_server("s").remove(0);
    hub.end(&slot, &upstream, "unused").await;
    hub.end(&slot, &upstream, "unused").await;
    let logs = hub.logs("s", 10);
    assert_eq!(logs.len(), 1, "remembered once: {logs:?}");
    assert!(!logs[0].running && logs[0].ended.as_ref().unwrap().why.contains("closed its output"), "{logs:?}");

    // Another daemon on the same state knows them too.
    let files = || std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(files().len(), 1);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&files()[0]).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let (next, _script) = self::house(Expose::Search).await;
    next.door.hub.keep_logs_in(&dir).unwrap();
    let ended = |hub: &Hub| hub.logs("s", 10).into_iter().filter(|log| !log.running).collect::<Vec<_>>();
    assert_eq!(ended(&next.door.hub), logs);
    std::fs::write(dir.join("torn.json"), "{").unwrap();
    let (third, _script) = self::house(Expose::Search).await;
    third.door.hub.keep_logs_in(&dir).unwrap();
    assert_eq!((ended(&third.door.hub), files().len()), (logs, 1), "what cannot be read harms nothing");
    hub.forget("s");
    assert_eq!((hub.logs("s", 10), files().len()), (vec![], 0));
}
