//! Servers that somebody else runs: whom their TLS is trusted by, and where nobody is logged in.

use super::Check;
use crate::api::client::ClientError;
use crate::api::types::ServerView;
use crate::cli::instance::Instance;
use crate::remote;

pub async fn checks(instance: &Instance) -> Vec<Check> {
    of_answer(instance.admin().get("/v1/servers").await, remote::trusted_authorities)
}

/// Nothing where there are no remote servers, or no daemon to ask: that has its own check. A list that cannot be read is
/// not an empty one.
fn of_answer(
    servers: Result<Vec<ServerView>, ClientError>,
    authorities: impl Fn() -> Result<usize, String>,
) -> Vec<Check> {
    let (error, remedy) = match servers {
        Ok(servers) => return of_servers(&servers, authorities),
        Err(ClientError::Unreachable { .. }) => return Vec::new(),
        Err(e @ ClientError::Socket { .. }) => (e, "run this as an operator"),
        Err(e @ ClientError::Refused(_)) => (e, "see the daemon's log; `lazaret server list` asks for the same list"),
        Err(e @ ClientError::Broken { .. }) => (e, "use a `lazaret` of the daemon's version; see its log"),
    };
    let detail = format!("the list of servers cannot be read, and what is wrong with them is not known: {error}");
    match error {
        ClientError::Socket { .. } => vec![Check::warn("servers", detail, remedy)],
        _ => vec![Check::fail("servers", detail, remedy)],
    }
}

fn of_servers(servers: &[ServerView], authorities: impl Fn() -> Result<usize, String>) -> Vec<Check> {
    let remote: Vec<_> = servers.iter().filter(|server| server.launch.source.is_remote()).collect();
    if remote.is_empty() {
        return Vec::new();
    }
    let mut checks = vec![match authorities() {
        Ok(count) => Check::ok("remote servers", format!("{}, and {count} certificate authorities", remote.len())),
        Err(why) => Check::fail("remote servers", why, "install ca-certificates, or set SSL_CERT_FILE for the daemon"),
    }];
    let waiting = remote.iter().filter(|server| {
        server.login.as_ref().is_some_and(|login| !login.logged_in && (login.since.is_some() || !login.refreshes))
    });
    checks.extend(waiting.map(|server| {
        let name = &server.name;
        Check::warn("login", format!("nobody is logged in at {name}"), format!("`lazaret server login {name}`"))
    }));
    checks
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind as ErrorKindOfIo;

    use super::*;
    use crate::admission::OAuth;
    use crate::api::types::{Counts, ErrorBody, ErrorKind};
    use crate::cli::doctor::Verdict;
    use crate::remote::LoginView;
    use crate::remote::testing::server;

    #[test]
    fn a_login_that_is_missing_and_a_host_without_authorities_are_told() {
        let nobody: LoginView = serde_json::from_str(r#"{"logged_in":false}"#).unwrap();
        let waits = ServerView {
            login: Some(nobody),
            ..ServerView::new(server("https://a.example/", Some(OAuth::default())), Counts::default(), None)
        };
        assert!(of_servers(&[], || Ok(1)).is_empty());
        let verdicts = |authorities: Result<usize, String>| -> Vec<Verdict> {
            of_servers(std::slice::from_ref(&waits), || authorities.clone()).iter().map(|check| check.verdict).collect()
        };
        assert_eq!(verdicts(Ok(140)), [Verdict::Ok, Verdict::Warn]);
        assert_eq!(verdicts(Err("none".into())), [Verdict::Fail, Verdict::Warn]);
    }
    #[test]
    fn a_list_that_cannot_be_read_is_not_an_empty_one() {
        let refused = ErrorBody { kind: ErrorKind::Failed, message: "the record x in servers cannot be read".into() };
        let of = |error| of_answer(Err(error), || Ok(1));
        for (error, verdict) in [
            (ClientError::Refused(refused), Verdict::Fail),
            (ClientError::Broken { cause: "expected `[`".into() }, Verdict::Fail),
            (
                ClientError::Socket { socket: "/run/x".into(), source: ErrorKindOfIo::PermissionDenied.into() },
                Verdict::Warn,
            ),
        ] {
            let (cause, checks) = (error.to_string(), of(error));
            assert_eq!(checks.iter().map(|check| check.verdict).collect::<Vec<_>>(), [verdict]);
            assert!(checks[0].detail.ends_with(&cause) && checks[0].remedy.is_some(), "{checks:?}");
        }
        let nobody = ClientError::Unreachable { socket: "/run/x".into(), source: ErrorKindOfIo::NotFound.into() };
        assert!(of(nobody).is_empty(), "the check of the daemon says that");
        assert!(of_answer(Ok(Vec::new()), || Ok(1)).is_empty());
    }
}
