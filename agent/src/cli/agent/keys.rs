//! Rotation, cards, revocation records.

use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use super::held;
use crate::api::types::{AgentView, ImportCard, ImportRevocations, Imported, StatusView};
use crate::cli::args::agent::{
    AgentRotateArgs, CardCommand, CardExportArgs, CardImportArgs, CardVerifyArgs, RevocationsArgs,
};
use crate::cli::instance::{Human, Instance};
use crate::cli::out::{self, Rows, plain};
use crate::cli::{CliError, when};
use crate::identity::{Agent, Card, CardFields, Enrolment, Revocation};

/// A list of revocations longer than this is some other file.
const LONGEST: u64 = 16 << 20;

pub async fn rotate(instance: &Instance, args: AgentRotateArgs) -> Result<(), CliError> {
    let address = super::address(instance, &args.address).await?;
    let human = Human::invoking().map_err(CliError::failed)?;
    let next = args.new_key_source.as_ref();
    let rotation = held::sign_rotation(&address, &args.key, next, &human)?;
    let agent: Agent = instance.admin().post("/v1/rotations", &rotation).await?;
    let place = held::finish_rotation(&address, &args.key, next, &human)?;
    if args.json.json {
        return out::listing("agent", "agents", &[agent]);
    }
    out::line(&agent.fingerprint)?;
    out::say(format!("{} has a new key: {place}. The old one is revoked, and its vouch with it.", agent.address));
    Ok(())
}

pub async fn card(instance: &Instance, command: CardCommand) -> Result<(), CliError> {
    match command {
        CardCommand::Export(args) => export(instance, args).await,
        CardCommand::Import(args) => import(instance, args).await,
        CardCommand::Verify(args) => verify(&args),
    }
}

/// Who holds the key signs; what the registry knows is added where it can be asked.
async fn export(instance: &Instance, args: CardExportArgs) -> Result<(), CliError> {
    let address = super::address(instance, &args.address).await?;
    let key = held::chosen(&address, &args.key)?.open().map_err(CliError::failed)?;
    let known = instance.admin().get::<AgentView>(&super::place(&address, "")).await;
    let mut fields = CardFields { alias: args.alias, ..CardFields::default() };
    match known {
        Ok(view) if view.agent.public_key == key.public() => {
            fields.owner = view.agent.owner;
            fields.capabilities = Vec::from(view.agent.actions);
        }
        Ok(view) => {
            return Err(CliError::Failed(format!(
                "cannot sign a card for {address}: it is enrolled with another key ({}) than this one ({}); name its key with --key",
                view.agent.fingerprint,
                key.public().fingerprint_raw()
            )));
        }
        Err(e) => out::say(format!("The card has no owner and no capabilities: the registry cannot be asked ({e}).")),
    }
    let now = Timestamp::now();
    let lifetime = args.not_after.map_or(crate::identity::MAX_CARD_LIFETIME, |end| end.duration_since(now));
    if !lifetime.is_positive() || lifetime > crate::identity::MAX_CARD_LIFETIME {
        let text = "cannot sign the card: its end must lie in the next six months; give another --not-after";
        return Err(CliError::Usage(text.into()));
    }
    let card = Card::sign(&address, &fields, &*key, now, lifetime).map_err(CliError::failed)?;
    out::raw(card.as_bytes())
}

async fn import(instance: &Instance, args: CardImportArgs) -> Result<(), CliError> {
    let card = read(&args.file)?;
    let checked = Card::verify(&card, Timestamp::now()).map_err(CliError::failed)?;
    let enrolment = Enrolment { owner: args.owner, ..Enrolment::default() };
    let agent: Agent = instance.admin().post("/v1/cards", &ImportCard { card, enrolment }).await?;
    if args.json.json {
        return out::listing("agent", "agents", &[agent]);
    }
    out::line(agent.address.as_str())?;
    let status: StatusView = instance.admin().get("/v1/status").await?;
    if agent.address.scope(&status.provider).is_err() {
        out::say(format!(
            "NOTE: it is not of {}, the provider of this host's agents: who signed the card has chosen the address.",
            status.provider
        ));
    }
    out::say(format!("{checked}. Let it in with: lazaret agent activate {}", agent.address));
    Ok(())
}

fn verify(args: &CardVerifyArgs) -> Result<(), CliError> {
    let card = Card::verify(&read(&args.file)?, Timestamp::now()).map_err(CliError::failed)?;
    if args.json.json {
        return out::object(
            "card",
            &serde_json::json!({
                "address": card.address,
                "did": card.key.did(),
                "fingerprint": card.key.fingerprint_raw(),
                "fingerprint_spki": card.key.fingerprint_spki(),
                "alias": card.alias,
                "issued_at": card.issued_at,
                "expires_at": card.expires_at,
            }),
        );
    }
    out::field("agent", card.address.as_str())?;
    out::field("did", card.key.did())?;
    out::field("fingerprint", format!("{} (raw), {} (SPKI)", card.key.fingerprint_raw(), card.key.fingerprint_spki()))?;
    out::field("alias", card.alias.as_deref().unwrap_or("none"))?;
    out::field("valid", format!("from {} until {}", when(card.issued_at), when(card.expires_at)))
}

pub async fn revocations(instance: &Instance, args: RevocationsArgs) -> Result<(), CliError> {
    let admin = instance.admin();
    if let Some(file) = &args.import {
        let request = ImportRevocations { revocations: parse(&read(file)?)? };
        let Imported { new } = admin.post("/v1/revocations", &request).await?;
        out::say(format!(
            "{new} of {} records were new; those keys are not accepted from now on.",
            request.revocations.len()
        ));
        return Ok(());
    }
    let revocations: Vec<Revocation> = admin.get("/v1/revocations").await?;
    if args.json.json {
        return out::listing("revocation", "revocations", &revocations);
    }
    let mut rows = Rows::new(&["FINGERPRINT", "AGENT", "REVOKED", "REASON", "SUPERSEDED BY"]);
    for one in &revocations {
        rows.row([
            plain(&one.fingerprint),
            plain(one.agent_address.to_string()),
            plain(when(one.revoked_at)),
            plain(one.reason.to_string()),
            plain(one.superseded_by.clone().unwrap_or_default()),
        ]);
    }
    rows.print("No key was ever revoked here.")
}

/// What `--json` prints, or the bare array that others may send.
fn parse(text: &str) -> Result<Vec<Revocation>, CliError> {
    #[derive(Deserialize)]
    struct Ours {
        revocations: Vec<Revocation>,
    }
    let read = match text.trim_start().starts_with('[') {
        true => serde_json::from_str(text),
        false => serde_json::from_str(text).map(|Ours { revocations }| revocations),
    };
    match read {
        Ok(revocations) => Ok(revocations),
        Err(e) => Err(CliError::Failed(format!(
            "cannot read the revocations: {e}; give an array of {{fingerprint, agent_address, revoked_at, reason, superseded_by}}"
        ))),
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    super::read_file(path, LONGEST)
}
