//! Why the policies decide as they do, and what would change it.
//!
//! A policy that did not apply is taken apart at its `&&`: the first part that does not hold is what
//! kept it out. Only policies whose head fits the call are told of.

use cedar_policy::{Effect, Policy, PolicyId, PolicySet};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Approval, Facts, Question, Rules};

/// Policies that are told of at most, of each kind.
const MOST_NEAR: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `permit`, `ask` or `deny`.
    pub decision: String,
    pub reason: String,
    /// The policies that decided it.
    pub policies: Vec<String>,
    /// Policies whose head fits the call and whose condition does not hold.
    pub near: Vec<Near>,
    /// What would make it another decision, as sentences.
    pub changes: Vec<String>,
}

/// A policy that would have counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Near {
    pub policy: String,
    /// `permit` or `forbid`.
    pub effect: String,
    /// The first condition that does not hold, as Cedar text.
    pub failed: String,
    /// How many conditions before it hold.
    pub held: usize,
}

impl Rules {
    pub(super) fn explain(&self, facts: &Facts<'_>) -> Explanation {
        let question = match self.question(facts, Approval::None) {
            Ok(question) => question,
            Err(refusal) => {
                let reason = refusal.cause.unwrap_or(refusal.reason);
                let changes = vec![refusal.next_step];
                return Explanation {
                    decision: "deny".into(),
                    reason,
                    policies: Vec::new(),
                    near: Vec::new(),
                    changes,
                };
            }
        };
        let near = self.near(&question);
        let approved = self.judge(facts, Approval::Human);
        let (decision, reason, policies, changes) = match (self.answer(&question), approved) {
            (Ok(grounds), _) => {
                let reason = format!("policy {} permits it and none forbids it", grounds.policies.join(", "));
                let mut changes = vec![
                    format!("`lazaret agent suspend {0}` or `lazaret agent revoke {0}`", facts.agent.address),
                    format!(
                        "`lazaret tool block {}:{}`, or `lazaret server deny {0}`",
                        facts.server.name, facts.tool.name
                    ),
                    "a change of what is pinned: the server's image, or anything in the tool's descriptor".to_owned(),
                ];
                changes.push(format!("a `forbid` for it, or the end of policy {}", grounds.policies.join(", ")));
                changes.extend(
                    near.iter()
                        .filter(|near| near.effect == "forbid")
                        .map(|near| format!("policy {} would forbid it if this held: {}", near.policy, near.failed)),
                );
                ("permit", reason, grounds.policies, changes)
            }
            (Err(without), Ok(with)) if without.cause.is_none() => {
                let changes = vec![format!(
                    "a human's approval (`lazaret ask approve`): then policy {} permits it",
                    with.policies.join(", ")
                )];
                ("ask", without.reason, with.policies, changes)
            }
            (Err(refusal), _) => {
                let mut changes: Vec<String> = near
                    .iter()
                    .filter(|near| near.effect == "permit" && refusal.policies.is_empty())
                    .map(|near| format!("policy {} would permit it if this held: {}", near.policy, near.failed))
                    .collect();
                changes.extend(refusal.policies.iter().map(|policy| {
                    format!(
                        "as long as the condition of the forbid {policy} holds, no permit and no human's approval helps"
                    )
                }));
                if changes.is_empty() {
                    changes.push("a policy that permits it: none whose head fits the call is near".to_owned());
                }
                ("deny", refusal.cause.unwrap_or(refusal.reason), refusal.policies, changes)
            }
        };
        Explanation { decision: decision.into(), reason, policies, near, changes }
    }

    fn near(&self, question: &Question) -> Vec<Near> {
        let mut near: Vec<Near> = self
            .slices
            .sets(&question.at)
            .flat_map(PolicySet::policies)
            .filter_map(|policy| self.failing(question, policy))
            .collect();
        // The nearest first: the one of which most holds.
        near.sort_by(|a, b| b.held.cmp(&a.held).then_with(|| a.policy.cmp(&b.policy)));
        let (mut permits, mut forbids) = (0, 0);
        near.retain(|one| {
            let count = if one.effect == "permit" { &mut permits } else { &mut forbids };
            *count += 1;
            *count <= MOST_NEAR
        });
        near
    }

    /// The first condition of a policy that does not hold; `None` where all do, or the head does not fit.
    fn failing(&self, question: &Question, policy: &Policy) -> Option<Near> {
        let json = policy.to_json().ok()?;
        let mut conditions = Vec::new();
        for condition in json["conditions"].as_array().into_iter().flatten() {
            let unless = condition["kind"] == "unless";
            if unless {
                conditions.push(json!({ "!": { "arg": condition["body"] } }));
            } else {
                conjuncts(&condition["body"], &mut conditions);
            }
        }
        if !self.holds(question, &json, &[]) {
            return None;
        }
        let held = (0..=conditions.len()).take_while(|n| self.holds(question, &json, &conditions[..*n])).count();
        // `held` counts the empty beginning too.
        let failed = conditions.get(held - 1)?;
        Some(Near {
            policy: policy.id().to_string(),
            effect: if policy.effect() == Effect::Permit { "permit" } else { "forbid" }.into(),
            failed: text_of(failed).unwrap_or_else(|| failed.to_string()),
            held: held - 1,
        })
    }

    /// Whether a policy with this head and only these conditions applies.
    fn holds(&self, question: &Question, head: &Value, conditions: &[Value]) -> bool {
        let mut json = head.clone();
        json["effect"] = json!("permit");
        json["conditions"] = conditions.iter().map(|body| json!({ "kind": "when", "body": body })).collect();
        let Ok(policy) = Policy::from_json(Some(PolicyId::new("part")), json) else { return false };
        let Ok(set) = PolicySet::from_policies([policy]) else { return false };
        let response = self.authorizer.is_authorized(&question.request, &set, &question.entities);
        response.decision() == cedar_policy::Decision::Allow
    }
}

/// The parts that `&&` joins, in their order.
fn conjuncts(body: &Value, parts: &mut Vec<Value>) {
    match body.get("&&") {
        Some(both) => {
            conjuncts(&both["left"], parts);
            conjuncts(&both["right"], parts);
        }
        None => parts.push(body.clone()),
    }
}

/// A condition as Cedar writes it.
fn text_of(body: &Value) -> Option<String> {
    let all = json!({ "op": "All" });
    let json = json!({
        "effect": "permit", "principal": all, "action": all, "resource": all,
        "conditions": [{ "kind": "when", "body": body }],
    });
    let text = Policy::from_json(Some(PolicyId::new("part")), json).ok()?.to_cedar()?;
    let text = text.split_once("when")?.1.trim().trim_end_matches(';').trim();
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    Some(inner.split_whitespace().collect::<Vec<_>>().join(" "))
}
