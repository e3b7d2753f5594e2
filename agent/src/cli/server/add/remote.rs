//! `--url` and what belongs to it.

use crate::admission::{OAuth, Remote, SecretHeader};
use crate::cli::CliError;
use crate::cli::args::server::{RemoteArgs, ServerAddArgs};

const MARK: &str = "secret:";

pub(super) fn definition(url: &str, args: &RemoteArgs) -> Result<Remote, CliError> {
    let headers = args.headers.iter().map(|text| header(text)).collect::<Result<Vec<_>, _>>()?;
    let oauth = oauth(args)?;
    Remote::new(url, headers, args.private, args.plain_http, oauth)
        .map_err(|why| CliError::Usage(format!("cannot use --url: {why}")))
}

pub(super) fn oauth(args: &RemoteArgs) -> Result<Option<OAuth>, CliError> {
    let client_secret = match &args.oauth_client_secret {
        None => None,
        Some(text) => Some(text.strip_prefix(MARK).map(str::to_owned).ok_or_else(|| {
            // Not shown: it may be the secret.
            CliError::Usage(
                "cannot take --oauth-client-secret from an argument, which others see; write secret:REF".into(),
            )
        })?),
    };
    Ok(args.oauth.then(|| OAuth {
        grant: args.oauth_grant,
        client_id: args.oauth_client_id.clone(),
        client_secret,
        scopes: args.oauth_scopes.iter().cloned().collect(),
        issuer: args.oauth_issuer.clone(),
    }))
}

fn header(text: &str) -> Result<SecretHeader, CliError> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| CliError::Usage("cannot read --header: it has no value; write NAME=secret:REF".into()))?;
    let (prefix, secret) = value.split_once(MARK).ok_or_else(|| {
        CliError::Usage(format!(
            "cannot take the header {name} from an argument, which others see; write --header '{name}=secret:REF', and --secret REF or --secret REF=@FILE"
        ))
    })?;
    Ok(SecretHeader { name: name.to_ascii_lowercase(), prefix: prefix.into(), secret: secret.into() })
}

/// Nothing of it runs here, so that nothing of it can be loosened here.
pub(super) fn refuse_what_is_of_a_cage(args: &ServerAddArgs) -> Result<(), CliError> {
    let given = [
        ("--env", !args.env.is_empty()),
        ("--mount", !args.mounts.is_empty()),
        ("--egress", !args.egress.is_empty()),
        ("--egress-private", !args.egress_private.is_empty()),
        ("a command", !args.command.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((what, _)) => {
            Err(CliError::Usage(format!("cannot use {what} with --url: a remote server has no cage here")))
        }
        None => Ok(()),
    }
}
