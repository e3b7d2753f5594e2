//! One call as the log has it, in the order of the five questions: who, for whom, at which depth, by which
//! right, vouched by whom.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Kind, Outcome, Record};

/// The JSON names are a promise (`lazaret.call.v1`). What the log does not say is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallView {
    /// Of the record that holds the decision.
    pub seq: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    pub time: Timestamp,
    pub server: Option<String>,
    pub tool: Option<String>,
    /// `permit` or `deny`.
    pub outcome: Outcome,
    pub who: Who,
    /// Who answers for the top agent.
    pub for_whom: Option<String>,
    pub depth: Option<u64>,
    /// The weakest of the chain.
    pub evidence: Option<String>,
    /// Outermost first; each agent with what its vouch was worth then.
    pub chain: Vec<Value>,
    pub right: Right,
    /// What the vouch was worth then, and whose it was.
    pub vouch: Value,
    pub arguments: Value,
    /// Whether the call was signed by whom the record names; absent where it was denied before anybody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Who {
    pub agent: Option<String>,
    pub did: Option<String>,
    pub fingerprint: Option<String>,
    pub uid: Option<u64>,
    pub pid: Option<u64>,
    pub session: Option<String>,
    /// `unix`, or `http` with the id of the token that proved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What its client says of the part of itself that called.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub asserted: Value,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub measurement: Value,
}

/// What the decision stands on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Right {
    /// The policies that permitted it, or forbade it.
    pub policies: Vec<String>,
    /// Ids of the delegations, outermost first.
    pub delegations: Vec<String>,
    pub capabilities: Vec<String>,
    /// A human's word on this very call.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub approval: Value,
    /// The gate that refused, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

/// What the signature on the call's line is worth, verified by whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    pub verified: bool,
    /// Number of the line in its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line_digest: Option<String>,
    /// Why it is not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    pub seq: u64,
    pub time: Timestamp,
    pub outcome: Outcome,
    pub reason: Option<String>,
    pub duration_us: Option<u64>,
}

impl CallView {
    /// From the records of one call; `None` where none of them is a decision on a call.
    pub fn of(records: &[Record]) -> Option<Self> {
        let decides =
            |record: &&Record| record.kind == Kind::Call || (record.kind == Kind::Denial && record.tool.is_some());
        let decision = records.iter().find(decides)?;
        let detail = &decision.detail;
        let text = |name: &str| detail[name].as_str().map(str::to_owned);
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let chain = detail["chain"].as_array().cloned().unwrap_or_default();
        let delegations = chain.iter().filter_map(|hop| hop["jti"].as_str()).map(str::to_owned).collect();
        let denied = decision.outcome == Outcome::Deny;
        // Revoked after it was permitted.
        let later = records.iter().find(|record| record.kind == Kind::Denial && record.seq > decision.seq);
        let refusal = if denied { Some(decision) } else { later };
        let of_refusal = |name: &str| refusal.and_then(|record| record.detail[name].as_str()).map(str::to_owned);
        let end = records.iter().find(|record| record.kind == Kind::Result).map(|result| End {
            seq: result.seq,
            time: result.time,
            outcome: result.outcome,
            reason: result.reason.clone(),
            duration_us: result.detail["duration_us"].as_u64(),
        });
        Some(Self {
            seq: decision.seq,
            call_id: decision.call_id.clone(),
            time: decision.time,
            server: decision.server.clone(),
            tool: decision.tool.clone(),
            outcome: decision.outcome,
            who: Who {
                agent: decision.agent.clone(),
                did: text("did"),
                fingerprint: text("fingerprint"),
                uid: detail["uid"].as_u64(),
                pid: detail["pid"].as_u64(),
                session: text("session"),
                transport: text("transport"),
                token: text("token"),
                asserted: detail["asserted"].clone(),
                measurement: detail["measurement"].clone(),
            },
            for_whom: text("human"),
            depth: detail["depth"].as_u64(),
            evidence: text("evidence"),
            right: Right {
                policies: texts(&detail["policies"]),
                delegations,
                capabilities: texts(&detail["capabilities"]),
                approval: detail["approval"].clone(),
                gate: of_refusal("gate"),
                reason: refusal.and_then(|record| record.reason.clone()),
                told: of_refusal("told"),
                limit: of_refusal("limit"),
            },
            chain,
            vouch: detail["vouch"].clone(),
            arguments: detail["arguments"].clone(),
            signed: None,
            end,
        })
    }
}
