//! `lazaret status`: a summary for people, everything for scripts.

use serde_json::Value;

use super::args::read::StatusArgs;
use super::instance::Instance;
use super::{CliError, out};
use crate::api::types::StatusView;
use crate::policy::{RateUse, Whose};

pub async fn run(instance: &Instance, args: &StatusArgs) -> Result<(), CliError> {
    let status: StatusView = instance.admin().get("/v1/status").await?;
    if args.json.json {
        return out::object("status", &status);
    }
    out::line(text(&status).trim_end())
}

fn text(status: &StatusView) -> String {
    let mut lines = Vec::new();
    let mut field = |label: &str, value: String| lines.push(format!("{label:<10}{}", out::visible(&value)));
    field("lazaret", format!("{}, pid {}, up {}", status.version, status.pid, span(status.uptime_secs)));
    field("mode", format!("{}: {}", status.mode, meaning(status)));
    field("scope", status.scope.clone());
    let kernel = &status.kernel;
    field(
        "kernel",
        format!("backend {} on {}, hooks proven {}", word(&kernel["backend"]), word(&kernel["kernel"]), proven(kernel)),
    );
    for sentence in strings(&kernel["can"]) {
        field("  can", sentence);
    }
    for sentence in strings(&kernel["cannot"]) {
        field("  cannot", sentence);
    }
    let lost = kernel["lost_events"].as_u64().unwrap_or(0) + kernel["bad_events"].as_u64().unwrap_or(0);
    field("events", format!("{lost} lost; a verdict never depends on an event"));
    if kernel["pinned"].as_bool() == Some(true) {
        field("pinned", "yes: the kernel goes on guarding when the daemon ends".into());
    }
    match &status.docker_error {
        None => field("docker", docker(&status.docker)),
        Some(e) => field("docker", format!("NO SERVER CAN RUN: {e}")),
    }
    let servers = &status.servers;
    field(
        "servers",
        format!(
            "{} approved, {} quarantined, {} denied; {} running",
            servers.approved,
            servers.quarantined,
            servers.denied,
            status.running.len()
        ),
    );
    field("tools", format!("{} callable of {}", status.callable_tools, status.tools.total()));
    field("agents", counts(&status.agents));
    field("shadows", counts(&status.shadows));
    field(
        "clients",
        format!("{} configs; {} entries go around the door", status.client_configs, status.around_the_door),
    );
    for error in &status.client_errors {
        field("  problem", error.clone());
    }
    for change in status.config_changes.iter().take(5) {
        let loud = change["past_the_door"].as_bool() == Some(true);
        field(
            if loud { "  PAST" } else { "  changed" },
            format!("{} {}", word(&change["time"]), word(&change["summary"])),
        );
    }
    for used in status.rates.iter().filter(|used| used.today > 0 || !matches!(used.whose, Whose::Agent(_))) {
        field("rate", format!("{}: {}", used.whose, rate(used)));
    }
    field("policy", policy(&status.policy));
    if let Some(error) = status.policy["refused"]["error"].as_str() {
        field("  REFUSED", format!("the files as they are now; the former policies are in force: {error}"));
    }
    for fenced in status.policy["fenced"].as_array().into_iter().flatten() {
        field("  FENCED", format!("every call of {} is denied: {}", word(&fenced["tool"]), word(&fenced["error"])));
    }
    if status.asks > 0 {
        field("asks", format!("{} calls wait for a human: `lazaret ask list`", status.asks));
    }
    field(
        "sockets",
        format!("{} (agents), {} (operators)", status.mcp_socket.display(), status.admin_socket.display()),
    );
    if let Some(url) = &status.http_url {
        field("http", format!("{url}, {} tokens in force", status.tokens));
    }
    field("state", format!("{}, configured by {}", status.state_dir.display(), status.config.display()));
    field("identity", format!("{} {}", status.daemon_did, status.daemon_fingerprint));
    lines.join("\n")
}

fn meaning(status: &StatusView) -> &'static str {
    match status.mode {
        crate::config::Mode::Observe => "shadow servers are reported, not stopped",
        crate::config::Mode::Hold => "shadow servers are held until a human decides",
        crate::config::Mode::Enforce => "shadow servers are stopped",
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("unknown")
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn proven(kernel: &Value) -> String {
    let hooks = kernel["hooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let proven = hooks.iter().filter(|hook| hook["proven"].as_bool() == Some(true)).count();
    format!("{proven}/{}", hooks.len())
}

fn docker(info: &Value) -> String {
    let engine =
        info["engine"].as_str().filter(|engine| *engine != "Docker").map_or(String::new(), |e| format!("{e} "));
    let open = strings(&info["open_walls"]).join(", ");
    let able = if open.is_empty() { "cages can run".to_owned() } else { format!("NO SERVER CAN RUN: {open}") };
    let mut text = format!("{engine}{} (API {}), {able}", word(&info["version"]), word(&info["api_version"]));
    if info["rootless"].as_bool() == Some(true) {
        text.push_str(", rootless");
    }
    for warning in strings(&info["warnings"]).into_iter().chain(strings(&info["differs"])) {
        text.push_str("; ");
        text.push_str(&warning);
    }
    text
}

fn policy(info: &Value) -> String {
    match info["source"].as_str() {
        Some("files") => format!(
            "{} policies in {} files of {}",
            info["count"],
            info["files"].as_array().map_or(0, Vec::len),
            word(&info["dir"])
        ),
        _ => format!("built in: active agents may call approved tools ({} has no policy)", word(&info["dir"])),
    }
}

/// What was used of a limit, without whose it is.
pub fn rate(used: &RateUse) -> String {
    let mut text = match used.calls_per_day {
        Some(most) => format!("{} of {most} calls today", used.today),
        None => format!("{} calls today", used.today),
    };
    if let (Some(left), Some(burst), Some(per_minute)) = (used.left, used.burst, used.calls_per_minute) {
        text.push_str(&format!("; {left} of {burst} left at once, {per_minute} a minute"));
    }
    text
}

fn counts(by_state: &std::collections::BTreeMap<String, usize>) -> String {
    if by_state.is_empty() {
        return "none".to_owned();
    }
    by_state.iter().map(|(state, n)| format!("{n} {state}")).collect::<Vec<_>>().join(", ")
}

fn span(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_its_two_largest_units() {
        assert_eq!(span(59), "59 s");
        assert_eq!(span(3_700), "1 h 1 min");
        assert_eq!(span(200_000), "2 d 7 h");
    }
}
