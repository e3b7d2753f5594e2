//! `lazaret agent vouch`: what is signed is shown, and signed here: the key is the human's, not the daemon's.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use ssh_key::public::KeyData;
use ssh_key::{Certificate, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};

use crate::api::types::{DraftVouch, GiveVouch, Why};
use crate::cli::args::agent::AgentVouchArgs;
use crate::cli::instance::Instance;
use crate::cli::{CliError, out, when};
use crate::identity::source::ssh_agent::{Identity, SshAgent};
use crate::identity::vouch::NAMESPACE;
use crate::identity::{Actions, Address, Agent, Draft, Measurement, Vouch, VouchDocument};

const LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);
/// A measurement names some thousand files at most.
const LONGEST: u64 = 8 << 20;

pub async fn run(instance: &Instance, args: AgentVouchArgs) -> Result<(), CliError> {
    let address = super::address(instance, &args.address).await?;
    let admin = instance.admin();
    let post = |verb: &str| super::place(&address, verb);
    if args.revoke {
        let agent: Agent = admin.post(&post("vouch/revoke"), &Why { why: args.reason.clone() }).await?;
        out::say(format!("The vouch for {} is {}.", agent.address, agent.vouch));
        return Ok(());
    }
    let measurement = args.measurement.as_deref().map(measurement).transpose()?;
    let given = match &args.signature {
        Some(signature) => {
            let document = args.document.clone().unwrap_or_else(|| signature.with_extension(""));
            let (document, signature) = (super::read_file(&document, LONGEST)?, super::read_file(signature, LONGEST)?);
            GiveVouch { document, signature, measurement }
        }
        None => {
            let draft = draft(&args, measurement.clone());
            let Draft { document, measurement, signers } = admin.post(&post("vouch/draft"), &draft?).await?;
            tell(&address, &document, measurement.as_ref())?;
            if args.print {
                return out::raw(document.as_bytes());
            }
            let signature = sign(args.key.as_deref(), &signers, document.as_bytes())?;
            GiveVouch { document, signature, measurement }
        }
    };
    let agent: Agent = admin.post(&post("vouch"), &given).await?;
    if args.json.json {
        return out::listing("agent", "agents", &[agent]);
    }
    out::line(agent.vouch.to_string())?;
    if let Some(vouched) = &agent.vouched {
        let until = when(vouched.document.not_after);
        out::say(format!("{} vouches for {} with {} until {until}.", vouched.by, agent.address, vouched.signing_key));
    }
    if agent.vouch != Vouch::Valid {
        out::say(format!(
            "It is {} now: the agent was not yet seen to be made so; see `lazaret agent show`.",
            agent.vouch
        ));
    }
    Ok(())
}

fn draft(args: &AgentVouchArgs, measurement: Option<Measurement>) -> Result<DraftVouch, CliError> {
    let capabilities = match args.capabilities.as_slice() {
        [] => None,
        patterns => Some(Actions::of(patterns).map_err(|e| CliError::Usage(e.to_string()))?),
    };
    let not_after = match args.not_after {
        Some(end) => end,
        None => Timestamp::now().checked_add(LIFETIME).map_err(CliError::failed)?,
    };
    Ok(DraftVouch { not_after, capabilities, measurement })
}

fn measurement(path: &Path) -> Result<Measurement, CliError> {
    let text = super::read_file(path, LONGEST)?;
    serde_json::from_str(&text).map_err(|e| {
        CliError::Failed(format!(
            "cannot read the measurement {}: {e}; see `lazaret agent show --json`",
            path.display()
        ))
    })
}

/// What is about to be signed, for whoever signs it.
fn tell(address: &Address, document: &str, measurement: Option<&Measurement>) -> Result<(), CliError> {
    let read = VouchDocument::parse(document).map_err(CliError::failed)?;
    out::say(format!("Vouching for {address}"));
    out::say(format!("  key           {}", read.did));
    out::say(format!("  may call      {}", out::visible(&read.capabilities.to_string())));
    out::say(format!("  until         {}", when(read.not_after)));
    match measurement {
        Some(measurement) => {
            out::say(format!("  made of       {} ({} parts)", measurement.digest, measurement.parts.len()));
            for part in &measurement.parts {
                let kind = serde_json::to_value(part.kind).unwrap_or_default();
                let kind = kind.as_str().unwrap_or_default().to_owned();
                out::say(format!("    {kind:<14}{}{}", out::visible(&part.name), left_out(&part.digest)));
            }
        }
        None => out::say(
            "  WARNING: nothing is known of what the agent is made of, so that this vouches for its KEY ALONE, whatever program\n  uses it. Let the agent connect once and vouch then, or give --measurement FILE.",
        ),
    }
    Ok(())
}

/// What a digest does not stand for: whoever vouches is to know it.
fn left_out(digest: &str) -> String {
    if digest.starts_with("sha256:") {
        return String::new();
    }
    match digest.strip_prefix("sha256-of-").and_then(|rest| rest.split_once("-files:")) {
        Some((files, _)) => format!("  ({files} of its files; NOT the others, there are too many)"),
        None => format!("  ({})", out::visible(digest)),
    }
}

fn sign(key: Option<&Path>, signers: &[String], message: &[u8]) -> Result<String, CliError> {
    let armoured = |signature: SshSig| signature.to_pem(LineEnding::LF).map_err(CliError::failed);
    let Some(path) = key else {
        let wanted: Vec<PublicKey> = signers.iter().filter_map(|line| PublicKey::from_openssh(line).ok()).collect();
        return by_agent(&wanted, "is named in allowed_signers", message).and_then(armoured);
    };
    let text = super::read_file(path, LONGEST)?;
    if !text.trim_start().starts_with("-----BEGIN") {
        let key = PublicKey::from_openssh(text.trim())
            .or_else(|e| Certificate::from_openssh(text.trim()).map(|cert| KeyData::from(cert).into()).map_err(|_| e))
            .map_err(|e| CliError::Failed(format!("cannot read the SSH key {}: {e}", path.display())))?;
        return by_agent(&[key], &format!("is that of {}", path.display()), message).and_then(armoured);
    }
    let failed = |cause: String| {
        CliError::Failed(format!(
            "cannot sign with {}: {cause}; add it to the ssh-agent with `ssh-add {0}` and give its .pub file",
            path.display()
        ))
    };
    let key = PrivateKey::from_openssh(&text).map_err(|e| failed(e.to_string()))?;
    if key.is_encrypted() {
        return Err(failed("it is encrypted".into()));
    }
    armoured(key.sign(NAMESPACE, HashAlg::Sha512, message).map_err(|e| failed(e.to_string()))?)
}

/// Signs with the first of the agent's keys that is `wanted`; a security key waits for a touch.
fn by_agent(wanted: &[PublicKey], which: &str, message: &[u8]) -> Result<SshSig, CliError> {
    let mut agent = SshAgent::connect().map_err(CliError::failed)?;
    let held = agent.identities().map_err(CliError::failed)?;
    // Certificates compare by their comments, too, and those of a file and of an agent differ.
    let wanted: Vec<Vec<u8>> = wanted.iter().filter_map(|key| key.to_bytes().ok()).collect();
    let fits = |identity: &&Identity| wanted.contains(&identity.blob);
    let found = held.iter().filter(fits).find_map(|identity| Some((identity, identity.key()?)));
    let Some((identity, key)) = found else {
        return Err(CliError::Failed(format!(
            "cannot sign: none of the ssh-agent's {} keys {which}; see `ssh-add -l`, or name a key with --key",
            held.len()
        )));
    };
    out::say(format!(
        "Signing with {} ({}); touch the key if it blinks.",
        key.fingerprint(HashAlg::Sha256),
        key.algorithm()
    ));
    let data = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, message).map_err(CliError::failed)?;
    let signature = agent.sign(&identity.blob, &data).map_err(CliError::failed)?;
    SshSig::new(key.key_data().clone(), NAMESPACE, HashAlg::Sha512, signature).map_err(CliError::failed)
}

#[cfg(test)]
mod tests {
    use super::left_out;

    #[test]
    fn who_vouches_is_told_what_was_not_measured() {
        assert_eq!(left_out("sha256:00"), "");
        assert!(left_out("sha256-of-512-files:00").contains("512 of its files; NOT the others"));
        assert_eq!(left_out("unmeasured: a file of uid 7"), "  (unmeasured: a file of uid 7)");
    }
}
