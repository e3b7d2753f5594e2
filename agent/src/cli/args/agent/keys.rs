//! Vouching, key rotation, cards and revocation records.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use crate::cli::args::Json;
use crate::cli::args::when::when;
use crate::identity::SourceName;

/// Which key signs for the agent.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyChoice {
    /// Key file [default: ADDRESS.pem in $XDG_CONFIG_HOME/lazaret/agents]
    #[arg(long, value_name = "FILE", conflicts_with = "key_source")]
    pub key: Option<PathBuf>,
    /// A key elsewhere: ssh-agent:SHA256:FINGERPRINT, pkcs11:URI, or file:PATH.
    #[arg(long, value_name = "SOURCE")]
    pub key_source: Option<SourceName>,
}

/// Sign for an agent: its key, what it is made of, what it may call, until when
///
/// Without a measurement of the agent (it is taken when the agent connects) this vouches for its key alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret agent vouch claude-code                            sign with a key of the ssh-agent
  lazaret agent vouch claude-code --key ~/.ssh/id_ed25519_sk.pub --not-after 30d
  lazaret agent vouch claude-code --print > v.json           or sign by hand:
  ssh-keygen -Y sign -n vouch@lazaret -f ~/.ssh/id_ed25519 v.json
  lazaret agent vouch claude-code --signature v.json.sig
  lazaret agent vouch claude-code --revoke --reason \"laptop lost\"")]
pub struct AgentVouchArgs {
    pub address: String,
    /// SSH key to sign with: a .pub file whose key or certificate the ssh-agent holds, or an unencrypted private key.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["print", "signature", "revoke"])]
    pub key: Option<PathBuf>,
    /// Print the document that is to be signed, and do nothing.
    #[arg(long, conflicts_with_all = ["signature", "revoke"])]
    pub print: bool,
    /// Take a signature that `ssh-keygen -Y sign -n vouch@lazaret` made.
    #[arg(long, value_name = "FILE", conflicts_with = "revoke")]
    pub signature: Option<PathBuf>,
    /// The document that was signed [default: the signature's name without .sig]
    #[arg(long, value_name = "FILE", requires = "signature")]
    pub document: Option<PathBuf>,
    /// Until when [default: in 90 days]
    #[arg(long, value_name = "TIME", value_parser = when, conflicts_with_all = ["signature", "revoke"])]
    pub not_after: Option<Timestamp>,
    /// SERVER/TOOL patterns that are vouched for [default: all that are registered]
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_delimiter = ',', conflicts_with_all = ["signature", "revoke"])]
    pub capabilities: Vec<String>,
    /// Measurement to vouch for, as JSON [default: the last one that was seen]
    #[arg(long, value_name = "FILE", conflicts_with = "revoke")]
    pub measurement: Option<PathBuf>,
    /// Take the vouch back.
    #[arg(long)]
    pub revoke: bool,
    /// Why it is taken back, for the record.
    #[arg(long, value_name = "TEXT", requires = "revoke", default_value = "taken back by an operator")]
    pub reason: String,
    #[command(flatten)]
    pub json: Json,
}

/// Give an agent a new key: the old key signs for it, and the new one too
///
/// The old key is revoked and its vouch ends. The old file is kept beside the new one, as ADDRESS.pem.retired.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret agent rotate claude-code
  lazaret agent rotate claude-code --new-key-source ssh-agent:SHA256:FINGERPRINT")]
pub struct AgentRotateArgs {
    pub address: String,
    #[command(flatten)]
    pub key: KeyChoice,
    /// The new key, where it is not a new file.
    #[arg(long, value_name = "SOURCE")]
    pub new_key_source: Option<SourceName>,
    #[command(flatten)]
    pub json: Json,
}

/// Agent Cards: signed statements of who has which key
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "made once, from the command line")]
pub enum CardCommand {
    Export(CardExportArgs),
    Import(CardImportArgs),
    Verify(CardVerifyArgs),
}

/// Sign a card with the agent's key and print it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent card export claude-code > claude-code.card.json")]
pub struct CardExportArgs {
    pub address: String,
    #[command(flatten)]
    pub key: KeyChoice,
    /// Until when; six months at most [default: in six months]
    #[arg(long, value_name = "TIME", value_parser = when)]
    pub not_after: Option<Timestamp>,
    /// A name for people.
    #[arg(long, value_name = "TEXT")]
    pub alias: Option<String>,
}

/// Check a card and enroll its agent, which then waits for `agent activate`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent card import reviewer.card.json --owner ann")]
pub struct CardImportArgs {
    pub file: PathBuf,
    /// Who answers for it.
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    #[command(flatten)]
    pub json: Json,
}

/// Check a card's signature, fingerprints and times; needs no daemon
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent card verify reviewer.card.json")]
pub struct CardVerifyArgs {
    pub file: PathBuf,
    #[command(flatten)]
    pub json: Json,
}

/// List revoked keys, or take over a list of others
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret agent revocations --json > revoked.json
  lazaret agent revocations --import revoked.json")]
pub struct RevocationsArgs {
    /// Take over the records of this file: what --json prints, or a JSON array.
    #[arg(long, value_name = "FILE")]
    pub import: Option<PathBuf>,
    #[command(flatten)]
    pub json: Json,
}

/// Open a token and sign what standard input asks for: what the connector runs for a key in a token
#[derive(Debug, Args)]
pub struct OpenTokenArgs {
    pub uri: crate::identity::TokenUri,
}
