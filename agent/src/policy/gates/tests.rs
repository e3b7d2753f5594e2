use super::*;
use crate::admission::{AdmissionState, LaunchDefinition, Review};
use crate::audit::Record;
use crate::identity::{Address, AgentKey, RevocationReason};
use crate::store::Store;

mod waiting;

struct House {
    dir: tempfile::TempDir,
    audit: Arc<AuditLog>,
    registry: Arc<Registry>,
    admission: Arc<Admission>,
    gates: Gates,
    session: SessionIdentity,
    agent: Address,
}

/// An active agent, and the approved server `time` with the tools `now` and `set`.
fn house_with(rate: RateConfig) -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    let registry = Registry::new(store.clone(), audit.clone());
    let registry = Arc::new(registry.vouching(dir.path().join("allowed_signers"), false));
    let admission = Arc::new(Admission::new(store, audit.clone()));
    let policies = dir.path().join("policy.d");
    let gates = Gates::new(registry.clone(), admission.clone(), audit.clone(), &rate, &policies).unwrap();
    let agent: Address = "claude@acme.lazaret.local".parse().unwrap();
    let key = AgentKey::generate().unwrap().public();
    registry.enroll(&agent, key, None, "operator").unwrap();
    let session = SessionIdentity::for_test(&agent, &key);
    let house = House { dir, audit, registry, admission, gates, session, agent };
    house.add("time", &["now", "set"]);
    house.admission.approve("time", "operator", None).unwrap();
    house
}

fn house() -> House {
    house_with(RateConfig::default())
}

impl House {
    fn add(&self, name: &str, tools: &[&str]) {
        let launch: LaunchDefinition = serde_json::from_value(json!({
            "source": {"kind": "pypi", "package": name, "version": null, "script": null, "module": null},
            "configured": ["uvx", name],
        }))
        .unwrap();
        self.admission.add(name, launch, "operator", "operator").unwrap();
        self.review(name, tools, "sha256:1");
    }

    fn review(&self, name: &str, tools: &[&str], image: &str) {
        let review: Review = serde_json::from_value(json!({
            "at": "2026-01-01T00:00:00Z", "image_id": image, "argv": [], "package": {}, "lock": {},
            "protocol_version": "2025-11-25", "server_info": {}, "instructions": null, "pin": "",
        }))
        .unwrap();
        let tools = tools.iter().map(|name| Json::from_value(&json!({"name": name, "inputSchema": {}}))).collect();
        self.admission.record_review(name, review, tools, "operator").unwrap();
    }

    fn admit(&self, server: &str, tool: &str) -> Result<ForwardPermit, Denied> {
        let arguments = Json::from_value(&json!({"zone": "secret-value", "path": "/etc/shadow"}));
        self.gates.admit(&self.session, server, tool, arguments, Json::Null)
    }

    fn last(&self) -> Record {
        self.audit.tail(1).unwrap().remove(0)
    }

    fn policy(&self, text: &str) {
        std::fs::create_dir_all(self.dir.path().join("policy.d")).unwrap();
        std::fs::write(self.dir.path().join("policy.d/p.cedar"), text).unwrap();
        self.gates.reload().unwrap();
    }
}

#[test]
fn a_permit_means_that_the_intent_is_on_disk_without_any_argument_s_value() {
    let house = house();
    let permit = house.admit("time", "now").unwrap();
    let intent = house.last();
    assert_eq!(intent.seq, permit.intent_seq());
    assert_eq!((intent.kind, intent.outcome), (Kind::Call, Outcome::Permit));
    assert_eq!(intent.call_id.as_deref(), Some(permit.call_id()));
    assert_eq!((intent.server.as_deref(), intent.tool.as_deref()), (Some("time"), Some("now")));
    assert_eq!(intent.detail["arguments"]["names"], json!(["zone", "path"]));
    assert_eq!(intent.detail["arguments"]["digest"], json!(permit.arguments_digest()));
    assert_eq!(intent.detail["policies"], json!(["builtin"]));
    let text = serde_json::to_string(&intent).unwrap();
    assert!(!text.contains("secret-value") && !text.contains("shadow"), "{text}");

    let (call_id, intent_seq) = (permit.call_id().to_owned(), permit.intent_seq());
    house.gates.finish(permit, Outcome::Ok, None, json!({"bytes": 5})).unwrap();
    let result = house.last();
    assert_eq!((result.kind, result.outcome, result.call_id), (Kind::Result, Outcome::Ok, Some(call_id)));
    assert_eq!((&result.detail["intent_seq"], &result.detail["bytes"]), (&json!(intent_seq), &json!(5)));
}

#[test]
fn unknown_quarantined_and_denied_tools_look_alike_and_each_denial_is_one_record() {
    let house = house();
    house.add("fresh", &["now"]);
    house.add("bad", &["now"]);
    house.admission.deny("bad", "operator", "bad").unwrap();
    house.admission.set_tool("time", "set", AdmissionState::Denied, None, "operator", "no").unwrap();
    let mut told = Vec::new();
    let mut causes = Vec::new();
    for (server, tool) in [("none", "now"), ("time", "none"), ("fresh", "now"), ("bad", "now"), ("time", "set")] {
        let before = house.last().seq;
        let denied = house.admit(server, tool).unwrap_err();
        assert!(denied.is_not_found());
        told.push(denied.to_string().replace(server, "S").replace(tool, "T"));
        let record = house.last();
        assert_eq!((record.seq, record.kind, record.outcome), (before + 1, Kind::Denial, Outcome::Deny));
        assert_eq!(record.detail["gate"], "routing");
        causes.push(record.reason.unwrap());
    }
    told.dedup();
    assert_eq!(told, [r#"tool "T" of server "S" was not found; use search_tools to see which tools there are"#]);
    causes.sort();
    causes.dedup();
    assert_eq!(causes.len(), 5, "the log knows the true cause: {causes:?}");
}

#[test]
fn a_changed_server_is_not_found_until_somebody_approves_it_again() {
    let house = house();
    assert!(house.admit("time", "now").is_ok());
    house.review("time", &["now", "set"], "sha256:2");
    assert!(house.admit("time", "now").unwrap_err().is_not_found());
    house.admission.approve("time", "operator", None).unwrap();
    assert!(house.admit("time", "now").is_ok());
    house.admission.quarantine("time", "lazaret", "it changed").unwrap();
    assert!(house.admit("time", "now").unwrap_err().is_not_found());
}

#[test]
fn an_open_session_ends_with_the_agent_s_standing() {
    let house = house();
    assert!(house.admit("time", "now").is_ok());
    house.registry.suspend(&house.agent, "operator", "holiday").unwrap();
    let denied = house.admit("time", "now").unwrap_err();
    assert_eq!(denied.gate, "registration");
    assert!(denied.next_step.contains("agent resume"), "{denied}");
    house.registry.resume(&house.agent, "operator", "back").unwrap();
    assert!(house.admit("time", "now").is_ok());
    house.registry.rotate(&house.agent, AgentKey::generate().unwrap().public(), "operator").unwrap();
    assert_eq!(house.admit("time", "now").unwrap_err().gate, "registration", "the session is the old key's");
    house.registry.revoke(&house.agent, RevocationReason::AdminAction, "operator").unwrap();
    assert_eq!(house.admit("time", "now").unwrap_err().gate, "registration");
}

#[test]
fn too_many_calls_are_refused_with_the_time_to_come_again() {
    let house = house_with(RateConfig { calls_per_minute: 1, burst: 2, ..RateConfig::default() });
    assert!(house.admit("time", "now").is_ok());
    assert!(house.admit("time", "now").is_ok());
    let denied = house.admit("time", "now").unwrap_err();
    assert_eq!(denied.gate, "rate");
    assert!(denied.retry_after.unwrap().as_secs() <= 60);
    assert!(denied.next_step.starts_with("come again in ") && denied.next_step.ends_with(" s"), "{denied}");
}

#[test]
fn what_is_revoked_between_the_looks_is_refused_by_the_second() {
    let house = house();
    let rated = || {
        let registered =
            Registered::check(Caller { session: &house.session, asserted: None }, &house.registry).unwrap();
        registered.route(&house.admission, "time", "now").unwrap().rate(&house.gates.rate).unwrap()
    };
    let held = rated();
    house.registry.suspend(&house.agent, "operator", "stop").unwrap();
    assert_eq!(held.unrevoked(&house.registry, &house.admission).err().unwrap().gate, "revocation");
    house.registry.resume(&house.agent, "operator", "go").unwrap();

    let held = rated();
    house.admission.quarantine("time", "lazaret", "it changed").unwrap();
    let denied = held.unrevoked(&house.registry, &house.admission).err().unwrap();
    assert!(denied.gate == "revocation" && denied.is_not_found());

    house.admission.approve("time", "operator", None).unwrap();
    let held = rated();
    house.review("time", &["now"], "sha256:2");
    house.admission.approve("time", "operator", None).unwrap();
    assert_eq!(held.unrevoked(&house.registry, &house.admission).err().unwrap().gate, "revocation", "another pin");
}

#[test]
fn policies_see_the_arguments_and_a_reload_is_on_record() {
    let house = house();
    house.policy(
        r#"permit (principal, action, resource);
           @id("no-etc") forbid (principal, action, resource) when { context.path_ancestors.contains("/etc") };"#,
    );
    assert_eq!((house.last().kind, house.last().detail["count"].clone()), (Kind::Admin, json!(2)));
    let denied = house.admit("time", "now").unwrap_err();
    assert_eq!((denied.gate, denied.reason.as_str()), ("policy", "policy no-etc forbids this call"));
    assert_eq!(house.last().detail["gate"], "policy");
    assert!(house.gates.admit(&house.session, "time", "now", Json::Object(Vec::new()), Json::Null).is_ok());
    std::fs::write(house.dir.path().join("policy.d/p.cedar"), "permit (").unwrap();
    assert!(house.gates.reload().is_err());
    assert_eq!((house.last().kind, house.last().outcome), (Kind::Admin, Outcome::Error));
    assert_eq!(house.admit("time", "now").unwrap_err().gate, "policy", "the former policies are in force");
}

#[test]
fn names_from_the_peer_are_cut_before_they_are_shown_or_kept() {
    let house = house();
    let long = "\u{fc}".repeat(10_000);
    let denied = house.admit(&long, &long).unwrap_err();
    assert!(denied.reason.len() < 400);
    assert!(serde_json::to_string(&house.last()).unwrap().len() < 2_000);
    let many =
        Json::Object((0..1_000).map(|n| (crate::proxy::json::JsonString::new(format!("{n}")), Json::Null)).collect());
    let _permit = house.gates.admit(&house.session, "time", "now", many, Json::Null).unwrap();
    assert_eq!(house.last().detail["arguments"]["names_omitted"], json!(936));
}

#[test]
fn an_agent_that_is_denied_again_and_again_does_not_fill_the_log() {
    let mut house = house();
    house.gates.denials = Flood::new(20);
    let before = house.last().seq;
    for _ in 0..30 {
        assert!(house.admit("no", "such").unwrap_err().is_not_found());
    }
    assert_eq!(house.last().seq, before + 20);
    let _permit = house.gates.admit(&house.session, "time", "now", Json::Object(Vec::new()), Json::Null).unwrap();
    assert_eq!(house.last().kind, Kind::Call, "calls are written all the same");
}

#[test]
fn a_permit_holds_what_was_judged_and_the_log_a_digest_of_all_of_it() {
    let house = house();
    let arguments = || Json::parse(r#"{"n":1.0}"#, 8).unwrap();
    let admit = |others: &str| {
        house.gates.admit(&house.session, "time", "now", arguments(), Json::parse(others, 8).unwrap()).unwrap()
    };
    let permit = admit(r#"{"name":"call_tool","_meta":{"trace":"secret-value"}}"#);
    assert_eq!(permit.params().to_text(), r#"{"name":"now","_meta":{"trace":"secret-value"},"arguments":{"n":1.0}}"#);
    let first = house.last().detail["arguments"].clone();
    assert!(first["other_params_digest"].is_string(), "{first}");
    assert!(!format!("{permit:?} {first}").contains("secret-value"));
    let _permit = admit(r#"{"_meta":{"trace":"another"}}"#);
    let second = house.last().detail["arguments"].clone();
    assert_eq!(first["digest"], second["digest"]);
    assert_ne!(first["other_params_digest"], second["other_params_digest"]);
    let _permit = admit(r#"{"name":"call_tool"}"#);
    assert!(house.last().detail["arguments"].get("other_params_digest").is_none());
}

#[test]
fn a_permit_does_not_outlive_what_it_stands_on() {
    let house = house();
    let permit = house.admit("time", "now").unwrap();
    house.gates.still_permitted(&permit).unwrap();
    let refused = |why: &str| {
        let denied = house.gates.still_permitted(&permit).unwrap_err();
        let record = house.last();
        assert_eq!((denied.gate, record.kind, record.outcome), ("revocation", Kind::Denial, Outcome::Deny), "{why}");
        assert_eq!(record.call_id.as_deref(), Some(permit.call_id()));
    };
    house.registry.bind_uid(&house.agent, Some(4242), "operator").unwrap();
    refused("another user's agent");
    house.registry.bind_uid(&house.agent, None, "operator").unwrap();
    house.gates.still_permitted(&permit).unwrap();
    house.admission.set_tool("time", "now", AdmissionState::Denied, None, "operator", "no").unwrap();
    refused("a denied tool");
    house.admission.set_tool("time", "now", AdmissionState::Approved, None, "operator", "yes").unwrap();
    house.gates.still_permitted(&permit).unwrap();
    house.review("time", &["now"], "sha256:2");
    house.admission.approve("time", "operator", None).unwrap();
    refused("another pin");
}

#[test]
fn a_sub_agent_may_no_more_than_the_agents_that_it_acts_for() {
    use crate::identity::delegation::{Capabilities, Terms, extend};
    use crate::identity::{Action, Actions, Amendment, Enrolment};

    let mut house = house();
    let [root, child, daemon] = [(), (), ()].map(|()| AgentKey::generate().unwrap());
    house.registry.rotate(&house.agent, root.public(), "operator").unwrap();
    let address: Address = "reader@acme.lazaret.local".parse().unwrap();
    let enrolment = Enrolment { sub_agent: true, ..Enrolment::default() };
    let agent = house.registry.enroll_with(&address, child.public(), enrolment, "operator").unwrap();
    let (now, audience) = (jiff::Timestamp::now().as_second(), daemon.public().did());
    let capabilities = Capabilities::new(vec!["time:*".parse().unwrap()]).unwrap();
    let terms = Terms { to: child.public(), audience: audience.clone(), exp: now + 600, capabilities, max_depth: None };
    let (chain, jti) = extend(&[], &root, terms, now).unwrap();
    let lineage = house.registry.lineage(&agent, &child.public(), &chain, &audience).unwrap();
    house.session = SessionIdentity::for_test(&address, &child.public()).with_lineage(lineage);
    assert!(house.admit("time", "now").is_ok());

    house.policy(
        r#"permit (principal, action, resource);
           @id("not-claude") forbid (principal == Agent::"claude@acme.lazaret.local", action, resource == Tool::"time:set");
           @id("not-deep") forbid (principal, action, resource == Tool::"time:now") when { context.depth > 2 };"#,
    );
    assert!(house.admit("time", "now").is_ok());
    let denied = house.admit("time", "set").unwrap_err();
    let why = "claude@acme.lazaret.local may not do this itself: policy not-claude forbids this call";
    assert_eq!((denied.gate, denied.reason.as_str()), ("policy", why));
    assert_eq!(house.last().detail["policies"], json!(["not-claude"]));

    let actions = Actions::of(&["time/set".into()]).unwrap();
    assert!(actions.iter().any(|action: &Action| action.allows("time", "set")));
    let narrower = Amendment { actions: Some(actions), ..Amendment::default() };
    house.registry.amend(&house.agent, narrower, "operator").unwrap();
    assert!(house.admit("time", "now").unwrap_err().is_not_found());
    assert!(house.last().reason.unwrap().contains("which it acts for"));

    house.registry.revoke_delegation(&jti, "operator").unwrap();
    let denied = house.admit("time", "now").unwrap_err();
    assert_eq!(denied.gate, "registration");
    assert!(denied.reason.contains(&jti) && denied.next_step.contains("agent delegate"), "{denied}");
    assert!(house.registry.revoke_delegation("no id", "operator").is_err());
}

#[test]
fn what_clients_say_of_themselves_is_asserted_and_no_more() {
    use crate::identity::challenge::HookNote;

    let house = house();
    let note = HookNote {
        client: "claude-code".into(),
        event: "PreToolUse".into(),
        agent_id: Some("a1".into()),
        agent_type: Some("Explore".into()),
        tool_use: Some("t1".into()),
        ..HookNote::default()
    };
    house.gates.hooks().note(house.session.uid(), note.clone(), &[], Instant::now()).unwrap();
    let admit = |meta: Value| {
        let others = Json::from_value(&json!({ "_meta": meta }));
        house.gates.admit(&house.session, "time", "now", Json::Object(Vec::new()), others).map(drop)
    };
    let seen = || {
        let detail = house.last().detail;
        (detail["depth"].clone(), detail["evidence"].clone(), detail["asserted"].clone())
    };
    admit(json!({"claudecode/toolUseId": "t1"})).unwrap();
    let (depth, evidence, asserted) = seen();
    assert_eq!((depth, evidence, &asserted["agent_type"]), (json!(2), json!("asserted"), &json!("Explore")));
    for (meta, source) in [
        (json!({"claudecode/toolUseId": "t2"}), "claude-code"),
        (json!({"threadId": "th"}), "codex"),
        (json!({"ai.opencode/sessionID": "se"}), "opencode"),
    ] {
        admit(meta).unwrap();
        let (depth, evidence, asserted) = seen();
        assert_eq!((depth, evidence, &asserted["source"]), (json!(1), json!("proven"), &json!(source)));
    }
    for meta in [json!({"threadId": 7}), json!({"threadId": "a\nb"}), json!("text"), json!({})] {
        admit(meta).unwrap();
        assert!(seen().2.is_null());
    }
    // Policies can demand more than that.
    house
        .policy(r#"permit (principal, action, resource) when { context.evidence == "proven" && context.depth == 1 };"#);
    admit(json!({})).unwrap();
    assert_eq!(admit(json!({"claudecode/toolUseId": "t1"})).unwrap_err().gate, "policy");
    // Who says two things of one tool use does not pass for the top agent.
    let other = HookNote { agent_id: None, agent_type: None, ..note };
    house.gates.hooks().note(house.session.uid(), other, &[], Instant::now()).unwrap();
    assert_eq!(admit(json!({"claudecode/toolUseId": "t1"})).unwrap_err().gate, "policy");
    let (depth, evidence, _) = seen();
    assert_eq!((depth, evidence), (json!(2), json!("unknown")));
    house.policy(r#"permit (principal, action, resource) when { ["asserted", "attested", "proven"].contains(context.evidence) };"#);
    assert_eq!(admit(json!({"claudecode/toolUseId": "t1"})).unwrap_err().gate, "policy");
    admit(json!({"claudecode/toolUseId": "t2"})).unwrap();
}
