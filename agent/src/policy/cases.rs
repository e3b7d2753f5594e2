//! Test cases of policies: calls that are described, and what the policies are to say of them.
//!
//! `*.test.toml` beside the policies. No daemon, no agent and no tool is needed: a case describes all
//! three, and a `[[tool]]` gives the `inputSchema` that policies on arguments are held against.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::engine::{Engine, Facts, Ruling, tool_id};
use super::{PolicyError, derive};
use crate::admission::{AdmissionState, Server, Tool, pins};
use crate::config::line_column;
use crate::identity::{Agent, Evidence, PublicKey};
use crate::proxy::json::Json;

/// Any key: policies see what the case says, and nobody signs anything with it.
const KEY: &str = "72OYfXUscgXDOC0etGH1Q8bO75b8Zr1gtiAllCNtKhU=";
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    #[error("cannot read the test cases {path}: {source}; check that the file is readable")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot read the test cases {path}: the file is longer than 1 MiB; split it")]
    TooLong { path: PathBuf },
    #[error("{path}:{line}:{column}: {message}; correct the test case")]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
    #[error("{path}: the case {case:?} describes no call: {cause}; correct the test case")]
    Call { path: PathBuf, case: String, cause: String },
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    Permit,
    Ask,
    Deny,
}

/// One file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    #[serde(default)]
    tool: Vec<ToolEntry>,
    #[serde(default)]
    case: Vec<Case>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolEntry {
    server: String,
    name: String,
    /// JSON text, as the server writes it.
    input_schema: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default = "an_agent")]
    agent: String,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default = "none")]
    vouch: String,
    #[serde(default = "active")]
    state: String,
    #[serde(default = "a_uid")]
    uid: u32,
    #[serde(default = "at_the_top")]
    depth: u32,
    #[serde(default = "proven")]
    evidence: Evidence,
    server: String,
    /// The npm package that the server is.
    #[serde(default)]
    package: Option<String>,
    tool: String,
    #[serde(default)]
    arguments: Option<toml::Table>,
    /// JSON text, where TOML cannot say it.
    #[serde(default)]
    arguments_json: Option<String>,
    expect: Expect,
    /// A policy that must be among those that decide.
    #[serde(default)]
    policy: Option<String>,
}

fn an_agent() -> String {
    "agent@test.lazaret.local".into()
}

fn none() -> String {
    "none".into()
}

fn active() -> String {
    "active".into()
}

fn at_the_top() -> u32 {
    1
}

fn proven() -> Evidence {
    Evidence::Proven
}

fn a_uid() -> u32 {
    1000
}

/// What came of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub file: PathBuf,
    pub case: String,
    pub passed: bool,
    pub expected: Expect,
    pub decision: Expect,
    /// The policies that decided.
    pub policies: Vec<String>,
    /// Why it is not permitted, and why the case failed.
    pub reason: Option<String>,
}

/// Runs every `*.test.toml` of `dir` against the policies of `dir`, or of `policies`.
pub fn run(policies: &Path, dir: &Path) -> Result<Vec<Outcome>, CaseError> {
    let engine = Engine::load(policies)?;
    let mut outcomes = Vec::new();
    for path in files(dir)? {
        let read = |source| CaseError::Read { path: path.clone(), source };
        if std::fs::metadata(&path).map_err(read)?.len() > MAX_FILE {
            return Err(CaseError::TooLong { path });
        }
        let text = std::fs::read_to_string(&path).map_err(read)?;
        outcomes.extend(run_file(&engine, &path, &text)?);
    }
    Ok(outcomes)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, CaseError> {
    let failed = |source| CaseError::Read { path: dir.into(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".test.toml") && !name.starts_with('.') {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

pub fn parse(path: &Path, text: &str) -> Result<CaseFile, CaseError> {
    toml::from_str(text).map_err(|e| {
        let (line, column) = e.span().map_or((1, 1), |span| line_column(text, span.start));
        CaseError::Syntax { path: path.into(), line, column, message: e.message().trim().replace('\n', ", ") }
    })
}

pub fn run_file(engine: &Engine, path: &Path, text: &str) -> Result<Vec<Outcome>, CaseError> {
    let file = parse(path, text)?;
    let tools = file
        .tool
        .iter()
        .map(|entry| entry.tool())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| CaseError::Call { path: path.into(), case: "[[tool]]".into(), cause })?;
    // A policy that does not fit the tool is the policy's fault, not the case's.
    engine.check(&tools)?;
    let run = |case: &Case| {
        case.run(engine, path, &tools).map_err(|cause| CaseError::Call {
            path: path.into(),
            case: case.name.clone(),
            cause,
        })
    };
    file.case.iter().map(run).collect()
}

impl ToolEntry {
    fn tool(&self) -> Result<Tool, String> {
        let schema = Json::parse(&self.input_schema, 64).map_err(|e| format!("input_schema of {}: {e}", self.name))?;
        let descriptor = Json::object([("name", Json::string(self.name.as_str())), ("inputSchema", schema)]);
        tool(&self.server, &self.name, &descriptor)
    }
}

fn tool(server: &str, name: &str, descriptor: &Json) -> Result<Tool, String> {
    let state = AdmissionState::Approved.to_string();
    let text = descriptor.to_text();
    serde_json::from_value(json!({
        "server": server, "name": name, "state": state, "descriptor": text,
        "digest": pins::arguments_digest(descriptor), "history": [],
    }))
    .map_err(|e| e.to_string())
}

impl Case {
    fn run(&self, engine: &Engine, path: &Path, tools: &[Tool]) -> Result<Outcome, String> {
        let (agent, server) = (self.agent()?, self.server()?);
        let arguments = self.arguments()?;
        let known = tools.iter().find(|tool| tool.server == self.server && tool.name == self.tool).cloned();
        let tool = match known {
            Some(tool) => tool,
            None => tool(&self.server, &self.tool, &Json::object::<&str>([]))?,
        };
        let facts = Facts {
            agent: &agent,
            server: &server,
            tool: &tool,
            arguments: &arguments,
            derived: &derive::derive(&arguments),
            arguments_digest: &pins::arguments_digest(&arguments),
            transport: "unix",
            uid: self.uid,
            depth: self.depth,
            evidence: self.evidence,
            human: self.owner.as_deref(),
        };
        let (decision, policies, reason) = match engine.rule(&facts) {
            Ruling::Permit(grounds) => (Expect::Permit, grounds.policies, None),
            Ruling::Ask { without, with } => {
                let mut policies = without.policies;
                policies.extend(with.policies);
                (Expect::Ask, policies, Some(without.reason))
            }
            Ruling::Deny(refusal) => (Expect::Deny, refusal.policies, Some(refusal.cause.unwrap_or(refusal.reason))),
        };
        let named = self.policy.as_ref().is_none_or(|policy| policies.contains(policy));
        let reason = if named {
            reason
        } else {
            Some(format!("policy {} did not decide it", self.policy.as_deref().unwrap_or_default()))
        };
        Ok(Outcome {
            file: path.into(),
            case: self.name.clone(),
            passed: named && decision == self.expect,
            expected: self.expect,
            decision,
            policies,
            reason,
        })
    }

    fn agent(&self) -> Result<Agent, String> {
        let key: PublicKey = KEY.parse().map_err(|e| format!("{e}"))?;
        serde_json::from_value(json!({
            "address": self.agent, "did": key.did(), "public_key": KEY, "fingerprint": key.fingerprint_raw(),
            "fingerprint_spki": key.fingerprint_spki(), "state": self.state, "owner": self.owner, "vouch": self.vouch,
            "created_at": "2026-01-01T00:00:00Z", "history": [],
        }))
        .map_err(|e| format!("its agent: {e}"))
    }

    fn server(&self) -> Result<Server, String> {
        if self.server.is_empty() || self.server.contains(':') {
            return Err(format!("{} is no server's name", tool_id(&self.server, &self.tool)));
        }
        let package = self.package.as_deref().unwrap_or(&self.server);
        serde_json::from_value(json!({
            "name": self.server, "state": "approved", "origin": "operator", "review": null, "decided_pin": null,
            "history": [], "launch": {
                "source": { "kind": "npm", "package": package, "version": null, "bin": null }, "configured": [],
            },
        }))
        .map_err(|e| format!("its server: {e}"))
    }

    fn arguments(&self) -> Result<Json, String> {
        match (&self.arguments, &self.arguments_json) {
            (Some(_), Some(_)) => Err("it has `arguments` and `arguments_json`".into()),
            (None, Some(text)) => Json::parse(text, 64).map_err(|e| e.to_string()),
            (Some(table), None) => {
                serde_json::to_value(table).map(|value| Json::from_value(&value)).map_err(|e| e.to_string())
            }
            (None, None) => Ok(Json::object::<&str>([])),
        }
    }
}

#[cfg(test)]
mod tests;
