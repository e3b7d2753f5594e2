//! Servers that somebody else runs: whom their TLS is trusted by, and where nobody is logged in.

use super::Check;
use crate::api::types::ServerView;
use crate::cli::instance::Instance;
use crate::remote;

/// Nothing where there are none, or where the daemon does not say.
pub async fn checks(instance: &Instance) -> Vec<Check> {
    let servers: Vec<ServerView> = instance.admin().get("/v1/servers").await.unwrap_or_default();
    of_servers(&servers, remote::trusted_authorities)
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
    use super::*;
    use crate::admission::OAuth;
    use crate::api::types::Counts;
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
}
