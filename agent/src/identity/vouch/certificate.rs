//! SSH certificates: a key that is not listed itself, and is named by one that is listed as `cert-authority`.
//!
//! Invariant: nothing that a certificate says counts before its authority's signature was verified.

use jiff::Timestamp;
use ssh_key::Certificate;
use ssh_key::encoding::Encode as _;

use super::sshsig::{fits, is_supported};
use crate::identity::actions::wildcard;

/// The principals of a certificate that `patterns` (of the authority's line) let in at `at`. The error completes
/// "the certificate ...".
pub(super) fn principals(certificate: &Certificate, patterns: &str, at: Timestamp) -> Result<String, String> {
    let authority = certificate.signature_key();
    if !is_supported(authority) {
        return Err(format!("is signed by a {} key, which is not supported", authority.algorithm()));
    }
    let whole = certificate.to_bytes().map_err(|e| format!("cannot be read ({e})"))?;
    // The signature ends it, and covers all before.
    let end = certificate.signature().encoded_len_prefixed().map_err(|e| format!("cannot be read ({e})"))?;
    let signed = whole.len().checked_sub(end).and_then(|end| whole.get(..end));
    if !signed.is_some_and(|signed| fits(authority, signed, certificate.signature())) {
        return Err("is not signed by its authority".into());
    }
    if !certificate.cert_type().is_user() {
        return Err("is a host's, not a person's; sign one without `ssh-keygen -h`".into());
    }
    let now = u64::try_from(at.as_second()).map_err(|_| "cannot be judged at a time before 1970".to_owned())?;
    if now < certificate.valid_after() {
        return Err("is not valid yet; check both clocks".into());
    }
    if now >= certificate.valid_before() {
        return Err("has ended; have a new one signed".into());
    }
    if let Some(option) = certificate.critical_options().keys().next() {
        let option: String = option.chars().take(40).collect();
        return Err(format!("has the critical option {option:?}, which says nothing about a vouch; sign one without"));
    }
    let named = certificate.valid_principals();
    if named.is_empty() {
        return Err("names nobody; sign one with `ssh-keygen -n PRINCIPAL`".into());
    }
    let mut let_in = named.iter().filter(|name| listed(patterns, name)).map(String::as_str).peekable();
    if let_in.peek().is_none() {
        return Err(format!("names nobody whom the line's principals {patterns:?} let in"));
    }
    Ok(let_in.collect::<Vec<_>>().join(","))
}

/// A list of patterns with `*`, `?` and `!`: one that is negated and matches refuses.
pub(super) fn listed(list: &str, name: &str) -> bool {
    let mut found = false;
    for pattern in list.split(',').map(str::trim) {
        let (negated, pattern) = pattern.strip_prefix('!').map_or((false, pattern), |rest| (true, rest));
        if wildcard(pattern.as_bytes(), name.as_bytes(), Some(b'?')) {
            if negated {
                return false;
            }
            found = true;
        }
    }
    found
}
