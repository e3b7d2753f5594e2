use proptest::prelude::*;

use super::*;

fn door() -> Door {
    Door { command: "/usr/bin/lazaret".into(), agent: "claude@a.lazaret.local".into(), key: None, run_dir: None }
}

struct Home(tempfile::TempDir);

impl Home {
    fn with(text: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".claude")).unwrap();
        let home = Self(dir);
        if let Some(text) = text {
            std::fs::write(home.file(), text).unwrap();
        }
        home
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join(".claude/settings.json")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }

    fn plan(&self, door: &Door, earlier: Option<ClientChange>) -> Plan {
        install_hooks("claude-code", self.0.path(), door, earlier).unwrap()
    }

    fn remove(&self, change: Option<&ClientChange>) -> Option<Plan> {
        remove_hooks("claude-code", self.0.path(), change).unwrap()
    }

    fn are_installed(&self) -> bool {
        are_installed("claude-code", self.0.path()).unwrap()
    }
}

const SETTINGS: &str = r#"{
  "model": "opus",
  "hooks": {
    "PreToolUse": [
      {
        "matcher": "Bash",
        "hooks": [{ "type": "command",  "command": "/home/ann/check.sh" }]
      }
    ],
    "Stop": []
  }
}
"#;

#[test]
fn hooks_are_put_in_once_and_taken_out_to_the_byte() {
    let home = Home::with(Some(SETTINGS));
    assert!(!home.are_installed());
    let plan = home.plan(&door(), None);
    let gone: Vec<_> = plan.diff.lines().filter(|line| line.starts_with('-') && !line.starts_with("---")).collect();
    assert_eq!(gone, ["-    \"Stop\": []"], "it has a comma now: {}", plan.diff);
    assert_eq!(plan.moved, ["SubagentStart", "PreToolUse"]);
    let applied = plan.apply().unwrap();
    let backup = applied.backup.unwrap();
    assert_eq!(std::fs::read_to_string(backup).unwrap(), SETTINGS);
    assert!(home.are_installed());
    let json: Value = serde_json::from_str(&home.text()).unwrap();
    assert_eq!(json["hooks"]["PreToolUse"][0]["hooks"][0]["command"], "/home/ann/check.sh");
    let ours = &json["hooks"]["PreToolUse"][1];
    assert_eq!((&ours["matcher"], &ours["hooks"][0]["command"]), (&json!("mcp__.*"), &json!("/usr/bin/lazaret hook")));
    assert_eq!(json["hooks"]["SubagentStart"][0]["hooks"][0]["type"], "command");

    let change = applied.change.unwrap();
    let again = home.plan(&door(), Some(change.clone()));
    assert!(again.changes_nothing() && again.diff.is_empty(), "{}", again.diff);
    // Another place of the program, or of the sockets: the old entries go.
    let moved = Door { command: "/opt/my tools/lazaret".into(), run_dir: Some("/tmp/run".into()), ..door() };
    let change = home.plan(&moved, Some(change)).apply().unwrap().change.unwrap();
    let text = home.text();
    assert!(text.contains("'/opt/my tools/lazaret' hook --run-dir /tmp/run") && !text.contains("/usr/bin/lazaret"));
    home.remove(Some(&change)).unwrap().apply().unwrap();
    assert_eq!(home.text(), SETTINGS);
    assert!(home.remove(Some(&change)).is_none() && !home.are_installed());
}

#[test]
fn without_a_record_of_the_installation_only_our_entries_go() {
    let home = Home::with(None);
    let change = home.plan(&door(), None).apply().unwrap().change.unwrap();
    assert!(change.made_file && home.are_installed());
    home.remove(None).unwrap().apply().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&home.text()).unwrap()["hooks"]["PreToolUse"], json!([]));
    home.plan(&door(), Some(change.clone())).apply().unwrap();
    home.remove(Some(&change)).unwrap().apply().unwrap();
    assert_eq!(home.text().trim(), "{}");
}

#[test]
fn what_is_not_ours_alone_is_left_and_what_cannot_be_read_is_refused() {
    let mixed = r#"{"hooks":{"PreToolUse":[{"hooks":[{"command":"/usr/bin/lazaret hook"},{"command":"/x"}]}]}}"#;
    let home = Home::with(Some(mixed));
    assert!(home.remove(None).is_none() && !home.are_installed());
    for (text, named) in [
        (r#"{"hooks":[]}"#, "hooks"),
        (r#"{"hooks":{"PreToolUse":{}}}"#, "hooks.PreToolUse"),
        (r#"{"hooks":{},}"#, "settings.json:1"),
    ] {
        let home = Home::with(Some(text));
        let error = install_hooks("claude-code", home.0.path(), &door(), None).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("nothing was changed"), "{error}");
        assert_eq!(home.text(), text);
    }
    let bare = tempfile::tempdir().unwrap();
    let error = install_hooks("claude-code", bare.path(), &door(), None).unwrap_err().to_string();
    assert!(error.contains("start it once"), "{error}");
    assert!(matches!(install_hooks("cursor", bare.path(), &door(), None), Err(InstallError::Unsupported(_))));
}

/// Settings with some hooks of others, laid out in several ways.
fn settings() -> impl Strategy<Value = String> {
    let entry = ("[a-z|]{0,6}", "[a-z/ \"]{1,9}")
        .prop_map(|(matcher, command)| json!({"matcher": matcher, "hooks": [{"type": "command", "command": command}]}));
    let table = prop::collection::btree_map(
        prop::sample::select(vec!["PreToolUse", "SubagentStart", "Stop"]),
        prop::collection::vec(entry, 0..3),
        0..4,
    );
    (prop::option::of(table), 0..3usize).prop_map(|(table, layout)| {
        let mut value = json!({"model": "m", "last": [1.0, {"x": "}"}]});
        if let Some(table) = table {
            value["hooks"] = json!(table);
        }
        match layout {
            0 => value.to_string(),
            1 => serde_json::to_string_pretty(&value).unwrap() + "\n",
            _ => serde_json::to_string_pretty(&value).unwrap().replace('\n', "\r\n"),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_settings_come_back_to_the_byte(text in settings()) {
        let home = Home::with(Some(&text));
        let change = home.plan(&door(), None).apply().unwrap().change.unwrap();
        prop_assert!(home.are_installed());
        prop_assert!(home.plan(&door(), Some(change.clone())).changes_nothing());
        home.remove(Some(&change)).unwrap().apply().unwrap();
        prop_assert_eq!(home.text(), text);
    }
}
