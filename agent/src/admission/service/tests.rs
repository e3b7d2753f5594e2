use std::collections::BTreeMap;

use super::super::model::Source;
use super::*;

struct House {
    admission: Admission,
    audit: Arc<AuditLog>,
    _dir: tempfile::TempDir,
}

fn house() -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("state.redb")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    House { admission: Admission::new(store, audit.clone()), audit, _dir: dir }
}

fn launch(package: &str) -> LaunchDefinition {
    LaunchDefinition {
        source: Source::Npm { package: package.into(), version: None, bin: None },
        args: vec![],
        env: BTreeMap::new(),
        mounts: vec![],
        configured: vec!["npx".into(), package.into()],
    }
}

fn review(image: &str) -> Review {
    Review {
        at: Timestamp::now(),
        image_id: image.into(),
        argv: vec!["x".into()],
        package: serde_json::json!({"version": "1.0.0"}),
        lock: serde_json::json!({}),
        protocol_version: "2025-11-25".into(),
        server_info: serde_json::json!({}),
        instructions: None,
        pin: String::new(),
        prompts: String::new(),
        resource_templates: "[]".into(),
        content: String::new(),
        findings: vec![],
    }
}

fn tool(name: &str, annotations: &str) -> Json {
    Json::parse(&format!(r#"{{"name":"{name}","annotations":{annotations}}}"#), 8).unwrap()
}

fn tools() -> Vec<Json> {
    vec![tool("echo", r#"{"readOnlyHint":true}"#), tool("add", "{}")]
}

impl House {
    /// An approved server with the tools `echo` and `add`.
    fn approved(&self, name: &str) -> Server {
        self.reviewed(name, "image-1");
        self.admission.approve(name, "ann", None).unwrap()
    }

    fn reviewed(&self, name: &str, image: &str) -> Server {
        self.admission.add(name, launch("p"), "operator", "ann").unwrap();
        self.admission.record_review(name, review(image), tools(), "ann").unwrap()
    }

    fn callable(&self) -> Vec<String> {
        self.admission.approved_tools().unwrap().into_iter().map(|tool| tool.name).collect()
    }

    fn tool_state(&self, server: &str, tool: &str) -> AdmissionState {
        self.admission.tools(server).unwrap().into_iter().find(|t| t.name == tool).unwrap().state
    }
}

#[test]
fn everything_starts_in_quarantine_and_nothing_of_it_is_callable() {
    let house = house();
    let server = house.reviewed("x", "image-1");
    assert_eq!(server.state, AdmissionState::Quarantined);
    assert_eq!(house.admission.tools("x").unwrap().len(), 2);
    assert!(house.callable().is_empty());
}

#[test]
fn what_nobody_looked_at_cannot_be_approved() {
    let house = house();
    house.admission.add("x", launch("p"), "operator", "ann").unwrap();
    assert!(matches!(house.admission.approve("x", "ann", None), Err(AdmissionError::NotReviewed(_))));
}

#[test]
fn approval_is_of_the_pin_that_was_shown() {
    let house = house();
    let shown = house.reviewed("x", "image-1").review.unwrap().pin;
    house.admission.record_review("x", review("image-2"), tools(), "ann").unwrap();
    let error = house.admission.approve("x", "ann", Some(&shown)).unwrap_err();
    assert!(matches!(error, AdmissionError::PinChanged { .. }), "{error}");
    assert!(house.callable().is_empty());
}

#[test]
fn an_approved_server_makes_its_tools_callable_until_it_is_quarantined() {
    let house = house();
    let mut changes = house.admission.changes();
    let server = house.approved("x");
    assert!(server.is_active());
    assert_eq!(house.callable(), ["add", "echo"]);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    house.admission.quarantine("x", "lazaret", "a tool changed").unwrap();
    assert!(house.callable().is_empty());
    assert!(changes.has_changed().unwrap());
}

#[test]
fn a_changed_annotation_requarantines_the_server_and_the_tool() {
    let house = house();
    house.approved("x");
    let changed = vec![tool("echo", r#"{"readOnlyHint":false}"#), tool("add", "{}")];
    let server = house.admission.record_review("x", review("image-1"), changed, "ann").unwrap();
    assert_eq!(server.state, AdmissionState::Quarantined);
    assert_eq!(house.tool_state("x", "echo"), AdmissionState::Quarantined);
    assert_eq!(house.tool_state("x", "add"), AdmissionState::Approved);
    assert!(house.callable().is_empty());
}

#[test]
fn the_same_review_again_keeps_the_approval() {
    let house = house();
    house.approved("x");
    let server = house.admission.record_review("x", review("image-1"), tools(), "ann").unwrap();
    assert!(server.is_active());
    assert_eq!(house.callable().len(), 2);
}

#[test]
fn another_image_of_the_same_thing_needs_a_new_approval() {
    let house = house();
    house.approved("x");
    let server = house.admission.record_review("x", review("image-2"), tools(), "ann").unwrap();
    assert_eq!(server.state, AdmissionState::Quarantined);
}

#[test]
fn what_was_denied_stays_denied_under_every_name_and_after_a_rebuild() {
    let house = house();
    house.reviewed("x", "image-1");
    house.admission.deny("x", "ann", "it phones home").unwrap();
    let again = house.admission.add("y", launch("p"), "operator", "bob").unwrap();
    assert_eq!(again.state, AdmissionState::Denied);
    house.admission.remove("x", "bob").unwrap();
    let again = house.admission.record_review("y", review("image-2"), tools(), "bob").unwrap();
    assert_eq!(again.state, AdmissionState::Denied);
    let error = house.admission.approve("y", "bob", None).unwrap_err();
    assert!(error.to_string().contains("it phones home"), "{error}");
    // Written differently, it is still the same thing inside.
    let mut other = launch("p");
    other.configured = vec!["bunx".into()];
    house.admission.add("z", other, "operator", "bob").unwrap();
    let again = house.admission.record_review("z", review("image-3"), tools(), "bob").unwrap();
    assert_eq!(again.state, AdmissionState::Denied);
}

#[test]
fn a_denied_server_that_became_something_else_is_looked_at_again() {
    let house = house();
    house.reviewed("x", "image-1");
    house.admission.deny("x", "ann", "old version").unwrap();
    let server = house.admission.record_review("x", review("image-2"), vec![tool("new", "{}")], "ann").unwrap();
    assert_eq!(server.state, AdmissionState::Quarantined);
}

#[test]
fn a_launch_that_was_denied_unseen_stays_denied_whatever_it_turns_out_to_be() {
    let house = house();
    house.admission.add("x", launch("p"), "shadow:1", "ann").unwrap();
    house.admission.deny("x", "ann", "never").unwrap();
    let server = house.admission.record_review("x", review("image-1"), tools(), "ann").unwrap();
    assert_eq!(server.state, AdmissionState::Denied);
}

#[test]
fn a_denial_is_reversed_by_naming_the_pin_and_by_nothing_else() {
    let house = house();
    let pin = house.reviewed("x", "image-1").review.unwrap().pin;
    house.admission.deny("x", "ann", "no").unwrap();
    assert!(matches!(house.admission.quarantine("x", "lazaret", "changed"), Err(AdmissionError::IsDenied { .. })));
    assert!(house.admission.approve("x", "ann", None).is_err());
    assert!(house.admission.approve("x", "ann", Some(&pin)).unwrap().is_active());
    assert_eq!(house.admission.add("y", launch("p"), "operator", "bob").unwrap().state, AdmissionState::Quarantined);
}

#[test]
fn a_denied_tool_stays_denied_when_its_server_is_approved_and_under_every_server() {
    let house = house();
    house.reviewed("x", "image-1");
    house.admission.set_tool("x", "echo", AdmissionState::Denied, None, "ann", "no").unwrap();
    house.admission.approve("x", "ann", None).unwrap();
    assert_eq!(house.callable(), ["add"]);
    house.admission.add("y", launch("q"), "operator", "bob").unwrap();
    house.admission.record_review("y", review("image-9"), tools(), "bob").unwrap();
    assert_eq!(house.tool_state("y", "echo"), AdmissionState::Denied);
    let unseen = house.admission.set_tool("x", "echo", AdmissionState::Approved, Some("sha256:other"), "ann", "yes");
    assert!(matches!(unseen, Err(AdmissionError::ToolChanged { .. })), "{unseen:?}");
    house.admission.set_tool("x", "echo", AdmissionState::Approved, None, "ann", "yes").unwrap();
    assert_eq!(house.callable(), ["add", "echo"]);
}

#[test]
fn a_tool_that_is_gone_is_forgotten_and_a_doubled_one_is_refused() {
    let house = house();
    house.approved("x");
    house.admission.record_review("x", review("image-1"), vec![tool("add", "{}")], "ann").unwrap();
    assert_eq!(house.admission.tools("x").unwrap().len(), 1);
    let doubled = vec![tool("a", "{}"), tool("a", "{\"x\":1}")];
    assert!(matches!(
        house.admission.record_review("x", review("i"), doubled, "ann"),
        Err(AdmissionError::BadListing { .. })
    ));
    let unnamed = vec![Json::parse("{}", 4).unwrap()];
    assert!(house.admission.record_review("x", review("i"), unnamed, "ann").is_err());
}

#[test]
fn a_removed_server_takes_its_tools_with_it() {
    let house = house();
    house.approved("x");
    house.admission.remove("x", "ann").unwrap();
    assert!(house.callable().is_empty());
    assert!(house.admission.tools("x").unwrap().is_empty());
    assert!(matches!(house.admission.remove("x", "ann"), Err(AdmissionError::NoServer(_))));
}

#[test]
fn every_step_is_in_the_history_and_in_the_audit_log() {
    let house = house();
    house.approved("x");
    house.admission.quarantine("x", "lazaret", "it changed").unwrap();
    let states: Vec<_> = house.admission.get("x").unwrap().unwrap().history.iter().map(|t| t.to).collect();
    assert_eq!(states, [AdmissionState::Quarantined, AdmissionState::Approved, AdmissionState::Quarantined]);
    let reasons: Vec<_> = house.audit.tail(10).unwrap().into_iter().map(|record| record.reason.unwrap()).collect();
    assert_eq!(reasons, ["added (operator)", "reviewed", "approved", "it changed"]);
}

#[test]
fn names_are_plain_and_unique() {
    let house = house();
    for bad in ["", "A", "-a", "a__b", "a/b", "a b", "é", &"a".repeat(65), "a\0"] {
        assert!(matches!(house.admission.add(bad, launch("p"), "o", "a"), Err(AdmissionError::Name(_))), "{bad:?}");
    }
    house.admission.add("a.b_c-1", launch("p"), "o", "a").unwrap();
    assert!(matches!(house.admission.add("a.b_c-1", launch("p"), "o", "a"), Err(AdmissionError::Taken(_))));
    assert_eq!(house.admission.free_name("a.b_c-1").unwrap(), "a.b_c-1-2");
    assert_eq!(house.admission.free_name("new").unwrap(), "new");
}

#[test]
fn no_name_makes_two_tools_read_as_one() {
    for name in ["a", "a-b", "a_b", "time.1"] {
        assert!(valid_name(name), "{name}");
    }
    // `a_` + `__` + `b` is `a` + `__` + `_b`.
    for name in ["", "a_", "a__b", "_a", "A", "a b", "a:b"] {
        assert!(!valid_name(name), "{name}");
    }
}

#[test]
fn the_review_that_was_approved_is_kept_until_another_is() {
    let house = house();
    house.reviewed("x", "image-1");
    assert!(matches!(house.admission.former("x"), Err(AdmissionError::NoFormer(_))), "nothing was decided");
    house.admission.approve("x", "ann", None).unwrap();
    assert!(house.admission.former("x").unwrap().is_none(), "the newest is the approved one");
    house.admission.record_review("x", review("image-2"), tools(), "ann").unwrap();
    house.admission.record_review("x", review("image-3"), tools(), "ann").unwrap();
    let former = house.admission.former("x").unwrap().unwrap();
    assert_eq!((former.review.image_id.as_str(), former.tools.len()), ("image-1", tools().len()));
    house.admission.approve("x", "ann", None).unwrap();
    assert!(house.admission.former("x").unwrap().is_none());
    house.admission.record_review("x", review("image-4"), tools(), "ann").unwrap();
    assert_eq!(house.admission.former("x").unwrap().unwrap().review.image_id, "image-3");
    house.admission.remove("x", "ann").unwrap();
    house.reviewed("x", "image-1");
    assert!(matches!(house.admission.former("x"), Err(AdmissionError::NoFormer(_))), "removed with the entry");
}
