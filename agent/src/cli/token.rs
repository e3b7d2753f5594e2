//! `lazaret token`: the token is data and goes to stdout, never into an argument or a log.

use jiff::SignedDuration;
use serde_json::json;

use super::args::client::TokenArgs;
use super::instance::Instance;
use super::{CliError, connect, out, when};
use crate::api::client::{AdminClient, escape};
use crate::api::types::Done;
use crate::identity::{self, Address, TokenView, TokenWish};
use crate::proxy::connector;

pub async fn run(instance: &Instance, args: TokenArgs) -> Result<(), CliError> {
    let address: Address = args.agent.parse().map_err(|e: identity::AddressError| CliError::Usage(e.to_string()))?;
    let ttl_secs = args.ttl.as_deref().map(seconds).transpose().map_err(CliError::Usage)?;
    let key = super::agent::chosen_key(&address, &args.key)?;
    let (socket, wish) = (instance.paths.mcp_socket(), TokenWish { ttl_secs });
    let issued = connector::token(&address, &key, args.delegation.as_deref(), &socket, wish).await;
    let issued = issued.map_err(connect::failed)?;
    if args.json.json {
        return out::object("token", &issued);
    }
    if args.headers {
        return out::line(json!({ "Authorization": format!("Bearer {}", issued.token) }).to_string());
    }
    out::say(format!("Token {} for {address} at {}, until {}.", issued.id, issued.url, when(issued.expires)));
    out::line(&issued.token)
}

/// Whole seconds, at least one.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("cannot read the time {text:?}; write it as 90s, 10m or 1h");
    let span: SignedDuration = text.parse().map_err(|_| wrong())?;
    u64::try_from(span.as_secs()).ok().filter(|secs| *secs > 0).ok_or_else(wrong)
}

/// `lazaret agent token list`.
pub(super) async fn list(admin: &AdminClient, json: bool) -> Result<(), CliError> {
    let tokens: Vec<TokenView> = admin.get("/v1/tokens").await?;
    if json {
        return out::listing("token", "tokens", &tokens);
    }
    let mut rows = out::Rows::new(&["TOKEN", "AGENT", "DEPTH", "UID", "ISSUED", "EXPIRES", "REFUSED NOW"]);
    for token in &tokens {
        rows.row([
            out::plain(&token.id),
            out::plain(token.agent.to_string()),
            out::plain(token.depth.to_string()),
            out::plain(token.uid.to_string()),
            out::plain(when(token.issued)),
            out::plain(when(token.expires)),
            out::plain(token.refused.clone().unwrap_or_default()),
        ]);
    }
    rows.print("No tokens in force: `lazaret token --agent ADDRESS` makes one.")
}

/// `lazaret agent token revoke`.
pub(super) async fn revoke(admin: &AdminClient, id: &str) -> Result<(), CliError> {
    let token: TokenView = admin.post(&format!("/v1/tokens/{}/revoke", escape(id)), &Done {}).await?;
    out::say(format!("Token {} of {} is revoked.", token.id, token.agent));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_people_write_it() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("1h"), Ok(3600));
        for wrong in ["", "10", "-10m", "0s", "500ms", "1 fortnight", "∞"] {
            assert!(seconds(wrong).unwrap_err().contains("10m"), "{wrong}");
        }
    }
}
