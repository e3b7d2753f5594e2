//! Agent Cards of AMP: a signed, portable statement that an address has a key.
//!
//! Invariant: a [`Card`] exists only for a text whose signature, fingerprints and times were checked.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Address, KeyError, KeySource, PublicKey, Signature};
use crate::proxy::json::Json;

const PREFIX: &str = "amp-agent-card-v1\n";
const VERSION: &str = "1.0";
const LONGEST: usize = 64 << 10;
const DEEPEST: usize = 16;
/// Six months; the longest six of a year.
pub const MAX_LIFETIME: SignedDuration = SignedDuration::from_hours(184 * 24);
/// Clocks of two hosts may differ by this much.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot accept the agent card: {0}; ask its agent for a new one")]
pub struct CardError(String);

/// What a card says beside address and key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CardFields {
    pub alias: Option<String>,
    pub owner: Option<String>,
    pub capabilities: Vec<String>,
}

/// A card that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub address: Address,
    pub key: PublicKey,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub alias: Option<String>,
}

impl Card {
    /// Makes a card, valid from now on.
    pub fn sign(
        address: &Address,
        fields: &CardFields,
        key: &dyn KeySource,
        now: Timestamp,
        lifetime: SignedDuration,
    ) -> Result<String, KeyError> {
        let public = key.public();
        let whole = |time: Timestamp| Timestamp::from_second(time.as_second()).unwrap_or(time);
        let issued_at = whole(now);
        let expires_at = whole(issued_at.saturating_add(lifetime.min(MAX_LIFETIME)).unwrap_or(issued_at));
        let mut card = serde_json::json!({
            "amp_agent_card": VERSION,
            "address": address,
            "did": public.did(),
            "public_key": public.to_spki_pem(),
            "key_algorithm": "Ed25519",
            "fingerprint": public.fingerprint_raw(),
            "fingerprint_spki": public.fingerprint_spki(),
            "capabilities": fields.capabilities,
            "issued_at": issued_at,
            "expires_at": expires_at,
        });
        for (name, value) in [("alias", &fields.alias), ("owner", &fields.owner)] {
            if let Some(value) = value {
                card[name] = Value::from(value.as_str());
            }
        }
        // There is no number in it, so that this is RFC 8785 to the letter.
        let signature = key.sign(format!("{PREFIX}{}", Json::from_value(&card).canonical()).as_bytes())?;
        card["signature"] = serde_json::to_value(signature).unwrap_or_default();
        Ok(format!("{card:#}\n"))
    }

    /// Reads a card that anybody may have written.
    pub fn verify(text: &str, now: Timestamp) -> Result<Self, CardError> {
        let bad = |what: String| CardError(what);
        if text.len() > LONGEST {
            return Err(bad(format!("it is longer than {LONGEST} bytes")));
        }
        let mut card = Json::parse(text, DEEPEST).map_err(|e| bad(format!("it is no JSON ({e})")))?;
        if card.as_object().is_none() {
            return Err(bad("it is no object".into()));
        }
        let signature = card.remove("signature").ok_or_else(|| bad("it has no signature".into()))?;
        let signature = signature.as_str().and_then(|text| serde_json::from_value::<Signature>(text.into()).ok());
        let signature = signature.ok_or_else(|| bad("its signature is not the base64 of 64 bytes".into()))?;
        let text = |name: &str| {
            let value = card.get(name).ok_or_else(|| bad(format!("it has no {name}")))?;
            value.as_str().map(str::to_owned).ok_or_else(|| bad(format!("its {name} is no text")))
        };
        if text("amp_agent_card")? != VERSION {
            return Err(bad(format!(
                "it has version {:?}, and this one knows {VERSION}",
                short(&text("amp_agent_card")?)
            )));
        }
        if text("key_algorithm")? != "Ed25519" {
            return Err(bad(format!("its key is of type {:?}, not Ed25519", short(&text("key_algorithm")?))));
        }
        let key = PublicKey::from_spki_pem(&text("public_key")?).map_err(|_| bad("its public_key is none".into()))?;
        let signed = card.jcs().ok_or_else(|| bad("one of its numbers is too large".into()))?;
        key.verify(format!("{PREFIX}{signed}").as_bytes(), &signature)
            .map_err(|_| bad("its signature does not fit its content and key".into()))?;
        let address: Address = text("address")?.parse().map_err(|e| bad(format!("its address is none ({e})")))?;
        // Both are in use under this name.
        let fingerprint = text("fingerprint")?;
        if fingerprint != key.fingerprint_raw() && fingerprint != key.fingerprint_spki() {
            return Err(bad("its fingerprint is not that of its key".into()));
        }
        for (name, expected) in [("fingerprint_spki", key.fingerprint_spki()), ("did", key.did())] {
            if card.get(name).is_some() && text(name)? != expected {
                return Err(bad(format!("its {name} is not that of its key")));
            }
        }
        let time = |name: &str| text(name)?.parse::<Timestamp>().map_err(|_| bad(format!("its {name} is no time")));
        let (issued_at, expires_at) = (time("issued_at")?, time("expires_at")?);
        if issued_at.duration_since(now) > SKEW {
            return Err(bad(format!("it is issued in the future, at {issued_at}")));
        }
        if expires_at <= now {
            return Err(bad(format!("it expired at {expires_at}")));
        }
        if expires_at <= issued_at {
            return Err(bad("it ends before it begins".into()));
        }
        if expires_at.duration_since(issued_at) > MAX_LIFETIME {
            return Err(bad("it is valid for more than six months".into()));
        }
        let alias = card.get("alias").and_then(Json::as_str).map(|alias| short(alias).to_owned());
        Ok(Self { address, key, issued_at, expires_at, alias })
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has the key {} until {}", self.address, self.key.fingerprint_raw(), self.expires_at)
    }
}

fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(80)]
}

#[cfg(test)]
mod tests;
