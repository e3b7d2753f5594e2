use super::*;
use crate::admission::{AdmissionState, LaunchDefinition};
use crate::identity::{AgentState, Evidence, PublicKey, Vouch};
use jiff::Timestamp;
use serde_json::json;

fn agent() -> Agent {
    let key: PublicKey = "72OYfXUscgXDOC0etGH1Q8bO75b8Zr1gtiAllCNtKhU=".parse().unwrap();
    Agent {
        address: "claude@acme.lazaret.local".parse().unwrap(),
        did: key.did(),
        public_key: key,
        fingerprint: key.fingerprint_raw(),
        fingerprint_spki: key.fingerprint_spki(),
        state: AgentState::Active,
        owner: None,
        uid: None,
        sub_agent: false,
        vouch: Vouch::None,
        created_at: Timestamp::now(),
        revoked: None,
        history: Vec::new(),
        not_after: None,
        actions: crate::identity::Actions::all(),
        limits: crate::identity::CallLimits::default(),
        vouched: None,
        distrusted: None,
    }
}

fn server() -> Server {
    let launch: LaunchDefinition = serde_json::from_value(json!({
        "source": {"kind": "npm", "package": "@scope/fs", "version": "1.0.0", "bin": null}, "configured": [],
    }))
    .unwrap();
    serde_json::from_value(json!({
        "name": "fs", "state": "approved", "launch": launch, "origin": "operator",
        "review": null, "decided_pin": null, "history": [],
    }))
    .unwrap()
}

fn tool(name: &str) -> Tool {
    Tool {
        server: "fs".into(),
        name: name.into(),
        state: AdmissionState::Approved,
        descriptor: "{}".into(),
        digest: "sha256:00".into(),
        history: Vec::new(),
    }
}

fn judge(engine: &Engine, tool_name: &str, arguments: serde_json::Value) -> Result<Grounds, Refusal> {
    let (agent, server, tool) = (agent(), server(), tool(tool_name));
    let arguments = Json::from_value(&arguments);
    let derived = crate::policy::derive::derive(&arguments);
    let facts = Facts {
        agent: &agent,
        server: &server,
        tool: &tool,
        arguments: &arguments,
        derived: &derived,
        arguments_digest: "sha256:11",
        transport: "unix",
        uid: 1000,
        depth: 1,
        evidence: crate::identity::Evidence::Proven,
        human: None,
    };
    engine.judge(&facts)
}

fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn engine(text: &str) -> Engine {
    Engine::load(dir(&[("p.cedar", text)]).path()).unwrap_or_else(|e| panic!("{e}"))
}

fn faults(text: &str) -> String {
    Engine::load(dir(&[("p.cedar", text)]).path()).err().unwrap_or_else(|| panic!("loaded: {text}")).to_string()
}

#[test]
fn without_files_the_built_in_policy_permits_active_agents_on_approved_tools() {
    let empty = dir(&[("notes.txt", "x"), (".hidden.cedar", "x")]);
    for path in [empty.path().to_owned(), empty.path().join("missing")] {
        let engine = Engine::load(&path).unwrap();
        let description = engine.describe();
        assert_eq!((description.source, description.count), (PolicySource::Builtin, 1));
        assert_eq!(judge(&engine, "read", json!({})).unwrap().policies, ["builtin"]);
        let mut suspended = agent();
        suspended.state = AgentState::Suspended;
        let (server, tool, arguments) = (server(), tool("read"), Json::Object(Vec::new()));
        let facts = Facts {
            agent: &suspended,
            server: &server,
            tool: &tool,
            arguments: &arguments,
            derived: &crate::policy::derive::derive(&arguments),
            arguments_digest: "",
            transport: "unix",
            uid: 0,
            depth: 1,
            evidence: crate::identity::Evidence::Proven,
            human: None,
        };
        assert!(engine.judge(&facts).is_err());
    }
}

#[test]
fn files_without_a_policy_permit_nothing() {
    let engine = engine("// all of them are commented out\n");
    assert_eq!(engine.describe().source, PolicySource::Files);
    assert_eq!(judge(&engine, "read", json!({})).unwrap_err().reason, "no policy permits this call");
}

#[test]
fn path_traversal_does_not_get_past_a_directory_policy() {
    let engine = engine(
        r#"permit (principal, action == Action::"call", resource in Server::"fs")
           when { !context.path_unresolved && context has path_common && context.path_common like "/home/u/proj/*" };"#,
    );
    assert!(judge(&engine, "read", json!({"path": "/home/u/proj/a.txt"})).is_ok());
    for path in
        ["/home/u/proj/../../../etc/shadow", "/home/u/proj/..", "/home/u/project/x", "/etc/shadow", "../x", "~/x", ""]
    {
        assert!(judge(&engine, "read", json!({"path": path})).is_err(), "{path}");
    }
    assert!(judge(&engine, "read", json!({"path": "/home/u/proj/a", "other": ["/etc/shadow"]})).is_err());
}

#[test]
fn hosts_can_be_limited_to_a_set() {
    let engine = engine(
        r#"permit (principal, action, resource is Tool) when { ["good.example"].containsAll(context.url_host) };"#,
    );
    assert!(judge(&engine, "fetch", json!({"url": "https://good.example/x"})).is_ok());
    assert!(judge(&engine, "fetch", json!({"url": "https://good.example@evil.example/x"})).is_err());
    assert!(judge(&engine, "fetch", json!({"url": "https://evil.example\\@good.example/"})).is_err());
}

#[test]
fn a_forbid_of_any_slice_wins_and_says_its_reason() {
    let engine = engine(
        r#"@id("all") permit (principal, action, resource);
           @id("no-delete") @reason("nothing is deleted here") forbid (principal, action, resource == Tool::"fs:delete");
           @id("not-there") forbid (principal, action, resource in Server::"fs") when { context.path_ancestors.contains("/etc") };"#,
    );
    assert_eq!(judge(&engine, "read", json!({})).unwrap().policies, ["all"]);
    let refusal = judge(&engine, "delete", json!({})).unwrap_err();
    assert_eq!(refusal.reason, "policy no-delete forbids this call: nothing is deleted here");
    assert_eq!(refusal.policies, ["no-delete"]);
    let refusal = judge(&engine, "delete", json!({"p": "/etc/x"})).unwrap_err();
    assert_eq!(refusal.policies, ["no-delete", "not-there"]);
}

#[test]
fn permits_of_a_tool_a_server_and_an_agent_apply() {
    for text in [
        r#"permit (principal, action, resource == Tool::"fs:read");"#,
        r#"permit (principal, action, resource) when { resource in [Server::"other", Server::"fs"] };"#,
        r#"permit (principal, action, resource is Tool in Server::"fs");"#,
        r#"permit (principal == Agent::"claude@acme.lazaret.local", action == Action::"call", resource);"#,
        r#"permit (principal, action, resource) when { principal.domain == "acme.lazaret.local" && context.uid == 1000 };"#,
        r#"permit (principal, action, resource is Tool) when { context.arguments == ["path"] && resource.name == "read" };"#,
    ] {
        assert!(judge(&engine(text), "read", json!({"path": 1})).is_ok(), "{text}");
    }
    for text in [
        r#"permit (principal, action, resource == Tool::"fs:write");"#,
        r#"permit (principal, action, resource in Server::"other");"#,
        r#"permit (principal == Agent::"other@acme.lazaret.local", action, resource);"#,
    ] {
        assert!(judge(&engine(text), "read", json!({"path": 1})).is_err(), "{text}");
    }
}

#[test]
fn an_evaluation_error_denies_although_another_policy_permits() {
    let engine = engine(
        r#"permit (principal, action, resource);
           forbid (principal, action, resource) when { context.uid * 9223372036854775807 < 0 };"#,
    );
    let refusal = judge(&engine, "read", json!({})).unwrap_err();
    assert!(refusal.cause.as_ref().unwrap().contains("overflow"), "{refusal:?}");
    assert!(!refusal.reason.contains("overflow"), "the agent learns no detail");
}

#[test]
fn arguments_that_cannot_be_judged_are_denied() {
    let engine = engine("permit (principal, action, resource);");
    let many: Vec<String> = (0..2_000).map(|n| format!("/{n}{}", "/a".repeat(2_000))).collect();
    assert!(judge(&engine, "read", json!(many)).unwrap_err().cause.is_some());
}

#[test]
fn faults_are_told_with_file_line_and_column() {
    assert!(
        faults("permit (principal, action, resource);\n  permit (principal action, resource);")
            .contains("p.cedar:2:21: unexpected token")
    );
    assert!(
        faults("permit (principal, action, resource)\n  when { principal.adress == \"x\" };")
            .contains("p.cedar:2:10: ")
    );
    assert!(faults("forbid (principal, action, resource) when { principal.owner == \"x\" };").contains("p.cedar:1:45"));
    assert!(faults("permit (principal == User::\"x\", action, resource);").contains("User"));
    assert!(faults("permit (principal == ?principal, action, resource);").contains("template"));
    assert!(
        faults("@id(\"a\") permit (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource);")
            .contains("taken")
    );
}

#[test]
fn all_files_are_loaded_or_none_and_the_former_policies_stay() {
    let dir = dir(&[("10-a.cedar", "permit (principal, action, resource);"), ("20-b.cedar", "// none")]);
    let engine = Engine::load(dir.path()).unwrap();
    assert_eq!(judge(&engine, "read", json!({})).unwrap().policies, ["10-a.cedar#1"]);
    std::fs::write(dir.path().join("10-a.cedar"), "forbid (principal, action, resource);").unwrap();
    std::fs::write(dir.path().join("20-b.cedar"), "forbid (").unwrap();
    let fine = |_: &Description| Ok::<(), PolicyError>(());
    assert!(engine.reload(&[], fine).is_err());
    assert!(judge(&engine, "read", json!({})).is_ok(), "the former policies are in force");
    std::fs::write(dir.path().join("20-b.cedar"), "").unwrap();
    let refused = engine.reload(&[], |_| Err(PolicyError::Schema("not confirmed".into())));
    assert!(refused.is_err() && judge(&engine, "read", json!({})).is_ok());
    assert_eq!(engine.reload(&[], fine).unwrap().count, 1);
    assert_eq!(judge(&engine, "read", json!({})).unwrap_err().policies, ["10-a.cedar#1"]);
}

#[test]
fn a_policy_that_anybody_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = dir(&[("p.cedar", "permit (principal, action, resource);")]);
    std::fs::set_permissions(dir.path().join("p.cedar"), std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(Engine::load(dir.path()), Err(PolicyError::TooOpen { .. })));
    let broken = self::dir(&[]);
    std::os::unix::fs::symlink("nowhere", broken.path().join("x.cedar")).unwrap();
    assert!(matches!(Engine::load(broken.path()), Err(PolicyError::Read { .. })));
    assert!(matches!(Engine::load(&dir.path().join("p.cedar")), Err(PolicyError::Read { .. })));
}

#[test]
fn a_tool_s_name_cannot_pass_for_another_s() {
    let engine = engine(r#"permit (principal, action, resource == Tool::"fs:read");"#);
    for name in ["read\" }", "READ", "read ", "x:read", ""] {
        assert!(judge(&engine, name, json!({})).is_err(), "{name}");
    }
}

fn typed_tool(name: &str, properties: serde_json::Value) -> Tool {
    let descriptor = json!({"name": name, "inputSchema": {"type": "object", "properties": properties}}).to_string();
    let digest = crate::admission::pins::arguments_digest(&Json::parse(&descriptor, 64).unwrap());
    Tool { descriptor, digest, ..tool(name) }
}

fn judge_typed(engine: &Engine, tool: &Tool, arguments: serde_json::Value) -> Result<Grounds, Refusal> {
    let (agent, server) = (agent(), server());
    let arguments = Json::from_value(&arguments);
    let derived = crate::policy::derive::derive(&arguments);
    engine.judge(&Facts {
        agent: &agent,
        server: &server,
        tool,
        arguments: &arguments,
        derived: &derived,
        arguments_digest: "sha256:11",
        transport: "unix",
        uid: 1000,
        depth: 1,
        evidence: Evidence::Proven,
        human: None,
    })
}

const TYPED: &str = r#"@id("all") permit (principal, action, resource);
@id("no-etc") forbid (principal, action, resource == Tool::"fs:read")
when { context.input has path && context.input.path like "/etc/*" };"#;

#[test]
fn a_policy_speaks_of_the_arguments_of_its_tool_by_name() {
    let engine = engine(TYPED);
    let read = typed_tool("read", json!({"path": {"type": "string"}}));
    assert!(judge_typed(&engine, &read, json!({"path": "/home/u/x"})).is_ok());
    assert!(judge_typed(&engine, &read, json!({})).is_ok());
    for path in ["/etc/shadow", "/home/u/../../etc/shadow", "//etc/x", "/./etc/x"] {
        assert_eq!(judge_typed(&engine, &read, json!({"path": path})).unwrap_err().policies, ["no-etc"], "{path}");
    }
    for arguments in [json!({"path": ["/etc/shadow"]}), json!({"Path": "/etc/shadow"}), json!({"path": 1})] {
        let refusal = judge_typed(&engine, &read, arguments.clone()).unwrap_err();
        assert!(refusal.reason.contains("inputSchema"), "{arguments}: {refusal:?}");
    }
    assert!(judge(&engine, "write", json!({"path": "/etc/x"})).is_ok(), "the other tools are not typed");
}

#[test]
fn a_tool_that_its_policies_do_not_fit_is_called_by_nobody_and_the_others_are() {
    let dir = dir(&[("p.cedar", TYPED)]);
    let engine = Engine::load(dir.path()).unwrap();
    for changed in
        [json!({"file": {"type": "string"}}), json!({"path": {"type": "integer"}}), json!({"path": {"type": "number"}})]
    {
        let read = typed_tool("read", changed);
        let refusal = judge_typed(&engine, &read, json!({})).unwrap_err();
        let cause = refusal.cause.unwrap();
        assert!(cause.contains("p.cedar:3:"), "{cause}");
        assert!(judge(&engine, "write", json!({})).is_ok());
        let described = engine.describe_with(std::slice::from_ref(&read));
        assert_eq!((described.fenced[0].tool.as_str(), described.fenced.len()), ("fs:read", 1));
        let fine = |_: &Description| Ok::<(), PolicyError>(());
        let refused = engine.reload(std::slice::from_ref(&read), fine).unwrap_err().to_string();
        assert!(refused.contains("fs:read") && refused.contains("p.cedar:3:"), "{refused}");
        assert!(engine.describe().refused.is_some(), "status says so");
    }
    assert_eq!(engine.describe_with(&[]).asleep, ["fs:read"], "a tool that is not approved breaks nothing");
    assert!(engine.reload(&[], |_| Ok::<(), PolicyError>(())).is_ok() && engine.describe().refused.is_none());
}

#[test]
fn arguments_without_a_tool_in_the_head_are_a_fault() {
    for head in ["resource", "resource in Server::\"fs\"", "resource is Tool"] {
        let text = format!("permit (principal, action, {head}) when {{ context.input has path }};");
        assert!(faults(&text).contains("one tool at a time"), "{text}: {}", faults(&text));
    }
}

#[test]
fn an_explanation_names_the_condition_that_does_not_hold() {
    let engine = engine(
        r#"@id("mine") permit (principal, action, resource == Tool::"fs:read")
             when { context.uid == 1000 && context.transport == "unix" && context.size_members < 2 && principal.vouch == "valid" };
           @id("human") permit (principal, action, resource == Tool::"fs:write") when { context.approval == "human" };
           @id("never") forbid (principal, action, resource == Tool::"fs:drop");
           @id("other") permit (principal == Agent::"x@y.z.a", action, resource);"#,
    );
    let explain = |name: &str| {
        let (agent, server, tool) = (agent(), server(), tool(name));
        let arguments = Json::Object(Vec::new());
        engine.explain(&Facts {
            agent: &agent,
            server: &server,
            tool: &tool,
            arguments: &arguments,
            derived: &crate::policy::derive::derive(&arguments),
            arguments_digest: "",
            transport: "unix",
            uid: 1000,
            depth: 1,
            evidence: Evidence::Proven,
            human: None,
        })
    };
    let read = explain("read");
    assert_eq!((read.decision.as_str(), read.near.len()), ("deny", 1), "{read:?}");
    assert_eq!((read.near[0].policy.as_str(), read.near[0].held), ("mine", 3));
    assert!(read.near[0].failed.contains("vouch"), "{:?}", read.near[0]);
    let write = explain("write");
    assert_eq!((write.decision.as_str(), write.policies), ("ask", vec!["human".to_owned()]));
    let drop = explain("drop");
    assert_eq!((drop.decision.as_str(), drop.policies), ("deny", vec!["never".to_owned()]));
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_policy_or_a_fault_with_a_place(text in "\\PC{0,120}|(permit|forbid|\\(|\\)|principal|action|resource|,|;| |when|\\{|\\}|\"|@id){0,20}") {
        let dir = dir(&[("p.cedar", &text)]);
        if let Err(PolicyError::Faults(faults)) = Engine::load(dir.path()) {
            proptest::prop_assert!(faults.iter().all(|fault| fault.line >= 1 && fault.column >= 1));
        }
    }
}
