use super::*;

fn parsed(format: Format, text: &str) -> String {
    let parsed = format.parse(text).unwrap();
    let mut out = String::new();
    for server in &parsed.servers {
        let mut server = server.clone();
        expand::server(&mut server, None);
        let project = server.project.as_ref().map(|project| format!(" in {}", project.display())).unwrap_or_default();
        let what = match (&server.command, &server.url) {
            (Some(_), _) => server.argv().unwrap().join(" "),
            (None, url) => url.clone().unwrap_or_default(),
        };
        let env = if server.env.is_empty() { String::new() } else { format!(" env {:?}", server.env) };
        let marks = format!(
            "{}{}",
            if server.disabled { " disabled" } else { "" },
            if server.dynamic { " dynamic" } else { "" }
        );
        out += &format!("{}{project}: {what}{env}{marks}\n", server.name);
    }
    for project in &parsed.projects {
        out += &format!("project {}\n", project.display());
    }
    if let Some(error) = &parsed.error {
        out += &format!("error {error}\n");
    }
    out
}

#[test]
fn claude_code_has_servers_of_the_user_and_of_projects() {
    let text = r#"{
  "numStartups": 12,
  "mcpServers": {
    "time": { "type": "stdio", "command": "uvx", "args": ["mcp-server-time", "--local-timezone=UTC"], "env": {} },
    "sentry": { "type": "http", "url": "https://mcp.sentry.dev/mcp", "headers": {"Authorization": "Bearer x"} }
  },
  "projects": {
    "/home/ann/shop": {
      "allowedTools": [],
      "mcpServers": {
        "db": { "command": "npx", "args": ["-y", "@scope/db", 5432], "env": {"PGPASSWORD": "s3cret", "PORT": 1} }
      },
      "hasTrustDialogAccepted": true
    },
    "/home/ann/empty": {}
  }
}"#;
    insta::assert_snapshot!(parsed(Format::McpServers, text), @r#"
    time: uvx mcp-server-time --local-timezone=UTC
    sentry: https://mcp.sentry.dev/mcp
    db in /home/ann/shop: npx -y @scope/db 5432 env {"PGPASSWORD": "s3cret", "PORT": "1"}
    project /home/ann/shop
    project /home/ann/empty
    "#);
}

#[test]
fn windsurf_gemini_and_cline_name_their_urls_and_switches_otherwise() {
    let text = r#"{"mcpServers":{
      "a":{"serverUrl":"https://a/mcp"},
      "b":{"httpUrl":"https://b/mcp","timeout":5},
      "c":{"command":"node","args":["/srv/c.js"],"cwd":"/srv","disabled":true,"alwaysAllow":["x"]},
      "d":{"command":"${workspaceFolder}/run","args":["${env:HOME}"]}
    }}"#;
    insta::assert_snapshot!(parsed(Format::McpServers, text), @r"
    a: https://a/mcp
    b: https://b/mcp
    c: node /srv/c.js disabled
    d: ${workspaceFolder}/run ${env:HOME} dynamic
    ");
}

#[test]
fn vscode_has_its_own_file_and_its_settings_with_comments() {
    let mcp = r#"{
  // servers of this workspace
  "inputs": [{ "type": "promptString", "id": "key", "password": true }],
  "servers": {
    "github": { "url": "https://api.githubcopilot.com/mcp/" },
    "time": { "type": "stdio", "command": "uvx", "args": ["mcp-server-time",], },
  },
}"#;
    insta::assert_snapshot!(parsed(Format::VscodeMcp, mcp), @r"
    github: https://api.githubcopilot.com/mcp/
    time: uvx mcp-server-time
    ");
    let settings = r#"{ "editor.tabSize": 2, /* mine */
  "mcp": { "servers": { "a": { "command": "a-mcp" } } },
  "mcp.servers": { "b": { "command": "b-mcp", "env": { "K": "${input:key}" } } }
}"#;
    insta::assert_snapshot!(parsed(Format::VscodeSettings, settings), @r#"
    a: a-mcp
    b: b-mcp env {"K": "${input:key}"}
    "#);
}

#[test]
fn codex_is_toml_and_knows_projects() {
    let text = r#"
model = "gpt-5"
[mcp_servers.time]
command = "uvx"
args = ["mcp-server-time"]
startup_timeout_sec = 10

[mcp_servers.time.env]
TZ = "UTC"

[mcp_servers.figma]
url = "https://mcp.figma.com/mcp"
bearer_token_env_var = "FIGMA"

[mcp_servers.off]
command = "x"
enabled = false

[projects."/home/ann/shop"]
trust_level = "trusted"
"#;
    insta::assert_snapshot!(parsed(Format::Codex, text), @r#"
    figma: https://mcp.figma.com/mcp
    off: x disabled
    time: uvx mcp-server-time env {"TZ": "UTC"}
    project /home/ann/shop
    "#);
}

#[test]
fn zed_has_two_shapes_and_extensions() {
    let text = r#"// Zed settings
{
  "theme": "One Dark",
  "context_servers": {
    "old": { "command": { "path": "npx", "args": ["-y", "x"], "env": {"A": "b"} }, "settings": {} },
    "new": { "source": "custom", "command": "uvx", "args": ["y"], "enabled": false },
    "extension": { "source": "extension", "settings": { "key": "z" } }
  }
}"#;
    insta::assert_snapshot!(parsed(Format::Zed, text), @r#"
    old: npx -y x env {"A": "b"}
    new: uvx y disabled
    "#);
}

#[test]
fn opencode_has_the_command_as_a_list() {
    let text = r#"{
  "$schema": "https://opencode.ai/config.json",
  "mcp": {
    "time": { "type": "local", "command": ["uvx", "mcp-server-time", "--x"], "environment": {"A": "b"}, "enabled": true },
    "remote": { "type": "remote", "url": "https://x/mcp", "enabled": false },
    "switch": { "enabled": false }
  }
}"#;
    insta::assert_snapshot!(parsed(Format::Opencode, text), @r#"
    time: uvx mcp-server-time --x env {"A": "b"}
    remote: https://x/mcp disabled
    "#);
}

#[test]
fn one_bad_entry_does_not_hide_the_others() {
    let text = r#"{"mcpServers":{"a":{"command":["x"],"args":"no"},"b":5,"c":{},"d":{"command":"d"}}}"#;
    insta::assert_snapshot!(parsed(Format::McpServers, text), @r"
    d: d
    error mcpServers.a: its args are no list
    ");
}

#[test]
fn bad_files_are_errors_with_line_and_column() {
    let error = |format: Format, text: &str| format.parse(text).unwrap_err();
    assert_eq!(error(Format::McpServers, "{\n  \"a\": nope\n}"), "line 2, column 8: Unexpected word");
    assert_eq!(error(Format::McpServers, ""), "line 1, column 1: the file is empty");
    assert_eq!(error(Format::McpServers, "[]"), "line 1, column 1: the file is no JSON object");
    assert!(error(Format::Codex, "a = 1\nb = = 2").starts_with("line 2, column 5: "));
}

fn scan_of(home: &Path) -> Scan {
    let mut scan = scan(&[home.into()], &[], Path::new("/run/lazaret"));
    scan.files.retain(|file| file.path.starts_with(home));
    scan
}

#[test]
fn a_bad_file_never_stops_the_scan_and_projects_of_claude_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (home, project) = (dir.path(), dir.path().join("work"));
    std::fs::create_dir_all(home.join(".cursor")).unwrap();
    std::fs::create_dir_all(project.join(".vscode")).unwrap();
    std::fs::write(home.join(".cursor/mcp.json"), "{ oops").unwrap();
    std::fs::write(home.join(".claude.json"), format!(r#"{{"projects":{{"{}":{{}}}}}}"#, project.display())).unwrap();
    std::fs::write(project.join(".mcp.json"), r#"{"mcpServers":{"m":{"command":"m"}}}"#).unwrap();
    std::fs::write(project.join(".vscode/mcp.json"), r#"{"servers":{"v":{"command":"v"}}}"#).unwrap();
    std::fs::create_dir_all(home.join(".gemini/settings.json")).unwrap();
    let scan = scan_of(home);
    let seen: Vec<String> = scan
        .files
        .iter()
        .map(|file| {
            let path = file.path.strip_prefix(home).unwrap().display().to_string();
            let servers = file.servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>().join(",");
            let error = file.error.as_deref().map_or("", |error| error.rsplit(": ").next().unwrap_or(error));
            format!("{} {path} [{servers}] {error}", file.client).trim_end().to_owned()
        })
        .collect();
    insta::assert_snapshot!(seen.join("\n"), @r"
    claude-code .claude.json []
    cursor .cursor/mcp.json [] Expected colon after the string or word in object property
    gemini-cli .gemini/settings.json [] is not a regular file; remove it or put the config there
    claude-code work/.mcp.json [m]
    vscode work/.vscode/mcp.json [v]
    ");
    assert_eq!(scan.files[3].servers[0].project.as_deref(), Some(project.as_path()));
}

#[test]
fn only_a_real_connector_is_the_door() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let ours = home.join("lazaret");
    std::fs::write(&ours, "").unwrap();
    std::os::unix::fs::symlink("/bin/sh", home.join("link")).unwrap();
    std::fs::create_dir(home.join("evil")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", home.join("evil/lazaret")).unwrap();
    let door = |command: &str, args: &str| {
        let text = format!(r#"{{"mcpServers":{{"x":{{"command":"{command}","args":[{args}]}}}}}}"#);
        std::fs::write(home.join(".claude.json"), text).unwrap();
        scan_of(home).files[0].servers[0].door
    };
    let ours = ours.display().to_string();
    assert!(door(&ours, r#""connect","--agent","a@b.c""#));
    assert!(!door(&ours, r#""status""#));
    assert!(!door("/nonexistent/lazaret", r#""connect""#));
    assert!(!door(&format!("{}/evil/lazaret", home.display()), r#""connect""#));
    assert!(!door("sh", r#""connect""#));
    assert!(door(&ours, r#""connect","--run-dir","/run/lazaret""#));
    assert!(!door(&ours, r#""connect","--run-dir","/tmp/another""#));
    assert!(!door(&ours, r#""connect","--run-dir=/tmp/another""#));
    assert!(!door(&ours, r#""connect","--run-dir=/run/lazaret","--run-dir","/tmp/another""#));
    let text = format!(
        r#"{{"mcpServers":{{"x":{{"command":"{ours}","args":["connect"],"env":{{"LAZARET_RUN_DIR":"/tmp/another"}}}}}}}}"#
    );
    std::fs::write(home.join(".claude.json"), text).unwrap();
    assert!(!scan_of(home).files[0].servers[0].door);
    let of = |run_dir: &str| {
        let scan = scan(&[home.into()], &[], Path::new(run_dir));
        scan.files.iter().find(|file| file.path.starts_with(home)).unwrap().servers[0].door
    };
    assert!(of("/tmp/another"), "that is the door of the other instance");
    std::fs::set_permissions(&ours, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    assert!(!door(&ours, r#""connect""#), "anybody could have replaced it");
}

#[test]
fn the_daemon_s_own_url_is_the_door_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (home, run) = (dir.path().join("home"), dir.path().join("run"));
    std::fs::create_dir(&home).unwrap();
    std::fs::create_dir(&run).unwrap();
    let door = |url: &str| {
        let text = format!(r#"{{"mcpServers":{{"x":{{"type":"http","url":"{url}"}}}}}}"#);
        std::fs::write(home.join(".claude.json"), text).unwrap();
        let scan = scan(std::slice::from_ref(&home), &[], &run);
        scan.files.iter().find(|file| file.path.starts_with(&home)).unwrap().servers[0].door
    };
    assert!(!door("http://127.0.0.1:7717/mcp"), "the daemon serves no HTTP");
    std::fs::write(run.join("http.url"), "http://127.0.0.1:7717/mcp\n").unwrap();
    assert!(door("http://127.0.0.1:7717/mcp"));
    for other in [
        "http://127.0.0.1:7718/mcp",
        "https://127.0.0.1:7717/mcp",
        "http://localhost:7717/mcp",
        "http://[::1]:7717/mcp",
        "http://x@127.0.0.1:7717/mcp",
        "http://127.0.0.1.nip.io:7717/mcp",
        "http://127.0.0.2:7717/mcp",
    ] {
        assert!(!door(other), "{other}");
    }
}

#[test]
fn values_of_the_environment_are_never_listed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join(".claude.json"),
        r#"{"mcpServers":{"x":{"command":"x","env":{"API_KEY":"s3cret"}}}}"#,
    )
    .unwrap();
    let text = serde_json::to_string(&scan_of(dir.path())).unwrap();
    assert!(text.contains("API_KEY") && !text.contains("s3cret"), "{text}");
}

#[test]
fn a_server_of_a_config_has_a_launch_definition() {
    let parsed = Format::McpServers
        .parse(r#"{"mcpServers":{"x":{"command":"npx","args":["-y","x"],"env":{"A":"b"}}}}"#)
        .unwrap();
    let launch = parsed.servers[0].launch(Path::new("/")).unwrap().unwrap();
    assert_eq!(launch.configured, ["npx", "-y", "x"]);
    assert_eq!(launch.env["A"], "b");
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_config_or_an_error_with_a_place(text in "[\\[\\]{}:,\"a-c0-9\\n /*='.\\\\é-]{0,60}") {
        let formats = [Format::McpServers, Format::VscodeMcp, Format::VscodeSettings, Format::Zed, Format::Opencode, Format::Codex];
        for format in formats.into_iter().chain([Format::Amp, Format::ClaudePlugins, Format::ClaudePlugin]) {
            for text in [text.clone(), format!("{{\"mcpServers\":{text}}}"), format!("{{\"mcp\":{{\"x\":{text}}}}}")] {
                if let Err(error) = format.parse(&text) {
                    proptest::prop_assert!(error.starts_with("line "), "{}", error);
                }
            }
        }
    }
}

#[test]
fn one_file_cannot_take_the_room_of_all_others() {
    let entries: Vec<String> = (0..1100).map(|n| format!("\"s{n}\":{{\"command\":\"c{n}\"}}")).collect();
    let parsed = Format::McpServers.parse(&format!("{{\"mcpServers\":{{{}}}}}", entries.join(","))).unwrap();
    assert_eq!(parsed.servers.len(), 1024);
    assert!(parsed.error.unwrap().contains("more than 1024 servers"));
}

#[test]
fn the_servers_of_claude_codes_plugins_are_known_with_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (home, flat, inline) = (dir.path(), dir.path().join("p/flat"), dir.path().join("p/inline"));
    std::fs::create_dir_all(home.join(".claude/plugins")).unwrap();
    std::fs::create_dir_all(&flat).unwrap();
    std::fs::create_dir_all(inline.join(".claude-plugin")).unwrap();
    let installed = serde_json::json!({"version": 2, "plugins": {
        "flat@m": [{"scope": "user", "installPath": flat, "version": "1.0.0"}],
        "inline@m": {"installPath": inline},
        "gone@m": [{"installPath": dir.path().join("p/gone")}],
    }});
    std::fs::write(home.join(".claude/plugins/installed_plugins.json"), installed.to_string()).unwrap();
    let command = r#"{"db":{"command":"${CLAUDE_PLUGIN_ROOT}/run","args":["--config","${CLAUDE_PLUGIN_ROOT}/c"]}}"#;
    std::fs::write(flat.join(".mcp.json"), command).unwrap();
    let manifest = format!(r#"{{"name":"inline","mcpServers":{command}}}"#);
    std::fs::write(inline.join(".claude-plugin/plugin.json"), manifest).unwrap();
    let scan = scan_of(home);
    let argvs: Vec<_> = scan.files.iter().flat_map(|file| &file.servers).filter_map(ClientServer::argv).collect();
    let argv = |plugin: &Path| {
        let plugin = plugin.display();
        vec![format!("{plugin}/run"), "--config".to_owned(), format!("{plugin}/c")]
    };
    assert_eq!(argvs, [argv(&flat), argv(&inline)]);
    assert!(scan.files.iter().all(|file| file.error.is_none()), "{scan:?}");
    assert!(scan.files.iter().flat_map(|file| &file.servers).all(|server| !server.dynamic));
}

#[test]
fn amp_and_crush_keep_their_servers_under_names_of_their_own() {
    let amp = r#"{"amp.mcpServers":{"a":{"command":"npx","args":["-y","x"]}},"amp.url":"https://x"}"#;
    insta::assert_snapshot!(parsed(Format::Amp, amp), @"a: npx -y x");
    let crush = r#"{"mcp":{"a":{"type":"stdio","command":"uvx","args":["x"],"disabled":true}}}"#;
    insta::assert_snapshot!(parsed(Format::Opencode, crush), @"a: uvx x disabled");
}

#[test]
fn the_profiles_of_vs_code_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join(".config/Code/User/profiles/-1a2b");
    std::fs::create_dir_all(&profile).unwrap();
    std::fs::write(profile.join("mcp.json"), r#"{"servers":{"v":{"command":"v"}}}"#).unwrap();
    assert_eq!(scan_of(dir.path()).files[0].servers[0].name, "v");
}

#[test]
fn members_that_goose_does_not_read_hide_nothing_that_it_reads() {
    let text =
        "extensions:\n  a: {cmd: evil, command: /bin/true, envs: {A: b}, env: {}, url: 'https://x', disabled: true}\n";
    insta::assert_snapshot!(parsed(Format::Goose, text), @r#"a: evil env {"A": "b"}"#);
}

#[test]
fn goose_names_commands_and_addresses_in_its_own_words_and_its_own_parts_are_none() {
    let text = r#"
GOOSE_PROVIDER: anthropic
extensions:
  developer: {type: builtin, name: developer, enabled: true, bundled: true}
  fetch:
    name: fetch
    type: stdio
    enabled: true
    cmd: uvx
    args: [mcp-server-fetch, --port, 80]
    envs: {TOKEN: s3cret}
    timeout: 300
  off: {type: stdio, cmd: /opt/bin/server, args: [], enabled: false}
  far: {type: streamable_http, uri: "https://mcp.example.com/mcp", enabled: true}
"#;
    insta::assert_snapshot!(parsed(Format::Goose, text), @r#"
    fetch: uvx mcp-server-fetch --port 80 env {"TOKEN": "s3cret"}
    off: /opt/bin/server disabled
    far: https://mcp.example.com/mcp
    "#);
}

#[test]
fn continue_and_vibe_have_lists_and_two_of_one_name_are_two() {
    let text = r#"
name: Assistant
version: 1.0.0
schema: v1
mcpServers:
  - name: SQLite
    command: npx
    args: ["-y", mcp-sqlite, /srv/a.db]
  - name: SQLite
    command: npx
    args: ["-y", mcp-sqlite, /srv/b.db]
  - {name: far, type: sse, url: "https://mcp.example.com/sse"}
  - broken
"#;
    insta::assert_snapshot!(parsed(Format::Continue, text), @r#"
    SQLite: npx -y mcp-sqlite /srv/a.db
    SQLite: npx -y mcp-sqlite /srv/b.db
    far: https://mcp.example.com/sse
    error mcpServers.3: it is no object
    "#);
    let text =
        "[[mcp_servers]]\nname = \"fetch\"\ntransport = \"stdio\"\ncommand = \"uvx\"\nargs = [\"mcp-server-fetch\"]\n";
    insta::assert_snapshot!(parsed(Format::Vibe, text), @"fetch: uvx mcp-server-fetch");
}

#[test]
fn yaml_that_is_broken_or_a_bomb_is_an_error_with_a_place() {
    let broken = Format::Goose.parse("extensions:\n  a: [1\n  b: 2\n").unwrap_err();
    assert!(broken.starts_with("line ") && broken.contains(", column "), "{broken}");
    assert!(Format::Goose.parse("- a\n").unwrap_err().contains("no YAML mapping"));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let of = format!("*a{}", i - 1);
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![of; 10].join(", "));
    }
    let error = Format::Continue.parse(&bomb).unwrap_err();
    assert!(error.starts_with("line "), "{error}");
}
