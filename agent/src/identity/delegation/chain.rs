//! A chain of hops: linkage, narrowing, audience, expiry. Pure; knows no registry and no clock of its own.

use std::collections::HashSet;

use jiff::Timestamp;

use super::jws::{self, Claims, JwsError};
use super::{Capabilities, Capability};
use crate::identity::{KeyError, KeySource, PublicKey};

/// Hops below the top agent.
pub const MAX_HOPS: usize = 7;
/// All hops together, in bytes: the chain has to fit into one message of the challenge.
pub const MAX_CHAIN: usize = 32 << 10;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("the delegation has no hop")]
    Empty,
    #[error("the delegation has {0} hops; at most {MAX_HOPS} are taken")]
    TooLong(usize),
    #[error("the delegation has more than {MAX_CHAIN} bytes")]
    TooBig,
    #[error("hop {hop} of the delegation cannot be read: {source}")]
    Jws { hop: usize, source: JwsError },
    #[error("hop {hop} of the delegation is for the daemon {found}, and this one is {wanted}")]
    Audience { hop: usize, found: String, wanted: String },
    #[error("hop {hop} of the delegation expired at {}", at(*.exp))]
    Expired { hop: usize, exp: i64 },
    #[error("hop {hop} of the delegation ends at {}, later than hop {} at {}", at(*.exp), .hop - 1, at(*.parent))]
    Outlives { hop: usize, exp: i64, parent: i64 },
    #[error("hop {hop} of the delegation does not follow hop {}: its parent_hash is another one's", .hop - 1)]
    Linkage { hop: usize },
    #[error("hop 1 of the delegation names a hop before it, which is missing")]
    Headless,
    #[error("hop {hop} of the delegation was issued by {found}, and hop {} was granted to {wanted}", .hop - 1)]
    Issuer { hop: usize, found: String, wanted: String },
    #[error("hop {hop} of the delegation grants {capability}, which hop {} does not grant", .hop - 1)]
    Widens { hop: usize, capability: Capability },
    #[error("hop {hop} of the delegation allows depth {found}, and hop {} only {parent}", .hop - 1)]
    Deepens { hop: usize, found: u32, parent: u32 },
    #[error("hop {hop} of the delegation is at depth {depth}, deeper than the {max} that is granted")]
    TooDeep { hop: usize, depth: u32, max: u32 },
    #[error("hop {hop} of the delegation leads back to an agent that is in the chain already")]
    Circle { hop: usize },
    #[error("the delegation is for {found}, and the agent that presents it is {wanted}")]
    Subject { found: String, wanted: String },
    #[error(transparent)]
    Key(KeyShown),
}

/// A key that cannot sign, or randomness that failed, as a value that can be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyShown(String);

impl From<KeyError> for ChainError {
    fn from(error: KeyError) -> Self {
        Self::Key(KeyShown(error.to_string()))
    }
}

impl ChainError {
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Widens { .. } | Self::Deepens { .. } | Self::TooDeep { .. } | Self::Outlives { .. } => {
                "a delegation only narrows: issue that hop again with `lazaret agent delegate` and no more than the parent has"
            }
            Self::Expired { .. } => "let the parent issue it again with `lazaret agent delegate`",
            Self::Audience { .. } => "let the parent issue it for this daemon with `lazaret agent delegate`",
            Self::Subject { .. } => "present the delegation that was issued for this agent's key",
            Self::Key(_) => "unlock what holds the parent's key, or name another place with --key-source",
            _ => "present the file as `lazaret agent delegate` wrote it",
        }
    }
}

/// For people.
pub(in crate::identity) fn at(unix: i64) -> String {
    Timestamp::from_second(unix)
        .map_or_else(|_| unix.to_string(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedHop {
    pub issuer: PublicKey,
    pub subject: PublicKey,
    pub jti: String,
    pub exp: i64,
    pub capabilities: Capabilities,
    pub max_depth: u32,
}

/// Every rule holds, for the daemon and the moment that were named. Outermost first; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedChain {
    hops: Vec<CheckedHop>,
}

impl CheckedChain {
    pub fn hops(&self) -> &[CheckedHop] {
        &self.hops
    }

    /// The last hop; each before it covers more.
    pub fn last(&self) -> &CheckedHop {
        &self.hops[self.hops.len() - 1]
    }
}

/// Judges `chain`, one compact JWS per hop, for the daemon `audience` at `now` (Unix seconds).
pub fn check(chain: &[String], audience: &str, now: i64) -> Result<CheckedChain, ChainError> {
    if chain.is_empty() {
        return Err(ChainError::Empty);
    }
    if chain.len() > MAX_HOPS {
        return Err(ChainError::TooLong(chain.len()));
    }
    if chain.iter().map(String::len).sum::<usize>() > MAX_CHAIN {
        return Err(ChainError::TooBig);
    }
    let mut hops: Vec<CheckedHop> = Vec::with_capacity(chain.len());
    let (mut seen, mut ids) = (HashSet::new(), HashSet::new());
    for (index, text) in chain.iter().enumerate() {
        let hop = index + 1;
        let jws = |source| ChainError::Jws { hop, source };
        let claims = jws::parse(text).map_err(jws)?;
        let key = |did: &str| PublicKey::from_did(did).map_err(|e| jws(JwsError::Claims(e.to_string())));
        let (issuer, subject) = (key(&claims.iss)?, key(&claims.sub)?);
        if claims.aud != audience {
            return Err(ChainError::Audience { hop, found: claims.aud, wanted: audience.into() });
        }
        if claims.exp <= now {
            return Err(ChainError::Expired { hop, exp: claims.exp });
        }
        match hops.last() {
            None if claims.parent_hash.is_some() => return Err(ChainError::Headless),
            None => {}
            Some(parent) => follows(hop, parent, &chain[index - 1], &claims, &issuer)?,
        }
        let depth = depth_of(hop);
        if depth > claims.max_depth {
            return Err(ChainError::TooDeep { hop, depth, max: claims.max_depth });
        }
        if hops.is_empty() {
            seen.insert(*issuer.as_bytes());
        }
        if !seen.insert(*subject.as_bytes()) || !ids.insert(claims.jti.clone()) {
            return Err(ChainError::Circle { hop });
        }
        let Claims { jti, exp, cap, max_depth, .. } = claims;
        hops.push(CheckedHop { issuer, subject, jti, exp, capabilities: cap, max_depth });
    }
    Ok(CheckedChain { hops })
}

/// Depth of the sub-agent of a hop: the top agent has 1.
fn depth_of(hop: usize) -> u32 {
    u32::try_from(hop).unwrap_or(u32::MAX).saturating_add(1)
}

fn follows(
    hop: usize,
    parent: &CheckedHop,
    parent_text: &str,
    claims: &Claims,
    issuer: &PublicKey,
) -> Result<(), ChainError> {
    if *issuer != parent.subject {
        return Err(ChainError::Issuer { hop, found: claims.iss.clone(), wanted: parent.subject.did() });
    }
    if claims.parent_hash.as_deref() != Some(jws::hash(parent_text).as_str()) {
        return Err(ChainError::Linkage { hop });
    }
    if claims.exp > parent.exp {
        return Err(ChainError::Outlives { hop, exp: claims.exp, parent: parent.exp });
    }
    if let Some(capability) = parent.capabilities.beyond(&claims.cap) {
        return Err(ChainError::Widens { hop, capability: capability.clone() });
    }
    if claims.max_depth > parent.max_depth {
        return Err(ChainError::Deepens { hop, found: claims.max_depth, parent: parent.max_depth });
    }
    Ok(())
}

/// What a new hop is to say.
#[derive(Debug, Clone)]
pub struct Terms {
    pub to: PublicKey,
    pub audience: String,
    pub exp: i64,
    pub capabilities: Capabilities,
    /// The sub-agent's own depth where there is none: it may hand on nothing.
    pub max_depth: Option<u32>,
}

/// `chain` with one hop more, signed by `key`; refuses what the daemon would refuse. `chain` is that of
/// the agent that grants, empty for a top agent. Also gives the new hop's jti.
pub fn extend(
    chain: &[String],
    key: &dyn KeySource,
    terms: Terms,
    now: i64,
) -> Result<(Vec<String>, String), ChainError> {
    let mut id = [0u8; 16];
    getrandom::fill(&mut id).map_err(KeyError::Randomness)?;
    let jti = hex::encode(id);
    let claims = Claims {
        iss: key.public().did(),
        sub: terms.to.did(),
        aud: terms.audience.clone(),
        exp: terms.exp,
        jti: jti.clone(),
        parent_hash: chain.last().map(|parent| jws::hash(parent)),
        cap: terms.capabilities,
        max_depth: terms.max_depth.unwrap_or_else(|| depth_of(chain.len() + 1)),
    };
    let mut longer = chain.to_vec();
    longer.push(claims.sign(key)?);
    check(&longer, &terms.audience, now)?;
    Ok((longer, jti))
}

/// The hops of a file as `lazaret agent delegate` writes it: one on a line, outermost first.
pub fn read_lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}
