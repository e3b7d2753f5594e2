//! Eight real servers, four of npm and four of PyPI, answer from the cage as they do bare.
//!
//! Bare is the very image that was reviewed, run by Docker as it comes, with none of the cage: the same version to the
//! byte, so that what differs is the cage's doing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use lazaret_tests::host::{self, House, Needs, Peer, text};
use serde_json::Value;
use serde_json::value::RawValue;

const AGENT: &str = "eight@ann.lazaret.local";
/// Builds that run at the same time: each is mostly one package manager.
const AT_ONCE: usize = 2;

struct Server {
    name: &'static str,
    /// As `server add` takes it.
    source: &'static [&'static str],
    /// Where the server's data lies in the cage; a loosening, writable.
    data: Option<&'static str>,
    env: &'static [&'static str],
    /// The command, or arguments.
    args: &'static [&'static str],
    tools: usize,
    calls: &'static [(&'static str, &'static str)],
}

const PLAIN: Server = Server { name: "", source: &[], data: None, env: &[], args: &[], tools: 0, calls: &[] };

const EIGHT: [Server; 8] = [
    Server {
        name: "everything",
        source: &["--npm", "@modelcontextprotocol/server-everything@2026.8.31"],
        tools: 13,
        calls: &[
            ("echo", r#"{"message":"grüße \u0001 \ud83d\ude00"}"#),
            ("get-sum", r#"{"a":1.50,"b":2}"#),
            ("get-structured-content", r#"{"location":"Chicago"}"#),
            ("get-annotated-message", r#"{"messageType":"debug","includeImage":false}"#),
            ("get-resource-links", r#"{"count":2}"#),
        ],
        ..PLAIN
    },
    Server {
        name: "filesystem",
        source: &["--npm", "@modelcontextprotocol/server-filesystem@2026.8.31"],
        data: Some("/data"),
        args: &["/data"],
        tools: 14,
        calls: &[
            ("list_allowed_directories", "{}"),
            ("write_file", r#"{"path":"/data/new/../note.txt","content":"one\ntwo\n"}"#),
            (
                "edit_file",
                r#"{"path":"/data/note.txt","edits":[{"oldText":"two","newText":"three \u00fc"}],"dryRun":false}"#,
            ),
            ("read_text_file", r#"{"path":"/data/note.txt","head":2}"#),
            ("create_directory", r#"{"path":"/data/deep"}"#),
            ("move_file", r#"{"source":"/data/note.txt","destination":"/data/deep/note.txt"}"#),
            ("directory_tree", r#"{"path":"/data/deep"}"#),
            ("read_text_file", r#"{"path":"/etc/passwd"}"#),
            ("read_text_file", r#"{"path":"/data/../etc/passwd"}"#),
        ],
        ..PLAIN
    },
    Server {
        name: "memory",
        source: &["--npm", "@modelcontextprotocol/server-memory@2026.8.31"],
        data: Some("/data"),
        env: &["MEMORY_FILE_PATH=/data/memory.jsonl"],
        tools: 9,
        calls: &[
            ("create_entities", r#"{"entities":[{"name":"Ann","entityType":"person","observations":["likes 1.0"]}]}"#),
            ("add_observations", r#"{"observations":[{"entityName":"Ann","contents":["and tea"]}]}"#),
            ("search_nodes", r#"{"query":"tea"}"#),
            ("read_graph", "{}"),
            ("add_observations", r#"{"observations":[{"entityName":"Nobody","contents":["x"]}]}"#),
        ],
        ..PLAIN
    },
    Server {
        name: "thinking",
        source: &["--npm", "@modelcontextprotocol/server-sequential-thinking@2026.8.31"],
        tools: 1,
        calls: &[
            (
                "sequentialthinking",
                r#"{"thought":"first","nextThoughtNeeded":true,"thoughtNumber":1,"totalThoughts":2}"#,
            ),
            (
                "sequentialthinking",
                r#"{"thought":"last","nextThoughtNeeded":false,"thoughtNumber":2,"totalThoughts":2}"#,
            ),
        ],
        ..PLAIN
    },
    Server {
        name: "time",
        source: &["--pypi", "mcp-server-time==2026.10.19"],
        tools: 2,
        calls: &[
            ("convert_time", r#"{"source_timezone":"Europe/Berlin","time":"12:30","target_timezone":"Asia/Tokyo"}"#),
            ("convert_time", r#"{"source_timezone":"Nowhere","time":"12:30","target_timezone":"Asia/Tokyo"}"#),
            ("get_current_time", r#"{"timezone":"Mars/Olympus"}"#),
        ],
        ..PLAIN
    },
    Server {
        name: "git",
        source: &["--pypi", "mcp-server-git==2026.10.19"],
        data: Some("/repo"),
        args: &["--repository", "/repo"],
        tools: 12,
        calls: &[
            ("git_status", r#"{"repo_path":"/repo"}"#),
            ("git_log", r#"{"repo_path":"/repo","max_count":5}"#),
            ("git_diff_unstaged", r#"{"repo_path":"/repo"}"#),
            ("git_add", r#"{"repo_path":"/repo","files":["a.txt"]}"#),
            ("git_diff_staged", r#"{"repo_path":"/repo"}"#),
            ("git_reset", r#"{"repo_path":"/repo"}"#),
            ("git_create_branch", r#"{"repo_path":"/repo","branch_name":"side"}"#),
            ("git_branch", r#"{"repo_path":"/repo","branch_type":"local"}"#),
            ("git_show", r#"{"repo_path":"/repo","revision":"HEAD"}"#),
            ("git_log", r#"{"repo_path":"/elsewhere"}"#),
        ],
        ..PLAIN
    },
    Server {
        name: "fetch",
        source: &["--pypi", "mcp-server-fetch==2026.10.24"],
        tools: 1,
        // Without a network, both have to say so alike.
        calls: &[
            ("fetch", r#"{"url":"http://127.0.0.1:9/"}"#),
            ("fetch", r#"{"url":"not an address"}"#),
            ("fetch", r#"{"max_length":1}"#),
        ],
        ..PLAIN
    },
    Server {
        name: "sqlite",
        data: Some("/data"),
        // As a client's config has it, with what this server's own requirements forget to say.
        args: &["uvx", "--with", "mcp<2", "mcp-server-sqlite@2025.4.25", "--db-path", "/data/test.db"],
        tools: 6,
        calls: &[
            ("create_table", r#"{"query":"CREATE TABLE t (a INTEGER, b TEXT)"}"#),
            ("write_query", r#"{"query":"INSERT INTO t VALUES (1, 'grüße'), (2, NULL)"}"#),
            ("read_query", r#"{"query":"SELECT a, b, a / 2.0 AS half FROM t ORDER BY a"}"#),
            ("list_tables", "{}"),
            ("describe_table", r#"{"table_name":"t"}"#),
            ("read_query", r#"{"query":"DROP TABLE t"}"#),
        ],
        ..PLAIN
    },
];

#[test]
fn the_eight_real_servers_answer_from_their_cages_as_they_do_bare() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.write_config("[proxy]\nexpose = \"direct\"\n");
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    let next = Mutex::new(EIGHT.iter());
    let worker = || {
        while let Some(server) = { next.lock().expect("no worker panics in here").next() } {
            answers_as_bare(&house, server);
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(worker))));

    // All at once behind one door.
    let mut door = house.connect(AGENT);
    let listed = tools(&door.request("tools/list", "{}"));
    assert_eq!(listed.len(), EIGHT.iter().map(|server| server.tools).sum::<usize>(), "{:?}", listed.keys());
    assert_eq!(house.containers().len(), EIGHT.len(), "each in a container of its own");
    house.stop();
    assert_eq!(house.containers(), Vec::<String>::new());
}

fn answers_as_bare(house: &House, server: &Server) {
    let name = server.name;
    let data = server.data.map(|inside| (data(house, name, "cage"), data(house, name, "bare"), inside));
    let mount = data.as_ref().map(|(caged, _, inside)| format!("{}:{inside}:rw", caged.display()));
    let mut add = vec!["server", "add", name];
    add.extend(server.source);
    add.extend(mount.iter().flat_map(|mount| ["--mount", mount]));
    add.extend(server.env.iter().flat_map(|env| ["--env", env]));
    if !server.args.is_empty() {
        add.push("--");
        add.extend(server.args);
    }
    house.ok(&add);
    house.ok(&["server", "review", name]);
    let reviewed = house.json(&["server", "show", name, "--json"])["servers"][0].clone();
    assert_eq!(reviewed["state"], "quarantined", "{name}");
    house.ok(&["server", "approve", name, "--yes"]);

    let mut bare = Peer::start(&mut bare(server, &reviewed, data.as_ref().map(|(_, bare, at)| (bare.as_path(), *at))));
    let mut door = house.connect(AGENT);
    let expected = tools(&bare.request("tools/list", "{}"));
    assert_eq!(expected.len(), server.tools, "{name}: {:?}", expected.keys());
    let listed = tools(&door.request("tools/list", "{}"));
    for (tool, descriptor) in expected {
        let named = descriptor.replacen(&format!(r#""name":"{tool}""#), &format!(r#""name":"{name}__{tool}""#), 1);
        assert_eq!(listed.get(&format!("{name}__{tool}")), Some(&named), "{name}:{tool} is listed otherwise");
    }
    for (tool, arguments) in server.calls {
        let expected = answer(&mut bare, tool, arguments);
        assert_eq!(answer(&mut door, &format!("{name}__{tool}"), arguments), expected, "{name}: {tool} {arguments}");
    }
}

/// The result or the error, exactly as it came.
fn answer(peer: &mut Peer, tool: &str, arguments: &str) -> String {
    let line = peer.request("tools/call", &format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#));
    let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&line).expect("an answer is an object");
    let said = members.get("result").or_else(|| members.get("error"));
    said.unwrap_or_else(|| panic!("{tool}: neither result nor error: {line}")).get().to_owned()
}

/// Each tool's descriptor as it came, by name.
fn tools(answer: &str) -> BTreeMap<String, String> {
    let result: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&host::result_of(answer)).expect("a result is an object");
    let tools: Vec<Box<RawValue>> = serde_json::from_str(result["tools"].get()).expect("tools are a list");
    let named = |tool: &RawValue| {
        let descriptor: Value = serde_json::from_str(tool.get()).expect("a tool is an object");
        descriptor["name"].as_str().expect("a tool has a name").to_owned()
    };
    tools.iter().map(|tool| (named(tool), tool.get().to_owned())).collect()
}

/// The image of the review, with its command, as Docker runs anything.
fn bare(server: &Server, reviewed: &Value, data: Option<(&Path, &str)>) -> Command {
    let review = &reviewed["review"];
    let mut command = host::docker(Path::new(SOCKET));
    command.args(["run", "--rm", "--interactive", "--network", "none", "--env", "HOME=/tmp"]);
    // The image's own label would make it a container of the house.
    command.args(["--label", "lazaret.instance=bare"]);
    for env in server.env {
        command.args(["--env", env]);
    }
    if let Some((host, inside)) = data {
        command.arg("--volume").arg(format!("{}:{inside}", host.display()));
    }
    command.arg(review["image_id"].as_str().unwrap_or_else(|| panic!("{}: no image: {review:#}", server.name)));
    let argv = review["argv"].as_array().unwrap_or_else(|| panic!("{}: no command: {review:#}", server.name));
    command.args(argv.iter().filter_map(Value::as_str));
    command
}

const SOCKET: &str = "/var/run/docker.sock";
const BASE: &str = "lazaret/base:1";
/// Two commits and a change, the same to the byte each time.
const REPOSITORY: &str = "set -eu; cd /repo; git init -q -b main; echo one > a.txt; git add a.txt; git commit -q -m first; \
                          echo two >> a.txt; git commit -q -a -m second; echo three >> a.txt";

/// A directory that the cage's user may write to; one with a repository for git.
fn data(house: &House, server: &str, which: &str) -> PathBuf {
    let path = house.path(&format!("{server}-{which}"));
    std::fs::create_dir(&path).expect("a directory can be made in the house");
    std::os::unix::fs::chown(&path, Some(65534), Some(65534)).expect("root gives away what is its own");
    if server == "git" {
        let mut command = host::docker(Path::new(SOCKET));
        command.args(["run", "--rm", "--network", "none", "--user", "65534:65534", "--env", "HOME=/tmp"]);
        for who in ["AUTHOR", "COMMITTER"] {
            let values = [("NAME", "Ann"), ("EMAIL", "ann@lazaret.local"), ("DATE", "2026-01-02T03:04:05Z")];
            for (what, value) in values {
                command.arg("--env").arg(format!("GIT_{who}_{what}={value}"));
            }
        }
        command.arg("--volume").arg(format!("{}:/repo", path.display()));
        let made = command.args([BASE, "sh", "-c", REPOSITORY]).output().expect("the docker client can be run");
        assert!(made.status.success(), "the repository was not made: {}", text(&made.stderr));
    }
    path
}
