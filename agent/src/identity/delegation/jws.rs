//! One hop as text: a compact JWS with one fixed header, so that there is nothing to choose for whoever writes one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Capabilities;
use crate::identity::{KeyError, KeySource, PublicKey, Signature};
use crate::proxy::json::Json;

/// Longest hop in bytes.
pub const MAX_JWS: usize = 8 << 10;
/// RFC 8037's algorithm name; the type keeps other JWTs of the same key out.
const HEADER: &str = r#"{"alg":"EdDSA","typ":"lazaret-delegation+jwt"}"#;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    #[error("it is longer than {MAX_JWS} bytes")]
    TooLong,
    #[error("it is not three parts of base64url with a point between them")]
    Form,
    #[error("its header is not {HEADER}")]
    Header,
    #[error("its claims are not what a delegation has ({0})")]
    Claims(String),
    #[error("its signature does not fit the key of {0}")]
    Signature(String),
}

/// What one hop says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// did of the agent that grants.
    pub iss: String,
    /// did of the sub-agent.
    pub sub: String,
    /// did of the daemon that the grant is for.
    pub aud: String,
    /// Unix seconds from which on it is worth nothing.
    pub exp: i64,
    /// 32 hex digits; what a revocation names.
    pub jti: String,
    /// base64url of the SHA-256 over the hop before, as it stands; absent in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_hash: Option<String>,
    pub cap: Capabilities,
    /// Deepest depth that may come of it; the sub-agent of the first hop has depth 2.
    pub max_depth: u32,
}

impl Claims {
    /// The header comes first in what is signed: no other text that a key signs for us begins so.
    pub fn sign(&self, key: &dyn KeySource) -> Result<String, KeyError> {
        #[expect(clippy::expect_used, reason = "strings and integers always encode")]
        let claims = serde_json::to_vec(self).expect("claims are JSON");
        let text = format!("{}.{}", BASE64URL.encode(HEADER), BASE64URL.encode(claims));
        let signature = key.sign(text.as_bytes())?;
        Ok(format!("{text}.{}", BASE64URL.encode(signature.to_bytes())))
    }
}

/// The claims of a hop whose signature is that of its own `iss`.
pub fn parse(text: &str) -> Result<Claims, JwsError> {
    if text.len() > MAX_JWS {
        return Err(JwsError::TooLong);
    }
    let mut parts = text.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(JwsError::Form);
    };
    let decode = |part: &str| BASE64URL.decode(part).map_err(|_| JwsError::Form);
    if decode(header)? != HEADER.as_bytes() {
        return Err(JwsError::Header);
    }
    let signature: [u8; 64] = decode(signature)?.try_into().map_err(|_| JwsError::Form)?;
    let payload = String::from_utf8(decode(payload)?).map_err(|_| JwsError::Claims("not UTF-8".into()))?;
    // Through the tree that refuses duplicate members: two readers must not see two grants.
    let tree = Json::parse(&payload, 4).map_err(|e| JwsError::Claims(e.to_string()))?;
    let claims: Claims = serde_json::from_value(tree.to_value()).map_err(|e| JwsError::Claims(e.to_string()))?;
    if claims.jti.len() != 32 || !claims.jti.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(JwsError::Claims("jti is not 32 hex digits".into()));
    }
    let issuer = PublicKey::from_did(&claims.iss).map_err(|_| JwsError::Claims("iss is no Ed25519 did:key".into()))?;
    PublicKey::from_did(&claims.sub).map_err(|_| JwsError::Claims("sub is no Ed25519 did:key".into()))?;
    let signed = &text[..header.len() + 1 + text[header.len() + 1..].find('.').unwrap_or_default()];
    issuer
        .verify(signed.as_bytes(), &Signature::from_bytes(&signature))
        .map_err(|_| JwsError::Signature(claims.iss.clone()))?;
    Ok(claims)
}

/// What the next hop names as its `parent_hash`.
pub(super) fn hash(text: &str) -> String {
    BASE64URL.encode(Sha256::digest(text.as_bytes()))
}
