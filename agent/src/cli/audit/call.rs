//! One call on one screen: the five questions and their answers.

use serde_json::Value;

use crate::audit::{CallView, Outcome, Signed};
use crate::cli::{CliError, out, when};

pub fn print(call: &CallView) -> Result<(), CliError> {
    lines(call).into_iter().try_for_each(|(label, text)| out::field(label, text))
}

fn lines(call: &CallView) -> Vec<(&'static str, String)> {
    let or = |text: &Option<String>, otherwise: &str| text.clone().unwrap_or_else(|| otherwise.to_owned());
    let number = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let mut lines = Vec::new();
    let mut say = |label: &'static str, text: String| lines.push((label, text));
    let target = format!("{}:{}", or(&call.server, "?"), or(&call.tool, "?"));
    let id = call.call_id.as_ref().map(|id| format!(", call {id}")).unwrap_or_default();
    say("call", format!("{target} on {}, record {}{id}", when(call.time), call.seq));
    say("verdict", verdict(call));
    let who = &call.who;
    say("who", format!("{}, {}", or(&who.agent, "unknown"), or(&who.did, "no did on record")));
    let key = or(&who.fingerprint, "not on record");
    let by = match (&who.pid, &who.token) {
        (None, Some(token)) => format!("over {} by token {token}", or(&who.transport, "http")),
        (pid, _) => format!("pid {}", number(*pid)),
    };
    say("", format!("key {key}, uid {}, {by}", number(who.uid)));
    if !who.asserted.is_null() {
        say("", format!("its client says: {}", value(&who.asserted)));
    }
    if !who.measurement.is_null() {
        say("", format!("measured: {}", value(&who.measurement)));
    }
    say("for whom", or(&call.for_whom, "nobody is named who answers for it"));
    let evidence = call.evidence.as_ref().map(|weakest| format!(", known as {weakest}")).unwrap_or_default();
    say("depth", format!("{}{evidence}", number(call.depth)));
    if !call.chain.is_empty() {
        say("", format!("0 {}", or(&call.for_whom, "a human")));
    }
    for (n, hop) in call.chain.iter().enumerate() {
        say("", format!("{} {}", n + 1, agent(hop)));
    }
    for (n, text) in rights(call).into_iter().enumerate() {
        say(if n == 0 { "by right" } else { "" }, text);
    }
    for (n, text) in vouches(call).into_iter().enumerate() {
        say(if n == 0 { "vouched" } else { "" }, text);
    }
    if let Some(signed) = &call.signed {
        say("signed", signature(signed, who.token.is_some()));
    }
    lines
}

fn verdict(call: &CallView) -> String {
    let right = &call.right;
    let why =
        |gate: &String| format!(" by the gate {gate}: {}", right.reason.as_deref().unwrap_or("no reason on record"));
    let why = right.gate.as_ref().map(why).unwrap_or_default();
    if call.outcome == Outcome::Deny {
        return format!("denied{why}");
    }
    let end = match &call.end {
        None => "no end on record".to_owned(),
        Some(end) => {
            let reason = end.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let took = end.duration_us.map(|us| format!(" after {}.{} ms", us / 1000, us % 1000 / 100));
            format!("ended {}{}{reason}", end.outcome, took.unwrap_or_default())
        }
    };
    if why.is_empty() { format!("permitted, {end}") } else { format!("permitted, then revoked{why}; {end}") }
}

fn rights(call: &CallView) -> Vec<String> {
    let right = &call.right;
    let mut all = Vec::new();
    if !right.policies.is_empty() {
        all.push(format!("policy {}", right.policies.join(", ")));
    }
    if !right.delegations.is_empty() {
        all.push(format!("delegation {}", right.delegations.join(", then ")));
        all.push(format!("which grants {}", right.capabilities.join(", ")));
    }
    if let Some(limit) = &right.limit {
        all.push(format!("rate limit of {limit}"));
    }
    if !right.approval.is_null() {
        all.push(format!("approval {}", value(&right.approval)));
    }
    if all.is_empty() {
        all.push("none".into());
    }
    all
}

/// Of each agent in the chain, where there are several.
fn vouches(call: &CallView) -> Vec<String> {
    let several = call.chain.iter().filter(|hop| hop["vouch"].is_object()).count() > 1;
    let own = |hop: &Value| Some(format!("{}: {}", hop["address"].as_str()?, vouch(&hop["vouch"])));
    if several { call.chain.iter().filter_map(own).collect() } else { vec![vouch(&call.vouch)] }
}

fn signature(signed: &Signed, by_token: bool) -> String {
    match (&signed.line, &signed.why) {
        _ if by_token && !signed.verified => "nobody signed the call itself: over HTTP the token proves it".to_owned(),
        (Some(line), _) if signed.verified => format!("line {line} of its session, verified with the agent's key"),
        (_, why) => format!("NOT verified: {}", why.as_deref().unwrap_or("nothing is known of it")),
    }
}

fn agent(hop: &Value) -> String {
    let evidence = hop["evidence"].as_str().unwrap_or("unknown");
    match (hop["address"].as_str(), hop["jti"].as_str()) {
        (Some(address), Some(jti)) => format!("{address} ({evidence}, by delegation {jti})"),
        (Some(address), None) => format!("{address} ({evidence})"),
        (None, _) => {
            let kind = hop["agent_type"].as_str().unwrap_or("sub-agent");
            let id = hop["agent_id"].as_str().unwrap_or("without an id");
            format!("{kind} {id} ({evidence}, said by {})", hop["said_by"].as_str().unwrap_or("its client"))
        }
    }
}

fn vouch(vouch: &Value) -> String {
    let Some(state) = vouch["state"].as_str() else { return value(vouch) };
    let member = |name: &str| vouch[name].as_str();
    match member("by") {
        None => state.to_owned(),
        Some(by) => {
            let key = member("key").map(|key| format!(" with {key}")).unwrap_or_default();
            let at = member("at").map(|at| format!(" on {at}")).unwrap_or_default();
            let until = member("not_after").map(|end| format!(", until {end}")).unwrap_or_default();
            format!("{state}, by {by}{key}{at}{until}")
        }
    }
}

fn value(json: &Value) -> String {
    match json {
        Value::Null => "not on record".into(),
        Value::String(text) => text.clone(),
        Value::Object(members) => {
            members.iter().map(|(name, member)| format!("{name} {}", value(member))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::audit::{Entry, Kind};

    fn shown(records: &[(Entry, u64)]) -> String {
        let records: Vec<_> =
            records.iter().map(|(entry, seq)| entry.clone().numbered(*seq, jiff::Timestamp::UNIX_EPOCH)).collect();
        let call = CallView::of(&records).unwrap();
        lines(&call).iter().map(|(label, text)| format!("{label:<9}{text}")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_call_of_a_sub_agent_answers_all_five_questions() {
        let detail = json!({
            "session": "s", "did": "did:key:z6Mk", "fingerprint": "SHA256:abc", "uid": 1000, "pid": 42, "human": "ann",
            "depth": 3, "evidence": "asserted", "vouch": {"state": "valid", "by": "ann@x", "at": "2026-01-01T00:00:00Z"}, "policies": ["builtin"], "capabilities": ["fs:read"],
            "chain": [
                {"address": "top@x.y", "did": "d1", "evidence": "proven"},
                {"address": "sub@x.y", "did": "d2", "jti": "0f", "evidence": "proven"},
                {"agent_type": "Explore", "agent_id": "a1", "said_by": "claude-code", "evidence": "asserted"},
            ],
        });
        let call =
            |kind, outcome| Entry::new(kind, outcome, "sub@x.y").agent("sub@x.y").server("fs").tool("read").call("c1");
        let intent = call(Kind::Call, Outcome::Permit).detail(detail.clone());
        let result = call(Kind::Result, Outcome::Ok).detail(json!({"duration_us": 12_345}));
        insta::assert_snapshot!(shown(&[(intent.clone(), 7), (result, 8)]), @r"
        call     fs:read on 1970-01-01 00:00:00Z, record 7, call c1
        verdict  permitted, ended ok after 12.3 ms
        who      sub@x.y, did:key:z6Mk
                 key SHA256:abc, uid 1000, pid 42
        for whom ann
        depth    3, known as asserted
                 0 ann
                 1 top@x.y (proven)
                 2 sub@x.y (proven, by delegation 0f)
                 3 Explore a1 (asserted, said by claude-code)
        by right policy builtin
                 delegation 0f
                 which grants fs:read
        vouched  valid, by ann@x on 2026-01-01T00:00:00Z
        ");
        let mut denied = detail;
        denied["gate"] = json!("revocation");
        let denial = call(Kind::Denial, Outcome::Deny).reason("it was revoked").detail(denied);
        let result = call(Kind::Result, Outcome::Unknown).reason("revoked during the call");
        let text = shown(&[(intent, 7), (denial, 8), (result, 9)]);
        let verdict =
            "permitted, then revoked by the gate revocation: it was revoked; ended unknown (revoked during the call)";
        assert!(text.contains(verdict), "{text}");
    }

    #[test]
    fn an_old_or_thin_record_says_what_is_not_on_record() {
        let denial = Entry::new(Kind::Denial, Outcome::Deny, "a@x.y").server("fs").tool("read").reason("no such tool");
        let text = shown(&[(denial.detail(json!({"gate": "routing"})), 3)]);
        for part in
            ["denied by the gate routing: no such tool", "key not on record", "by right none", "vouched  not on record"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let other = Entry::new(Kind::Admin, Outcome::Ok, "daemon").numbered(1, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(CallView::of(&[other]), None);
        assert_eq!(CallView::of(&[]), None);
    }
}
