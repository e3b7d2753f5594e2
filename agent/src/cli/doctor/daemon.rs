//! What the daemon says of itself, and Docker, which is asked directly.

use serde_json::Value;

use super::Check;
use crate::api::client::ClientError;
use crate::api::types::StatusView;
use crate::cli::instance::Instance;
use crate::config::Mode;
use crate::sandbox::{DockerInfo, Sandbox};

pub async fn checks(instance: &Instance) -> Vec<Check> {
    let mut checks = match instance.admin().get::<StatusView>("/v1/status").await {
        Ok(status) => guard(&status),
        Err(e @ ClientError::Unreachable { .. }) => {
            vec![Check::fail(
                "daemon",
                e.to_string(),
                "`lazaret daemon`, or `systemctl start lazaret`; until then only what is pinned guards",
            )]
        }
        Err(ClientError::Refused(body)) => vec![Check::warn("daemon", body.message, "run this as an operator")],
        Err(e) => vec![Check::warn("daemon", e.to_string(), "run `sudo lazaret doctor`")],
    };
    checks.extend(docker(instance).await);
    checks
}

fn guard(status: &StatusView) -> Vec<Check> {
    let mut checks = vec![Check::ok("daemon", format!("{} answers, pid {}", status.version, status.pid))];
    if status.version != env!("CARGO_PKG_VERSION") {
        checks.push(Check::warn(
            "version",
            format!("the daemon is {}, this is {}", status.version, env!("CARGO_PKG_VERSION")),
            "restart the daemon",
        ));
    }
    checks.push(backend(&status.kernel));
    checks.extend(hooks(&status.kernel));
    let lost = status.kernel["lost_events"].as_u64().unwrap_or(0);
    if lost > 0 {
        checks.push(Check::warn(
            "events",
            format!("{lost} events were lost; their verdicts stood"),
            "see what floods the host with spawns",
        ));
    }
    checks.extend(policies(&status.policy));
    checks.push(match status.mode {
        Mode::Observe => Check::warn(
            "mode",
            "observe: shadow servers are reported and run on",
            "when `lazaret shadow list` holds no surprise any more, set [kernel] mode = \"enforce\"",
        ),
        mode => Check::ok("mode", mode.to_string()),
    });
    checks.push(match status.scope.as_str() {
        "host" => Check::ok("scope", "the whole host"),
        scope => Check::warn(
            "scope",
            format!("{scope}: nothing outside of it is judged"),
            "set [kernel] scope = \"host\" to guard everything",
        ),
    });
    checks
}

/// What the daemon made of the policy files, where that is not all of it.
fn policies(policy: &Value) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(error) = policy["refused"]["error"].as_str() {
        checks.push(Check::fail(
            "policies in force",
            format!("the former ones: the files as they are now were refused: {error}"),
            "correct the files; they are read again when they change",
        ));
    }
    for fenced in policy["fenced"].as_array().into_iter().flatten() {
        let text = |key: &str| fenced[key].as_str().unwrap_or("?").to_owned();
        checks.push(Check::fail(
            "policies in force",
            format!("every call of {} is denied, its policies do not fit it: {}", text("tool"), text("error")),
            "correct the policy by `lazaret policy schema --tool SERVER:TOOL`",
        ));
    }
    checks
}

fn backend(kernel: &Value) -> Check {
    let sentences = |key: &str| {
        kernel[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
    };
    match kernel["backend"].as_str() {
        Some("observe-only") | None => Check::fail(
            "backend",
            format!("nothing is attached: {}", sentences("cannot")),
            "start the daemon as root, on a kernel with BTF",
        ),
        Some(name) => match sentences("cannot") {
            cannot if cannot.is_empty() => Check::ok("backend", name),
            cannot => Check::ok("backend", format!("{name}; it cannot: {cannot}")),
        },
    }
}

fn hooks(kernel: &Value) -> Vec<Check> {
    let hooks = kernel["hooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let unproven: Vec<&Value> = hooks
        .iter()
        .filter(|hook| hook["attached"].as_bool() == Some(true) && hook["proven"].as_bool() != Some(true))
        .collect();
    if unproven.is_empty() {
        return vec![Check::ok(
            "hooks",
            format!("{} attached, each proven by firing it", hooks.iter().filter(|h| h["attached"] == true).count()),
        )];
    }
    let name = |hook: &Value| {
        format!("{} ({})", hook["name"].as_str().unwrap_or("?"), hook["reason"].as_str().unwrap_or("it did not fire"))
    };
    let detail = unproven.into_iter().map(name).collect::<Vec<_>>().join("; ");
    vec![Check::warn(
        "hooks",
        format!("attached but never seen firing: {detail}"),
        "do not rely on them; report this with `lazaret status --json`",
    )]
}

async fn docker(instance: &Instance) -> Vec<Check> {
    // A bad configuration has its own check.
    let config = instance.config().unwrap_or_default();
    let sandbox = Sandbox::new(&config.sandbox, instance.paths.instance());
    match sandbox.info().await {
        Ok(info) => vec![engine(&info), base_image(&sandbox, &config.sandbox.base_image).await],
        Err(e) if !super::host::is_root() => {
            vec![Check::warn(
                "docker",
                format!("{e}; the daemon may reach it all the same"),
                "run `sudo lazaret doctor`",
            )]
        }
        Err(e) => {
            let mut remedy =
                "start Docker, or name its socket in [sandbox] docker; without it no server runs".to_owned();
            let others = sandbox.other_engines();
            if !others.is_empty() {
                remedy.push_str(&format!("; an engine listens at {}", others.join(" and at ")));
            }
            vec![Check::fail("docker", e.to_string(), remedy)]
        }
    }
}

async fn base_image(sandbox: &Sandbox, name: &str) -> Check {
    match sandbox.has_base_image().await {
        Ok(true) => Check::ok("base image", format!("{name} is here")),
        Ok(false) => Check::fail(
            "base image",
            format!("{name} is not here: servers of npm and PyPI cannot be built"),
            "`cargo xtask images` makes it; or name one that has node, npm, python3 and git as [sandbox] base_image",
        ),
        Err(e) => Check::fail("base image", e.to_string(), "mend Docker first"),
    }
}

fn engine(info: &DockerInfo) -> Check {
    let rootless = if info.rootless { "rootless" } else { "with root" };
    let text = format!(
        "{} {} (API {}), {rootless}, cgroup v{} by {}, {}",
        info.engine, info.version, info.api_version, info.cgroup_version, info.cgroup_driver, info.storage_driver
    );
    if !info.security_options.iter().any(|option| option.contains("seccomp")) {
        return Check::fail(
            "docker",
            format!("{text}: without seccomp"),
            "use a Docker and a kernel that have seccomp",
        );
    }
    if !info.open_walls.is_empty() {
        return Check::fail(
            "docker",
            format!("{text}; no server starts: {}", info.open_walls.join(", ")),
            "use an engine that root runs, or cgroup v2 with memory and pids delegated to the engine's user",
        );
    }
    if !info.warnings.is_empty() {
        return Check::warn(
            "docker",
            format!("{text}; {}", [&info.warnings[..], &info.differs].concat().join("; ")),
            "the cages lack this on this host; a newer kernel or Docker has it",
        );
    }
    if info.differs.is_empty() {
        return Check::ok("docker", text);
    }
    let text = format!("{text}; {}", info.differs.join("; "));
    if info.rootless {
        return Check::warn("docker", text, "an engine that root runs has none of these limits");
    }
    Check::ok("docker", text)
}
