//! Delegating: an agent's own key signs what a sub-agent may do. The daemon has no part in it.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use serde_json::json;
use tokio::io::BufReader;

use crate::cli::args::agent::DelegateArgs;
use crate::cli::instance::Instance;
use crate::cli::{CliError, agent, out};
use crate::identity::delegation::{self, Capabilities, Capability, Terms};
use crate::identity::source::default_source;
use crate::identity::{self, Address, PublicKey, challenge};
use crate::proxy::connector;

/// What lasts longer, in seconds, is no delegation but an agent of its own.
const LONGEST: i64 = 365 * 86_400;
/// For how long, in seconds, where nobody says.
const USUAL: i64 = 8 * 3600;

pub async fn run(instance: &Instance, args: DelegateArgs) -> Result<(), CliError> {
    let usage = |e: String| CliError::Usage(e);
    let parent: Address = args.parent.parse().map_err(|e: identity::AddressError| usage(e.to_string()))?;
    let key = agent::chosen_key(&parent, &args.key)?;
    let key = key.open().map_err(|e| CliError::Configuration(e.to_string()))?;
    let to = child(&args.child, args.child_key.as_deref())?;
    let capabilities = args.cap.iter().map(|cap| cap.parse::<Capability>()).collect::<Result<Vec<_>, _>>();
    let capabilities = capabilities.and_then(Capabilities::new).map_err(|e| usage(e.to_string()))?;
    let chain = args.delegation.as_deref().map(connector::read_chain).transpose();
    let chain = chain.map_err(|e| CliError::Configuration(e.to_string()))?.unwrap_or_default();
    let audience = match args.daemon {
        Some(did) => PublicKey::from_did(&did).map_err(|e| usage(e.to_string()))?.did(),
        None => introduced(&instance.paths.mcp_socket()).await?,
    };
    let now = Timestamp::now().as_second();
    let exp = now.saturating_add(match &args.ttl {
        Some(ttl) => seconds(ttl).ok_or_else(|| {
            usage(format!("cannot read the lifetime {ttl:?}: write a number with s, m, h or d, such as 8h"))
        })?,
        None => USUAL,
    });
    // What nobody asked for does not go beyond what the parent has; what somebody did is refused if it does.
    let above = chain.last().and_then(|hop| delegation::parse(hop).ok()).map(|hop| hop.exp);
    let exp = above.filter(|_| args.ttl.is_none()).map_or(exp, |above| exp.min(above));
    let terms = Terms { to, audience, exp, capabilities: capabilities.clone(), max_depth: args.max_depth };
    let (longer, jti) = delegation::extend(&chain, &*key, terms, now)
        .map_err(|e| CliError::Failed(format!("cannot delegate to {}: {e}; {}", args.child, e.next_step())))?;
    if args.json.json {
        return out::object(
            "delegation",
            &json!({ "jti": jti, "parent": parent, "child": args.child, "did": to.did(), "cap": capabilities, "exp": exp, "chain": longer }),
        );
    }
    match &args.out {
        Some(path) => write(path, &longer)?,
        None => longer.iter().try_for_each(out::line)?,
    }
    out::say(format!("{parent} grants {} {capabilities} until {}; its id is {jti}.", args.child, until(exp)));
    let file = args.out.as_deref().map_or_else(|| "FILE".into(), |path| path.display().to_string());
    out::say(format!("It connects with: lazaret connect --agent {} --delegation {file}", args.child));
    out::say(format!("To end it before: lazaret agent revoke --delegation {jti}"));
    Ok(())
}

fn until(exp: i64) -> String {
    Timestamp::from_second(exp).map_or_else(|_| exp.to_string(), crate::cli::when)
}

/// The sub-agent's public key: what it is named by, or that of the key which this user keeps for it.
fn child(name: &str, key: Option<&str>) -> Result<PublicKey, CliError> {
    let named = key.or_else(|| name.starts_with("did:").then_some(name));
    if let Some(text) = named {
        return text.parse().map_err(|e: identity::KeyError| CliError::Usage(e.to_string()));
    }
    let address: Address = name.parse().map_err(|e: identity::AddressError| CliError::Usage(e.to_string()))?;
    default_source(&address).and_then(|source| source.open()).map(|key| key.public()).map_err(|e| {
        CliError::Configuration(format!("{e}; or name the sub-agent's public key with --child-key did:key:..."))
    })
}

/// A file that is there is replaced, never written into: whoever has it open keeps what it has.
fn write(path: &Path, chain: &[String]) -> Result<(), CliError> {
    let failed = |e: std::io::Error| {
        CliError::Failed(format!("cannot write the delegation {}: {e}; name another file with --out", path.display()))
    };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = std::path::PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    file.write_all((chain.join("\n") + "\n").as_bytes()).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)
}

/// The did of the daemon at the agents' socket, which any user may ask.
async fn introduced(socket: &Path) -> Result<String, CliError> {
    let unreachable = |e: std::io::Error| {
        CliError::Unreachable(format!(
            "cannot ask the daemon at {} who it is: {e}; start it, or name its did with --daemon",
            socket.display()
        ))
    };
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(unreachable)?;
    challenge::audience(&mut BufReader::new(stream)).await.map_err(|e| CliError::Unreachable(e.to_string()))
}

/// `90`, `90s`, `15m`, `8h`, `2d`.
fn seconds(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let count: i64 = digits.parse().ok().filter(|count| *count > 0)?;
    count.checked_mul(unit).filter(|seconds| *seconds <= LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_with_their_unit() {
        for (text, expected) in [("90", 90), ("90s", 90), ("15m", 900), ("8h", 28_800), ("2d", 172_800)] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in ["", "0h", "-1h", "1w", "h", "1.5h", "366d", "999999999999999999d"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
