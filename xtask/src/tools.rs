//! The real clients and servers that the end-to-end tests drive, below `target/tools`.
//!
//! Versions are pinned here, and nowhere else. Invariant: a tool's stamp is written last, so that whatever was
//! interrupted is made again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::sh;

const CLAUDE: &[&str] = &["@anthropic-ai/claude-code@2.1.329"];
const NPM_SERVERS: &[&str] = &["@modelcontextprotocol/server-everything@2026.8.31"];
/// Both generations of the Python SDK: most servers and clients still speak the first one's protocol.
const SDK_1: &[&str] = &["mcp==1.30.0"];
const SDK_2: &[&str] = &["mcp==2.3.0", "mcp-server-time==2026.10.19"];

/// Programs that speak to their clients on stdio and are no MCP servers: language servers, a debug adapter, an ACP agent.
const NPM_NEIGHBOURS: &[&str] = &[
    "pyright@1.1.414",
    "bash-language-server@5.8.1",
    "yaml-language-server@1.25.0",
    "@zed-industries/claude-code-acp@0.16.2",
];
const PYTHON_NEIGHBOURS: &[&str] = &["python-lsp-server==1.15.0", "ruff==0.17.6", "debugpy==1.8.22"];

pub fn install(root: &Path) -> Result<()> {
    let tools = root.join("target/tools");
    npm(&tools.join("claude"), CLAUDE, "Claude Code's CLI")?;
    npm(&tools.join("npm"), NPM_SERVERS, "npm servers")?;
    venv(&tools.join("sdk1"), SDK_1, "Python MCP SDK 1")?;
    venv(&tools.join("sdk2"), SDK_2, "Python MCP SDK 2 and servers")?;
    npm(&tools.join("npm-neighbours"), NPM_NEIGHBOURS, "npm programs that are no MCP servers")?;
    venv(&tools.join("python-neighbours"), PYTHON_NEIGHBOURS, "Python programs that are no MCP servers")
}

/// Install scripts stay off: neither the servers nor the CLI, whose native binary is a package, need any.
fn npm(dir: &Path, packages: &[&str], what: &str) -> Result<()> {
    once(dir, packages, what, || {
        let flags = ["--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--loglevel", "error", "--prefix"];
        sh::run(Command::new("npm").arg("install").args(flags).arg(dir).args(packages))
    })
}

fn venv(dir: &Path, packages: &[&str], what: &str) -> Result<()> {
    once(dir, packages, what, || {
        sh::run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(dir))?;
        let flags = ["install", "--quiet", "--disable-pip-version-check"];
        sh::run(Command::new(dir.join("bin/pip")).args(flags).args(packages))
    })
}

fn once(dir: &Path, packages: &[&str], what: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let wanted = packages.join("\n");
    let stamp: PathBuf = dir.join(".installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    eprintln!("installing {what} for the tests: {}", packages.join(" "));
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    make().with_context(|| format!("cannot install {what}"))?;
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}
