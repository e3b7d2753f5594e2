//! What one decision costs among 1,000 policies: `cargo bench --package lazaret --bench policy`.

use std::fmt::Write as _;
use std::time::Instant;

use lazaret::identity::Evidence;
use lazaret::policy::{Engine, Facts, derive};
use lazaret::proxy::json::Json;
use serde_json::json;

const POLICIES: usize = 1_000;
const ROUNDS: usize = 5_000;

fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, about, typed) in [
        ("by tool", "1,000 policies, each of one tool, 200 tools", false),
        ("typed", "the same, on typed arguments", true),
    ] {
        let mut text = String::new();
        for n in 0..POLICIES {
            let condition = if typed {
                "context.input has path && context.input.path like \"/home/*\""
            } else {
                "context.path_ancestors.contains(\"/home\")"
            };
            let tool = n % 200;
            writeln!(text, "permit (principal, action, resource == Tool::\"fs:tool{tool}\") when {{ {condition} }};")
                .expect("a line");
        }
        std::fs::write(dir.path().join("p.cedar"), &text).expect("a file");
        let engine = Engine::load(dir.path()).expect("the policies load");
        let mut times = measure(&engine);
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 100] as f64 / 1000.0;
        println!("policy decision, {name} ({about}): p50 {:.1} us, p99 {:.1} us", at(50), at(99));
    }
}

/// Nanoseconds of each decision, what is derived from the arguments included.
fn measure(engine: &Engine) -> Vec<u128> {
    let key = "72OYfXUscgXDOC0etGH1Q8bO75b8Zr1gtiAllCNtKhU=";
    let public: lazaret::identity::PublicKey = key.parse().expect("a key");
    let agent = serde_json::from_value(json!({
        "address": "claude@acme.lazaret.local", "did": public.did(), "public_key": key, "fingerprint": "f",
        "fingerprint_spki": "f", "state": "active", "created_at": "2026-01-01T00:00:00Z", "history": [],
    }))
    .expect("an agent");
    let server = serde_json::from_value(json!({
        "name": "fs", "state": "approved", "origin": "operator", "review": null, "decided_pin": null, "history": [],
        "launch": { "source": { "kind": "npm", "package": "fs", "version": null, "bin": null }, "configured": [] },
    }))
    .expect("a server");
    let descriptor = json!({ "name": "tool7", "inputSchema": { "properties": { "path": { "type": "string" } } } });
    let tool = serde_json::from_value(json!({
        "server": "fs", "name": "tool7", "state": "approved", "descriptor": descriptor.to_string(), "digest": "d",
        "history": [],
    }))
    .expect("a tool");
    let arguments = Json::from_value(&json!({ "path": "/home/ann/project/src/main.rs", "head": 20 }));
    let decide = || {
        let since = Instant::now();
        let derived = derive::derive(&arguments);
        let facts = Facts {
            agent: &agent,
            server: &server,
            tool: &tool,
            arguments: &arguments,
            derived: &derived,
            arguments_digest: "sha256:00",
            transport: "unix",
            uid: 1000,
            depth: 1,
            evidence: Evidence::Proven,
            human: None,
        };
        assert!(engine.judge(&facts).is_ok());
        since.elapsed().as_nanos()
    };
    let _warm = (0..200).map(|_| decide()).max();
    (0..ROUNDS).map(|_| decide()).collect()
}
