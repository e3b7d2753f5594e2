//! Catalogue evidence: known ways of starting a server, and how the same launchers start other things.

use std::fs;

use super::bench::{install, install_tracer, traced};
use super::daemon::Daemon;
use super::enforce::judged;
use super::report::{Report, ensure};

/// Launches of MCP servers. The launcher is a tracer: what it would fetch does not matter.
pub const SERVERS: [&[&str]; 8] = [
    &["/opt/l/bunx", "@modelcontextprotocol/server-memory@2025.4.25"],
    &["/opt/l/pnpm", "dlx", "@modelcontextprotocol/server-everything"],
    &["/opt/l/uvx", "--from", "mcp-server-git==2025.1.14", "mcp-server-git"],
    &["/opt/l/uv", "run", "--directory", "/srv", "mcp-server-time"],
    &["/opt/l/python3", "-m", "mcp_server_fetch"],
    &["/opt/l/node", "/srv/node_modules/@modelcontextprotocol/server-memory/dist/index.js"],
    &["/opt/l/docker", "run", "-i", "--rm", "-e", "TOKEN", "mcp/fetch"],
    &["/opt/l/mcp-server-git", "--repository", "/srv"],
];

/// The same launchers at honest work.
pub const OTHERS: [&[&str]; 9] = [
    &["/opt/l/bunx", "cowsay", "@modelcontextprotocol/server-memory"],
    &["/opt/l/pnpm", "add", "@modelcontextprotocol/server-everything"],
    &["/opt/l/uvx", "ruff", "check", "mcp_server_fetch"],
    &["/opt/l/uv", "pip", "install", "mcp-server-time"],
    &["/opt/l/python3", "-m", "http.server"],
    &["/opt/l/python3", "-c", "import mcp_server_fetch"],
    &["/opt/l/node", "/srv/build.js", "--out", "mcp-server-git"],
    &["/opt/l/docker", "run", "-i", "--rm", "postgres:17", "psql"],
    &["/opt/l/vi", "/home/dev/mcp-server-notes.txt"],
];

pub fn checks(report: &mut Report, daemon: &Daemon) {
    let package = "@modelcontextprotocol/server-filesystem";
    report.check("a_start_that_the_catalogue_names_never_runs_an_instruction", || {
        install_tracer("/usr/bin/npx", "npx")?;
        judged("none").run(&["npx", "-y", package, "/tmp"])?.stopped()?;
        ensure(!traced("npx"), || "it ran".into())?;
        let shadow = daemon.shadow("/usr/bin/npx")?;
        shadow.has_evidence("catalogue")?;
        shadow.has_action(&["kill", "den"])
    });
    report.check("a_launcher_that_is_a_script_is_recognised_by_what_its_interpreter_runs", || {
        install_tracer("/opt/node/bin/node", "node")?;
        install("/opt/node/bin/npx", b"#!/opt/node/bin/node\n")?;
        judged("none").run(&["/opt/node/bin/npx", "-y", package, "/tmp"])?.stopped()?;
        ensure(!traced("node"), || "it ran".into())?;
        daemon.shadow("/opt/node/bin/node")?.has_evidence("catalogue")
    });
    report.check("installing_and_naming_a_server_package_is_left_alone", || {
        install_tracer("/usr/bin/npm", "npm")?;
        judged("none").run(&["npm", "install", package])?.left_alone()?;
        ensure(traced("npm"), || "npm left no trace".into())?;
        fs::write("/tmp/mcp-server-notes.txt", "notes\n").map_err(|e| e.to_string())?;
        judged("none").run(&["cat", "/tmp/mcp-server-notes.txt"])?.answered()?;
        install_tracer("/usr/bin/npx", "npx-benign")?;
        judged("none").run(&["npx", "-y", "prettier", "--check", "."])?.left_alone()?;
        ensure(traced("npx-benign"), || "npx left no trace".into())
    });
    report.check("every_kind_of_launch_in_the_catalogue_is_stopped", || {
        let table = launches('S').collect::<Result<Vec<_>, _>>()?;
        for command in SERVERS.iter().map(|words| owned(words)).chain(table) {
            install_tracer(&command[0], "catalogue-server")?;
            judged("none").run(&command)?.stopped().map_err(|why| format!("{command:?}: {why}"))?;
            ensure(!traced("catalogue-server"), || format!("{command:?} ran"))?;
        }
        Ok(())
    });
    report.check("launchers_at_honest_work_are_left_alone", || {
        let table = launches('O').collect::<Result<Vec<_>, _>>()?;
        for command in OTHERS.iter().map(|words| owned(words)).chain(table) {
            install_tracer(&command[0], "catalogue-other")?;
            judged("none").run(&command)?.left_alone().map_err(|why| format!("{command:?}: {why}"))?;
        }
        ensure(traced("catalogue-other"), || "they left no trace".into())
    });
}

/// The launches of the catalogue's own table that are a server's (`S`) or neither a server's nor a client's (`O`).
fn launches(kind: char) -> impl Iterator<Item = Result<Vec<String>, String>> {
    const TABLE: &str = include_str!("../../../agent/src/kernel/catalogue/launches.txt");
    TABLE.lines().filter(move |line| line.starts_with(kind)).map(|line| {
        let mut words = line.split(' ').skip(1).map(|word| word.replace("\\s", " "));
        let program = words.next().ok_or_else(|| format!("{line:?} names no program"))?;
        let program = format!("/opt/l/{}", program.rsplit('/').next().unwrap_or_default());
        Ok(std::iter::once(program).chain(words).collect())
    })
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
