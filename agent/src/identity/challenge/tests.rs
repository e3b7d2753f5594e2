use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, ReadHalf, WriteHalf, duplex, split};

use super::*;
use crate::audit::AuditLog;
use crate::identity::RevocationReason;
use crate::store::Store;

const PEER: Peer = Peer { uid: 1000, gid: 1000, pid: Some(42) };

struct House {
    _dir: tempfile::TempDir,
    registry: Registry,
    audit: Arc<AuditLog>,
    daemon: AgentKey,
    agent: Address,
    key: AgentKey,
}

fn house() -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    let registry = Registry::new(store, audit.clone());
    let key = AgentKey::generate().unwrap();
    let agent: Address = "claude@acme.lazaret.local".parse().unwrap();
    registry.enroll(&agent, key.public(), None, "uid:0").unwrap();
    House { _dir: dir, registry, audit, daemon: AgentKey::generate().unwrap(), agent, key }
}

type Halves = (BufReader<ReadHalf<DuplexStream>>, WriteHalf<DuplexStream>);

fn wire() -> (Halves, Halves) {
    let (a, b) = duplex(64 << 10);
    let halves = |stream| {
        let (reader, writer) = split(stream);
        (BufReader::new(reader), writer)
    };
    (halves(a), halves(b))
}

impl House {
    async fn accept(&self, (reader, writer): &mut Halves) -> Result<SessionIdentity, ChallengeError> {
        accept(reader, writer, PEER, None, &self.daemon, &self.registry).await
    }

    async fn meet(&self, key: &AgentKey) -> (Result<SessionIdentity, ChallengeError>, Result<Session, ChallengeError>) {
        let (mut door, (mut reader, mut writer)) = wire();
        tokio::join!(self.accept(&mut door), present(&mut reader, &mut writer, &self.agent, key, None))
    }

    /// The daemon's judgement on a proof that `change` has altered after signing.
    fn judge(&self, change: impl FnOnce(&mut Proof)) -> Result<String, String> {
        let hello = self.hello();
        let mut proof = self.proof(&hello);
        change(&mut proof);
        self.admit(&hello, &proof)
    }

    fn admit(&self, hello: &Hello, proof: &Proof) -> Result<String, String> {
        admit(hello, proof, PEER, &self.registry, Timestamp::now()).map_err(|refusal| refusal.reason)
    }

    fn hello(&self) -> Hello {
        let daemon_pub = self.daemon.public();
        Hello { v: VERSION, aud: daemon_pub.did(), nonce: nonce().unwrap(), daemon_pub }
    }

    fn proof(&self, hello: &Hello) -> Proof {
        self.proof_until(hello, Timestamp::now().as_second() + 30)
    }

    fn proof_until(&self, hello: &Hello, exp: i64) -> Proof {
        let session_pub = AgentKey::generate().unwrap().public();
        wire::prove(hello, &self.agent, &self.key, session_pub, nonce().unwrap(), exp, None).unwrap()
    }
}

#[tokio::test]
async fn an_enrolled_agent_and_the_daemon_prove_themselves_to_each_other() {
    let house = house();
    let (identity, session) = house.meet(&house.key).await;
    let (identity, session) = (identity.unwrap(), session.unwrap());
    assert_eq!(identity.address(), &house.agent);
    assert_eq!(identity.did(), house.key.public().did());
    assert_eq!((identity.uid(), identity.pid()), (1000, Some(42)));
    assert_eq!(identity.session(), session.id);
    assert_eq!(*identity.session_pub(), session.public());
    assert_eq!(session.daemon, house.daemon.public());
    let record = house.audit.tail(1).unwrap().remove(0);
    assert_eq!((record.outcome, record.reason.as_deref()), (Outcome::Permit, Some("connected")));
}

#[tokio::test]
async fn not_a_byte_after_the_challenge_is_taken() {
    let house = house();
    let (mut door, (mut reader, mut writer)) = wire();
    let connector = async {
        present(&mut reader, &mut writer, &house.agent, &house.key, None).await.unwrap();
        writer.write_all(b"{\"jsonrpc\"").await.unwrap();
    };
    let daemon = async {
        house.accept(&mut door).await.unwrap();
        door.1.write_all(b"mcp").await.unwrap();
        let mut first = [0; 10];
        door.0.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"{\"jsonrpc\"");
    };
    tokio::join!(connector, daemon);
    let mut first = [0; 3];
    reader.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"mcp");
}

#[tokio::test]
async fn a_stranger_and_a_wrong_key_are_told_the_same_and_what_to_do() {
    let mut house = house();
    let stranger = AgentKey::generate().unwrap();
    let (wrong_key, told) = house.meet(&stranger).await;
    assert_eq!(told.unwrap_err().to_string(), wrong_key.as_ref().unwrap_err().to_string());
    let wrong_key = wrong_key.unwrap_err().to_string();
    house.agent = "ghost@acme.lazaret.local".parse().unwrap();
    let (unknown, _) = house.meet(&stranger).await;
    let unknown = unknown.unwrap_err().to_string();
    assert_eq!(unknown.replace("ghost", "claude"), wrong_key);
    assert!(unknown.contains("lazaret agent enroll ghost@acme.lazaret.local"), "{unknown}");
    let record = house.audit.tail(1).unwrap().remove(0);
    assert_eq!(
        (record.kind, record.outcome, record.agent.as_deref()),
        (Kind::Denial, Outcome::Deny, Some("ghost@acme.lazaret.local"))
    );
}

#[tokio::test]
async fn suspended_revoked_and_rotated_agents_are_refused_and_told_so() {
    let house = house();
    house.registry.suspend(&house.agent, "o", "w").unwrap();
    let refused = house.meet(&house.key).await.1.unwrap_err().to_string();
    assert!(refused.contains("suspended") && refused.contains("agent resume"), "{refused}");
    house.registry.resume(&house.agent, "o", "w").unwrap();
    house.registry.rotate(&house.agent, AgentKey::generate().unwrap().public(), "o").unwrap();
    let refused = house.meet(&house.key).await.1.unwrap_err().to_string();
    assert!(refused.contains("revoked"), "{refused}");
    house.registry.revoke(&house.agent, RevocationReason::AdminAction, "o").unwrap();
    assert!(house.meet(&house.key).await.1.is_err());
}

#[tokio::test]
async fn who_does_not_hold_the_key_does_not_learn_the_agent_s_state() {
    let house = house();
    let stranger = AgentKey::generate().unwrap();
    let before = house.meet(&stranger).await.1.unwrap_err().to_string();
    house.registry.suspend(&house.agent, "o", "w").unwrap();
    assert_eq!(house.meet(&stranger).await.1.unwrap_err().to_string(), before);
    house.registry.revoke(&house.agent, RevocationReason::KeyCompromise, "o").unwrap();
    assert_eq!(house.meet(&stranger).await.1.unwrap_err().to_string(), before);
}

#[tokio::test]
async fn an_agent_that_is_bound_to_a_uid_serves_no_other() {
    let house = house();
    house.registry.bind_uid(&house.agent, Some(1001), "o").unwrap();
    let refused = house.meet(&house.key).await.1.unwrap_err().to_string();
    assert!(refused.contains("uid 1001"), "{refused}");
    house.registry.bind_uid(&house.agent, Some(PEER.uid), "o").unwrap();
    assert!(house.meet(&house.key).await.1.is_ok());
}

#[test]
fn a_replayed_proof_fits_no_other_hello() {
    let house = house();
    let first = house.hello();
    let proof = house.proof(&first);
    assert!(house.admit(&first, &proof).is_ok());
    assert!(house.admit(&house.hello(), &proof).is_err());
}

#[test]
fn a_proof_for_a_session_gives_no_token_and_one_for_a_token_no_session() {
    let house = house();
    let hello = house.hello();
    let wish = Some(TokenWish { ttl_secs: Some(60) });
    let session_pub = AgentKey::generate().unwrap().public();
    let exp = Timestamp::now().as_second() + 30;
    let prove =
        |token| wire::prove(&hello, &house.agent, &house.key, session_pub, nonce().unwrap(), exp, token).unwrap();
    assert!(house.admit(&hello, &prove(wish)).is_ok());
    let longer = Some(TokenWish { ttl_secs: Some(3600) });
    for (signed, sent) in [(None, wish), (wish, None), (wish, longer)] {
        assert!(house.admit(&hello, &Proof { token: sent, ..prove(signed) }).is_err(), "{signed:?} {sent:?}");
    }
}

#[test]
fn a_proof_for_another_daemon_is_refused() {
    let house = house();
    let elsewhere = AgentKey::generate().unwrap().public();
    let mine = house.hello();
    let theirs = Hello { aud: elsewhere.did(), daemon_pub: elsewhere, ..mine.clone() };
    assert!(house.admit(&mine, &house.proof(&theirs)).is_err());
}

#[test]
fn a_welcome_is_no_proof_and_a_proof_no_welcome() {
    let house = house();
    let hello = house.hello();
    let mut proof = house.proof(&hello);
    // An agent whose key the daemon's would be: its welcome, sent back, must not let it in.
    proof.sig = house.key.sign(&wire::welcome_text(&hello, &proof, "s"));
    assert!(house.admit(&hello, &proof).is_err());
    let text = wire::welcome_text(&hello, &proof, "s");
    assert!(house.key.public().verify(&text, &house.proof(&hello).sig).is_err());
}

#[test]
fn the_daemon_s_own_nonce_is_no_answer_to_it() {
    let house = house();
    let hello = house.hello();
    let session_pub = AgentKey::generate().unwrap().public();
    let exp = Timestamp::now().as_second() + 30;
    for answer in [hello.nonce.clone(), String::new(), "short".into()] {
        let proof = wire::prove(&hello, &house.agent, &house.key, session_pub, answer, exp, None).unwrap();
        assert!(house.admit(&hello, &proof).is_err());
    }
}

#[test]
fn expired_proofs_and_proofs_for_ever_are_refused() {
    let house = house();
    let hello = house.hello();
    let now = Timestamp::now().as_second();
    for exp in [now - 6, now - 3600, 0, i64::MIN] {
        assert_eq!(house.admit(&hello, &house.proof_until(&hello, exp)).unwrap_err(), "the proof has expired");
    }
    for exp in [now + 60, i64::MAX] {
        assert_eq!(
            house.admit(&hello, &house.proof_until(&hello, exp)).unwrap_err(),
            "the proof is valid for too long"
        );
    }
    for exp in [now - 3, now + 33] {
        assert!(house.admit(&hello, &house.proof_until(&hello, exp)).is_ok(), "clocks may differ a little");
    }
}

#[test]
fn every_member_of_a_proof_is_covered_by_its_signature() {
    let house = house();
    let other = AgentKey::generate().unwrap();
    let someone: Address = "someone@acme.lazaret.local".parse().unwrap();
    house.registry.enroll(&someone, other.public(), None, "o").unwrap();
    assert!(house.judge(|_| {}).is_ok());
    assert!(house.judge(|proof| proof.agent = someone).is_err());
    assert!(house.judge(|proof| proof.did = other.public().did()).is_err());
    assert!(house.judge(|proof| proof.nonce = "0".repeat(64)).is_err());
    assert!(house.judge(|proof| proof.session_pub = other.public()).is_err());
    assert!(house.judge(|proof| proof.exp += 1).is_err());
    assert!(house.judge(|proof| proof.sig = other.sign(b"")).is_err());
}

#[test]
fn the_signed_text_is_the_documented_one() {
    let house = house();
    let hello = house.hello();
    let proof = house.proof(&hello);
    let value = json!({
        "session_pub": proof.session_pub, "exp": proof.exp, "nonces": [hello.nonce, proof.nonce],
        "aud": hello.aud, "agent": proof.agent,
    });
    let jcs = crate::proxy::json::Json::from_value(&value).canonical();
    assert_eq!(String::from_utf8(wire::proof_text(&hello, &proof)).unwrap(), format!("lazaret-connect-v2\n{jcs}"));
}

/// Sends `bytes` in place of a proof and returns what the daemon made of it and what it said.
async fn knock(bytes: &[u8]) -> (ChallengeError, String) {
    let house = house();
    let (mut door, (mut reader, mut writer)) = wire();
    let knocking = async {
        writer.write_all(bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let (outcome, ()) = tokio::join!(house.accept(&mut door), knocking);
    drop(door);
    let mut said = String::new();
    reader.read_to_string(&mut said).await.unwrap();
    (outcome.unwrap_err(), said)
}

#[tokio::test]
async fn garbage_is_refused_with_a_word_on_what_belongs_here() {
    let mcp = br#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
    let twice = br#"{"type":"proof","type":"proof"}"#;
    let early = br#"{"type":"welcome","session":"s","sig":""}"#;
    for garbage in [mcp.as_slice(), b"GET / HTTP/1.1", b"{", b"\xff\xfe", b"null", b"", twice, early] {
        let (error, said) = knock(&[garbage, b"\n"].concat()).await;
        assert!(matches!(error, ChallengeError::Refused { .. }), "{error}");
        let last = said.lines().last().unwrap();
        assert!(last.contains("refused") && last.contains("lazaret connect"), "{said}");
    }
}

#[tokio::test]
async fn a_line_without_end_is_refused_before_it_fills_memory() {
    let (error, said) = knock(&vec![b'x'; 64 << 10]).await;
    assert!(matches!(error, ChallengeError::Refused { .. }) && said.contains("more than 8192 bytes"), "{error}");
    let (error, _) = knock(b"half a line").await;
    assert!(matches!(error, ChallengeError::Closed), "{error}");
}

#[tokio::test]
async fn silence_ends_at_the_deadline_on_both_sides() {
    let house = house();
    let ((mut door, _mute), (mut connector, _silent)) = (wire(), wire());
    let began = std::time::Instant::now();
    let (accepted, presented) = tokio::join!(
        house.accept(&mut door),
        present(&mut connector.0, &mut connector.1, &house.agent, &house.key, None)
    );
    assert!(matches!(accepted, Err(ChallengeError::TooSlow)));
    assert!(matches!(presented, Err(ChallengeError::TooSlow)));
    assert!(began.elapsed() >= DEADLINE && began.elapsed() < 3 * DEADLINE);
}

#[tokio::test]
async fn the_connector_knows_a_false_daemon() {
    let house = house();
    // Not the key that is expected.
    let (mut door, (mut reader, mut writer)) = wire();
    let expected = AgentKey::generate().unwrap().public();
    let (_, session) = tokio::join!(house.accept(&mut door), async {
        let session = present(&mut reader, &mut writer, &house.agent, &house.key, Some(&expected)).await;
        writer.shutdown().await.unwrap();
        session
    });
    assert!(matches!(session, Err(ChallengeError::FalseDaemon(_))));
    // A hello that was copied from the daemon, and a welcome that it did not sign.
    let (mut fake, (mut reader, mut writer)) = wire();
    let hello = house.hello();
    let thief = async {
        lines::send(&mut fake.1, &Message::Hello(hello.clone())).await.unwrap();
        let Message::Proof(proof) = lines::receive(&mut fake.0).await.unwrap() else { panic!("no proof") };
        let sig = AgentKey::generate().unwrap().sign(&wire::welcome_text(&hello, &proof, "s"));
        lines::send(&mut fake.1, &Message::Welcome(Welcome { session: "s".into(), sig })).await.unwrap();
    };
    let ((), session) = tokio::join!(thief, present(&mut reader, &mut writer, &house.agent, &house.key, None));
    assert!(matches!(session, Err(ChallengeError::FalseDaemon(_))));
}

#[tokio::test]
async fn another_version_is_named() {
    let house = house();
    let (mut fake, (mut reader, mut writer)) = wire();
    let hello = Hello { v: 1, ..house.hello() };
    lines::send(&mut fake.1, &Message::Hello(hello)).await.unwrap();
    let session = present(&mut reader, &mut writer, &house.agent, &house.key, None).await;
    assert!(matches!(session, Err(ChallengeError::Version(1))));
}

proptest::proptest! {
    #[test]
    fn any_line_is_a_message_or_an_error(line in "\\PC{0,200}|\\{\"type\":\"(proof|hello|welcome|refused)\",\\PC{0,100}\\}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = format!("{line}\nrest").into_bytes();
        let mut reader = BufReader::new(bytes.as_slice());
        let _ = runtime.block_on(lines::receive(&mut reader));
        let mut rest = Vec::new();
        runtime.block_on(reader.read_to_end(&mut rest)).unwrap();
        proptest::prop_assert!(rest.ends_with(b"rest"));
    }
}

#[tokio::test]
async fn a_process_that_is_not_the_connector_is_refused_before_it_hears_a_nonce() {
    let house = house();
    let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(other.id()).ok();
    // A pair of sockets belongs to who made it: the kernel's word is left out, as before Linux 6.5.
    let pipe = std::io::pipe().unwrap().0;
    let process = PeerProcess::of(std::os::fd::AsFd::as_fd(&pipe), Peer { pid, ..PEER });
    let (mut door, (mut reader, mut writer)) = wire();
    let (accepted, presented) = tokio::join!(
        accept(&mut door.0, &mut door.1, PEER, Some(&process), &house.daemon, &house.registry),
        present(&mut reader, &mut writer, &house.agent, &house.key, None)
    );
    other.kill().and_then(|()| other.wait()).unwrap();
    let told = presented.unwrap_err().to_string();
    assert!(told.contains("is not Lazaret's connector but") && told.contains("lazaret connect"), "{told}");
    assert!(matches!(accepted, Err(ChallengeError::Refused { .. })));
    assert_eq!(house.audit.tail(1).unwrap()[0].detail["gate"], "challenge");
    // It has ended meanwhile: its pid may be anybody's.
    let (mut door, (mut reader, mut writer)) = wire();
    let (_, presented) = tokio::join!(
        accept(&mut door.0, &mut door.1, PEER, Some(&process), &house.daemon, &house.registry),
        present(&mut reader, &mut writer, &house.agent, &house.key, None)
    );
    assert!(presented.unwrap_err().to_string().contains("has ended"));
}

#[tokio::test]
async fn this_very_program_is_taken_for_the_connector() {
    let house = house();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let peer = Peer { pid: i32::try_from(std::process::id()).ok(), ..PEER };
    let process = PeerProcess::of(std::os::fd::AsFd::as_fd(&socket), peer);
    let (mut door, (mut reader, mut writer)) = wire();
    let (accepted, presented) = tokio::join!(
        accept(&mut door.0, &mut door.1, peer, Some(&process), &house.daemon, &house.registry),
        present(&mut reader, &mut writer, &house.agent, &house.key, None)
    );
    assert!(accepted.is_ok() && presented.is_ok(), "{accepted:?}");
    let record = house.audit.tail(1).unwrap().remove(0);
    assert_eq!(record.detail["certificate"]["did"], house.key.public().did());
}
