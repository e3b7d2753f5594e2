use super::*;
use crate::audit::AuditLog;
use crate::identity::{AgentKey, RevocationReason};
use crate::store::Store;

const URL: &str = "http://127.0.0.1:7777/mcp";
const LIMITS: TokenLimits = TokenLimits { default_secs: 600, max_secs: 3600 };

struct House {
    registry: Registry,
    audit: Arc<AuditLog>,
    agent: Address,
    proven: SessionIdentity,
    _dir: tempfile::TempDir,
}

fn house() -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    let registry = Registry::new(store, audit.clone());
    let agent: Address = "claude@acme.lazaret.local".parse().unwrap();
    let key = AgentKey::generate().unwrap().public();
    registry.enroll(&agent, key, None, "operator").unwrap();
    House { registry, audit, proven: SessionIdentity::for_test(&agent, &key), agent, _dir: dir }
}

impl House {
    fn uid(&self) -> Option<u32> {
        Some(self.proven.uid())
    }

    fn use_of(&self, tokens: &Tokens, token: &str, uid: Option<u32>) -> Result<Arc<Grant>, TokenRefused> {
        tokens.admit(&self.registry, Some(format!("Bearer {token}").as_bytes()), uid, URL)
    }
}

fn tokens() -> Tokens {
    Tokens::new(Some(URL.into()), LIMITS)
}

#[test]
fn a_token_stands_for_the_session_that_was_proven() {
    let (house, tokens) = (house(), tokens());
    let issued = tokens.mint(&house.registry, &house.proven).unwrap();
    let grant = house.use_of(&tokens, &issued.token, house.uid()).unwrap();
    assert_eq!(grant.identity().session(), house.proven.session());
    assert_eq!(grant.identity().did(), house.proven.did());
    assert_eq!(grant.identity().transport(), Transport::Http);
    assert_eq!(grant.identity().pid(), None);
    assert_eq!(issued.expires, grant.expires);
    assert_eq!(tokens.list(&house.registry).len(), 1);
}

#[test]
fn a_token_that_somebody_else_uses_elsewhere_or_later_is_refused() {
    let (house, tokens) = (house(), tokens());
    let issued = tokens.mint(&house.registry, &house.proven).unwrap();
    let stolen = |uid| house.use_of(&tokens, &issued.token, uid);
    assert!(matches!(stolen(Some(house.proven.uid() + 1)), Err(TokenRefused::OtherUser { .. })));
    assert!(matches!(stolen(None), Err(TokenRefused::OtherUser { uid: None, .. })));
    let header = format!("Bearer {}", issued.token);
    let elsewhere = tokens.admit(&house.registry, Some(header.as_bytes()), house.uid(), "http://127.0.0.1:1/mcp");
    assert!(matches!(elsewhere, Err(TokenRefused::Audience(_))));
    let another = Tokens::new(Some(URL.into()), LIMITS);
    assert!(matches!(house.use_of(&another, &issued.token, house.uid()), Err(TokenRefused::Unknown)));
    assert!(matches!(tokens.admit(&house.registry, None, house.uid(), URL), Err(TokenRefused::Missing)));
    assert!(house.use_of(&tokens, &issued.token, house.uid()).is_ok(), "the honest user keeps it");
}

#[test]
fn an_expired_token_is_refused_and_not_listed() {
    let (house, tokens) = (house(), tokens());
    let issued = tokens.mint(&house.registry, &house.proven).unwrap();
    let old = {
        let mut held = tokens.held();
        let grant = held.remove(&issued.id).unwrap();
        let grant = Arc::into_inner(grant).unwrap();
        let past = Grant { expires: grant.issued, ..grant };
        held.insert(issued.id.clone(), Arc::new(past));
        issued.token
    };
    let refused = house.use_of(&tokens, &old, house.uid()).unwrap_err();
    assert!(matches!(refused, TokenRefused::Expired(_)));
    assert!(refused.next_step().contains("lazaret token --agent"), "{}", refused.next_step());
    assert!(tokens.list(&house.registry).is_empty());
}

#[test]
fn a_token_ends_with_its_agent_its_key_and_its_user_at_once() {
    let (house, tokens) = (house(), tokens());
    let token = tokens.mint(&house.registry, &house.proven).unwrap().token;
    let refused = || match house.use_of(&tokens, &token, house.uid()) {
        Err(TokenRefused::NotActive(why)) => why.to_string(),
        other => panic!("{other:?}"),
    };
    house.registry.suspend(&house.agent, "o", "w").unwrap();
    assert!(refused().contains("suspended"));
    house.registry.resume(&house.agent, "o", "w").unwrap();
    assert!(house.use_of(&tokens, &token, house.uid()).is_ok());
    house.registry.bind_uid(&house.agent, Some(house.proven.uid() + 1), "o").unwrap();
    assert!(refused().contains("only be used by uid"));
    house.registry.bind_uid(&house.agent, None, "o").unwrap();
    house.registry.rotate(&house.agent, AgentKey::generate().unwrap().public(), "o").unwrap();
    assert!(refused().contains("not enrolled here with this key"));
    house.registry.revoke(&house.agent, RevocationReason::AdminAction, "o").unwrap();
    refused();
}

#[test]
fn a_revoked_token_is_refused_and_what_runs_on_it_ends() {
    let (house, tokens) = (house(), tokens());
    let issued = tokens.mint(&house.registry, &house.proven).unwrap();
    let grant = house.use_of(&tokens, &issued.token, house.uid()).unwrap();
    assert_eq!(tokens.revoke(&house.registry, &issued.id, "operator").unwrap().unwrap().id, issued.id);
    assert!(grant.over().is_cancelled());
    assert!(matches!(house.use_of(&tokens, &issued.token, house.uid()), Err(TokenRefused::Unknown)));
    assert!(tokens.revoke(&house.registry, &issued.id, "operator").unwrap().is_none());
}

#[test]
fn nobody_gets_a_token_for_longer_or_more_of_them_than_may_be() {
    let (mut house, tokens) = (house(), tokens());
    house.proven.wish = Some(TokenWish { ttl_secs: Some(3601) });
    assert!(matches!(tokens.mint(&house.registry, &house.proven), Err(TokenRefused::TooLong { max: 3600, .. })));
    house.proven.wish = Some(TokenWish { ttl_secs: Some(u64::MAX) });
    assert!(tokens.mint(&house.registry, &house.proven).is_err());
    house.proven.wish = Some(TokenWish { ttl_secs: Some(3600) });
    for _ in 0..MOST_OF_ONE {
        tokens.mint(&house.registry, &house.proven).unwrap();
    }
    assert!(matches!(tokens.mint(&house.registry, &house.proven), Err(TokenRefused::TooMany(_))));
    let off = Tokens::new(None, LIMITS);
    assert!(matches!(off.mint(&house.registry, &house.proven), Err(TokenRefused::Off)));
}

#[test]
fn the_log_has_the_token_s_id_and_never_its_secret() {
    let (house, tokens) = (house(), tokens());
    let issued = tokens.mint(&house.registry, &house.proven).unwrap();
    house.use_of(&tokens, &issued.token, Some(1)).unwrap_err();
    let secret = issued.token.rsplit('_').next().unwrap();
    let mut tampered = issued.token.clone();
    tampered.replace_range(tampered.len() - 1.., if tampered.ends_with('0') { "1" } else { "0" });
    house.use_of(&tokens, &tampered, house.uid()).unwrap_err();
    tokens.revoke(&house.registry, &issued.id, "operator").unwrap();
    let log = serde_json::to_string(&house.audit.tail(50).unwrap()).unwrap();
    assert!(!log.contains(secret) && !log.contains(&secret[..63]), "{log}");
    assert!(log.contains("token issued") && log.contains("token revoked") && log.contains(&issued.id), "{log}");
    assert!(log.contains("issued to uid"), "{log}");
    assert!(!format!("{issued:?}").contains(secret));
}

#[test]
fn a_sub_agent_s_token_ends_with_every_grant_and_every_agent_above_it() {
    use crate::identity::delegation::{Capabilities, Terms, extend};
    use crate::identity::{Enrolment, PublicKey};

    let house = house();
    let keys = [(); 4].map(|()| AgentKey::generate().unwrap());
    let [top, middle, leaf, daemon] = &keys;
    house.registry.rotate(&house.agent, top.public(), "o").unwrap();
    let names = ["reviewer@acme.lazaret.local", "linter@acme.lazaret.local"].map(|name| name.parse().unwrap());
    let enroll = |address: &Address, key: PublicKey| {
        let enrolment = Enrolment { sub_agent: true, ..Enrolment::default() };
        house.registry.enroll_with(address, key, enrolment, "o").unwrap()
    };
    enroll(&names[0], middle.public());
    let agent = enroll(&names[1], leaf.public());
    let (now, audience) = (Timestamp::now().as_second(), daemon.public().did());
    let terms = |to: &AgentKey| {
        let capabilities = Capabilities::new(vec!["time:*".parse().unwrap()]).unwrap();
        Terms { to: to.public(), audience: audience.clone(), exp: now + 60, capabilities, max_depth: Some(3) }
    };
    let tokens = tokens();
    let chain = || {
        let (first, above) = extend(&[], top, terms(middle), now).unwrap();
        let (chain, own) = extend(&first, middle, terms(leaf), now).unwrap();
        let lineage = house.registry.lineage(&agent, &leaf.public(), &chain, &audience).unwrap();
        let proven = SessionIdentity::for_test(&names[1], &leaf.public()).with_lineage(lineage);
        (tokens.mint(&house.registry, &proven).unwrap(), [above, own])
    };
    let refused = |token: &IssuedToken| match house.use_of(&tokens, &token.token, house.uid()) {
        Err(TokenRefused::NotActive(why)) => why.to_string(),
        other => panic!("{other:?}"),
    };
    for revoked in [0, 1] {
        let (token, grants) = chain();
        assert!(token.expires.as_second() <= now + 60, "no longer than its delegation");
        let grant = house.use_of(&tokens, &token.token, house.uid()).unwrap();
        assert_eq!((grant.identity().lineage().depth, grant.identity().lineage().hops.len()), (3, 3));
        house.registry.revoke_delegation(&grants[revoked], "o").unwrap();
        assert!(refused(&token).contains(&grants[revoked]));
        let listed = tokens.list(&house.registry).into_iter().find(|view| view.id == token.id).unwrap();
        assert_eq!((listed.depth, &listed.delegations[..]), (3, &grants[..]));
        assert!(listed.refused.unwrap().contains("was revoked"));
    }
    let (token, _) = chain();
    for above in [&house.agent, &names[0]] {
        house.registry.suspend(above, "o", "w").unwrap();
        assert!(refused(&token).contains("acts for another agent that may not"));
        house.registry.resume(above, "o", "w").unwrap();
        assert!(house.use_of(&tokens, &token.token, house.uid()).is_ok());
    }
    house.registry.revoke(&house.agent, RevocationReason::AdminAction, "o").unwrap();
    refused(&token);
}
