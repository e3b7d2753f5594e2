use super::*;

const CONFIG: &str = r#"{
  "numStartups": 12,
  "big": 12345678901234567890,
  "mcpServers": {
    "time": {
      "type": "stdio",
      "command": "uvx",
      "args": ["mcp-server-time"],
      "env": {
        "TOKEN": "s3cret"
      }
    },
    "keep": {
      "url": "https://x/mcp"
    }
  },
  "projects": {
    "/home/ann/shop": {
      "mcpServers": {
        "clock": { "command": "npx", "args": ["-y", "@s/clock@1.0.0", "--x"] }
      },
      "history": []
    }
  },
  "é": "ü"
}
"#;

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn with(text: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = text {
            std::fs::write(dir.path().join(".claude.json"), text).unwrap();
        }
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path().join(".claude.json")).unwrap()
    }

    fn install(&self, adopted: &[Adopted], earlier: Option<ClientChange>) -> Result<Plan, InstallError> {
        install("claude-code", self.path(), &door("claude@a.lazaret.local"), adopted, earlier)
    }
}

fn door(agent: &str) -> Door {
    Door { command: "/usr/bin/lazaret".into(), agent: agent.into(), key: None, run_dir: Some("/tmp/run".into()) }
}

fn adopted(name: &str, argv: &[&str]) -> Adopted {
    let argv: Vec<String> = argv.iter().map(|word| (*word).into()).collect();
    Adopted::new(name, &launch::from_argv(&argv, &BTreeMap::new(), Path::new("/")).unwrap())
}

fn both() -> [Adopted; 2] {
    // The second was caught by the kernel, started by another launcher at an exact version.
    [adopted("time", &["uvx", "mcp-server-time"]), adopted("clock", &["node", "/usr/bin/npx", "@s/clock@1.0.0", "--x"])]
}

#[test]
fn the_diff_shows_what_goes_and_what_comes() {
    let home = Home::with(Some(CONFIG));
    let plan = home.install(&both(), None).unwrap();
    let path = plan.path.display().to_string();
    insta::assert_snapshot!(plan.diff.replace(&path, "FILE"), @r#"
    --- FILE
    +++ FILE
    @@ -2,23 +2,25 @@
       "numStartups": 12,
       "big": 12345678901234567890,
       "mcpServers": {
    -    "time": {
    -      "type": "stdio",
    -      "command": "uvx",
    -      "args": ["mcp-server-time"],
    -      "env": {
    -        "TOKEN": "***"
    -      }
    -    },
         "keep": {
           "url": "https://x/mcp"
    +    },
    +    "lazaret": {
    +      "type": "stdio",
    +      "command": "/usr/bin/lazaret",
    +      "args": [
    +        "connect",
    +        "--agent",
    +        "claude@a.lazaret.local",
    +        "--run-dir",
    +        "/tmp/run"
    +      ],
    +      "env": {}
         }
       },
       "projects": {
         "/home/ann/shop": {
    -      "mcpServers": {
    -        "clock": { "command": "npx", "args": ["-y", "@s/clock@1.0.0", "--x"] }
    -      },
    +      "mcpServers": {},
           "history": []
         }
       },
    "#);
    assert_eq!(plan.moved, ["time", "clock"]);
    assert_eq!(home.text(), CONFIG, "a plan writes nothing");
}

#[test]
fn what_was_installed_is_removed_without_a_trace() {
    for config in [CONFIG, "{}", "{\"a\":1}", "{\n\t\"mcpServers\": {},\n\t\"b\": [1,  2]\n}"] {
        let home = Home::with(Some(config));
        let applied = home.install(&both(), None).unwrap().apply().unwrap();
        assert_eq!(std::fs::read_to_string(applied.backup.unwrap()).unwrap(), config);
        assert_ne!(home.text(), config);
        // What is stored comes back from the store.
        let change: ClientChange =
            serde_json::from_str(&serde_json::to_string(&applied.change.unwrap()).unwrap()).unwrap();
        let plan = remove("claude-code", home.path(), Some(&change)).unwrap();
        plan.apply().unwrap();
        assert_eq!(home.text().split_whitespace().collect::<String>(), config.split_whitespace().collect::<String>());
        if config != "{}" {
            assert_eq!(home.text(), config);
        }
    }
}

#[test]
fn installing_again_changes_the_agent_and_forgets_nothing() {
    let home = Home::with(Some(CONFIG));
    let first = home.install(&both(), None).unwrap().apply().unwrap().change.unwrap();
    assert!(home.install(&both(), Some(first.clone())).unwrap().changes_nothing());
    let plan = install("claude-code", home.path(), &door("other@a.lazaret.local"), &both(), Some(first)).unwrap();
    let second = plan.apply().unwrap().change.unwrap();
    assert_eq!((second.removed.len(), second.agent.as_str()), (2, "other@a.lazaret.local"));
    remove("claude-code", home.path(), Some(&second)).unwrap().apply().unwrap();
    assert_eq!(home.text(), CONFIG);
}

#[test]
fn a_config_that_is_not_there_is_made_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::with(None);
    let applied = home.install(&[], None).unwrap().apply().unwrap();
    assert_eq!(applied.backup, None);
    let value: serde_json::Value = serde_json::from_str(&home.text()).unwrap();
    assert_eq!(value["mcpServers"]["lazaret"]["args"][0], "connect");
    let mode = std::fs::metadata(home.path().join(".claude.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_that_does_not_parse_is_never_touched() {
    for (text, place) in [
        ("{\n  \"a\": 1,\n}", ":2:9: "),
        ("{ // mine\n}", ":1:3: "),
        ("{\"mcpServers\":{},\n\"mcpServers\":{}}", ":2:1: "),
        ("", ":1:1: "),
    ] {
        let home = Home::with(Some(text));
        let error = home.install(&[], None).unwrap_err().to_string();
        assert!(error.contains(place), "{text}: {error}");
        assert_eq!(home.text(), text);
    }
    for text in ["{\"mcpServers\":[]}", "{\"mcpServers\":null}"] {
        assert!(matches!(Home::with(Some(text)).install(&[], None), Err(InstallError::Shape { .. })), "{text}");
    }
}

#[test]
fn a_server_of_somebody_elses_under_our_name_stays() {
    let home = Home::with(Some(r#"{"mcpServers":{"lazaret":{"command":"/tmp/x"}}}"#));
    assert!(matches!(home.install(&[], None), Err(InstallError::NameTaken { .. })));
    assert!(matches!(remove("claude-code", home.path(), None), Err(InstallError::NotInstalled { .. })));
}

#[test]
fn a_change_between_diff_and_write_is_not_lost() {
    let home = Home::with(Some(CONFIG));
    let plan = home.install(&both(), None).unwrap();
    let newer = CONFIG.replace("12,", "13,");
    std::fs::write(home.path().join(".claude.json"), &newer).unwrap();
    assert!(matches!(plan.apply(), Err(InstallError::Changed { .. })));
    assert_eq!(home.text(), newer);
}

#[test]
fn servers_that_were_not_adopted_stay() {
    let home = Home::with(Some(CONFIG));
    let other =
        [adopted("time", &["uvx", "mcp-server-time", "--utc"]), adopted("clock", &["npx", "@s/clock@2.0.0", "--x"])];
    assert!(home.install(&other, None).unwrap().moved.is_empty());
}

#[test]
fn other_clients_are_refused_by_name() {
    let home = Home::with(None);
    let error = install("cursor", home.path(), &door("a@b.c.d"), &[], None).unwrap_err();
    assert!(error.to_string().contains("only claude-code"), "{error}");
}
