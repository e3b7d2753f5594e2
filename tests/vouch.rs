//! Who an agent is and who answers for it: with the real ssh-keygen, ssh-agent and a PKCS#11 token.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use lazaret_tests::host::{House, Needs, PATIENCE, Peer, text};
use serde_json::Value;

const AGENT: &str = "claude@ann.lazaret.local";
const SIGNER: &str = "ann@acme.example";
const SOFTHSM: [&str; 2] = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"];

/// A house with an enrolled agent, where nobody's vouch counts yet.
fn house(require: bool) -> Option<House> {
    let mut house = House::or_skip(Needs::Nothing)?;
    if !found("ssh-keygen") || !found("ssh-agent") {
        lazaret_tests::skip("vouch", "ssh-keygen and ssh-agent are not installed; `cargo xtask setup` does that");
        return None;
    }
    let signers = house.path("allowed_signers");
    house.write_config(&format!("[identity]\nallowed_signers = {signers:?}\nrequire_vouch = {require}\n"));
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    Some(house)
}

fn found(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("the program can be run");
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// A new SSH key; the path of its private half.
fn ssh_key(house: &House, name: &str, kind: &str) -> PathBuf {
    let path = house.path(name);
    run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(&path));
    path
}

fn public(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

/// Lets exactly these keys vouch.
fn allow(house: &House, keys: &[&Path]) {
    let line = |key: &&Path| {
        let key = std::fs::read_to_string(public(key)).expect("a public key");
        format!("{SIGNER} namespaces=\"vouch@lazaret\" {key}")
    };
    let fresh = house.path("signers.new");
    std::fs::write(&fresh, keys.iter().map(line).collect::<String>()).expect("the file can be written");
    std::fs::rename(fresh, house.path("allowed_signers")).expect("the file can be moved");
}

fn vouch_of(house: &House) -> String {
    let output = house.cli(&["agent", "show", AGENT, "--json"]);
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    shown["agents"][0]["vouch"].as_str().expect("a state").to_owned()
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// An ssh-agent that ends with the test.
struct SshAgent {
    child: Child,
    socket: PathBuf,
}

impl SshAgent {
    fn start(house: &House) -> Self {
        let socket = house.path("ssh-agent.sock");
        let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
        let agent = Self { child: child.expect("ssh-agent can be run"), socket };
        let there = lazaret_tests::poll(PATIENCE, || agent.socket.exists().then_some(()));
        assert!(there.is_some(), "the ssh-agent has made no socket");
        agent
    }

    fn add(&self, key: &Path) {
        run(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket));
    }

    fn remove(&self, key: &Path) {
        run(Command::new("ssh-add").arg("-q").arg("-d").arg(public(key)).env("SSH_AUTH_SOCK", &self.socket));
    }

    fn lazaret(&self, house: &House, args: &[&str]) -> Output {
        let mut command = house.lazaret();
        command.args(args).env("SSH_AUTH_SOCK", &self.socket).stdin(Stdio::null());
        command.output().expect("the binary can be run")
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A token of SoftHSM with the Ed25519 key `agent`.
struct Token {
    conf: PathBuf,
    pin: PathBuf,
    uri: String,
}

impl Token {
    fn or_skip(house: &House, test: &str) -> Option<Self> {
        let Some(library) = SOFTHSM.iter().find(|path| Path::new(path).exists()) else {
            lazaret_tests::skip(test, "SoftHSM is not installed; `cargo xtask setup` does that");
            return None;
        };
        let (tokens, conf, pin) = (house.path("tokens"), house.path("softhsm.conf"), house.path("pin"));
        std::fs::create_dir(&tokens).expect("a directory can be made");
        let settings = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        std::fs::write(&conf, settings).expect("the settings can be written");
        run(Command::new("install").args(["-m", "600", "/dev/null"]).arg(&pin));
        std::fs::write(&pin, "1234\n").expect("the PIN can be written");
        let with = |program: &str| {
            let mut command = Command::new(program);
            command.env("SOFTHSM2_CONF", &conf);
            command
        };
        let init = ["--init-token", "--free", "--label", "laz", "--pin", "1234", "--so-pin", "5678"];
        run(with("softhsm2-util").args(init));
        let login = ["--module", library, "--token-label", "laz", "--login", "--pin", "1234"];
        let make = ["--keypairgen", "--key-type", "EC:edwards25519", "--label", "agent", "--id", "01"];
        run(with("pkcs11-tool").args(login).args(make));
        let uri = format!("pkcs11:token=laz;object=agent?module-path={library}&pin-source={}", pin.display());
        Some(Self { conf, pin, uri })
    }
}

fn fingerprint(key: &Path) -> String {
    let output = run(Command::new("ssh-keygen").arg("-lf").arg(public(key)));
    text(&output.stdout).split(' ').nth(1).expect("a fingerprint").to_owned()
}

/// Whether the connector shakes hands.
fn connects(command: &mut Command) -> bool {
    let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
    Peer::spawn(command).request("initialize", hello).contains("\"protocolVersion\"")
}

#[test]
fn ssh_keygen_signs_what_is_printed_and_verifies_what_lazaret_signed() {
    let Some(house) = house(false) else { return };
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let key = ssh_key(&house, kind, kind);
        allow(&house, &[&key]);
        // Theirs, checked by us.
        let document = house.path("document.json");
        let printed = house.ok(&["agent", "vouch", AGENT, "--print"]);
        std::fs::write(&document, &printed).expect("the document can be written");
        let signature = house.path("document.json.sig");
        let _former = std::fs::remove_file(&signature);
        run(Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", "vouch@lazaret", "-f"])
            .arg(&key)
            .arg(&document));
        assert_eq!(house.ok(&["agent", "vouch", AGENT, "--signature", utf8(&signature)]), "valid\n");
        // One byte more than was signed.
        std::fs::write(&document, format!("{printed}\n")).expect("the document can be written");
        let (code, said) = house.refused(&["agent", "vouch", AGENT, "--signature", utf8(&signature)]);
        assert!(code == 1 && said.contains("does not fit the document"), "{said}");

        // Ours, checked by them. A private RSA key is the ssh-agent's business.
        if kind == "rsa" {
            let agent = SshAgent::start(&house);
            agent.add(&key);
            let vouched = agent.lazaret(&house, &["agent", "vouch", AGENT, "--key", utf8(&public(&key))]);
            assert_eq!(text(&vouched.stdout), "valid\n", "{}", text(&vouched.stderr));
        } else {
            house.ok(&["agent", "vouch", AGENT, "--key", utf8(&key), "--capabilities", "time/*"]);
        }
        let vouched = &house.json(&["agent", "show", AGENT, "--json"])["agents"][0]["vouched"];
        std::fs::write(&document, canonical(&vouched["document"])).expect("the document can be written");
        std::fs::write(&signature, vouched["signature"].as_str().expect("armour"))
            .expect("the signature can be written");
        let verified = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-n", "vouch@lazaret", "-I", SIGNER, "-f"])
            .arg(house.path("allowed_signers"))
            .arg("-s")
            .arg(&signature)
            .stdin(std::fs::File::open(&document).expect("the document is there"))
            .output()
            .expect("ssh-keygen can be run");
        assert!(verified.status.success(), "{}{}", text(&verified.stdout), text(&verified.stderr));
    }
}

#[test]
fn a_certificate_of_a_listed_authority_vouches_until_its_time_is_over() {
    let Some(house) = house(false) else { return };
    let (authority, key) = (ssh_key(&house, "authority", "rsa"), ssh_key(&house, "person", "ed25519"));
    let listed = std::fs::read_to_string(public(&authority)).expect("a public key");
    let line = format!("*@acme.example cert-authority,namespaces=\"vouch@lazaret\" {listed}");
    std::fs::write(house.path("allowed_signers"), line).expect("the file can be written");
    let agent = SshAgent::start(&house);
    let certify = |principals: &str, validity: &str| {
        run(Command::new("ssh-keygen")
            .args(["-q", "-I", "laptop", "-n", principals, "-V", validity, "-s"])
            .arg(&authority)
            .arg(public(&key)));
        // The ssh-agent takes a certificate with its key.
        run(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &agent.socket));
        let certificate = house.path("person-cert.pub");
        let vouched = agent.lazaret(&house, &["agent", "vouch", AGENT, "--key", utf8(&certificate)]);
        run(Command::new("ssh-add").arg("-q").arg("-D").env("SSH_AUTH_SOCK", &agent.socket));
        vouched
    };
    let vouched = certify(SIGNER, "-1m:+1h");
    assert_eq!(text(&vouched.stdout), "valid\n", "{}", text(&vouched.stderr));
    assert!(text(&vouched.stderr).contains(&format!("{SIGNER} vouches")), "{}", text(&vouched.stderr));
    for (principals, validity, why) in
        [("ann@other.example", "-1m:+1h", "names nobody whom"), (SIGNER, "-2h:-1h", "has ended")]
    {
        let refused = certify(principals, validity);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains(why), "{}", text(&refused.stderr));
    }
    // The same by hand: what ssh-keygen makes with a certificate.
    certify(SIGNER, "-1m:+1h");
    let document = house.path("document.json");
    std::fs::write(&document, house.ok(&["agent", "vouch", AGENT, "--print"])).expect("the document can be written");
    run(Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", "vouch@lazaret", "-f"])
        .arg(house.path("person-cert.pub"))
        .arg(&document));
    let signature = house.path("document.json.sig");
    assert_eq!(house.ok(&["agent", "vouch", AGENT, "--signature", utf8(&signature)]), "valid\n");
}

/// Members of the document in their canonical order.
fn canonical(document: &Value) -> String {
    let names = ["agent", "capabilities", "did", "measurement", "not_after"];
    let members: Vec<String> = names.iter().map(|name| format!("\"{name}\":{}", document[*name])).collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn an_ssh_agent_signs_a_vouch_and_holds_an_agent_s_own_key() {
    let Some(house) = house(false) else { return };
    let (signer, own, other) =
        (ssh_key(&house, "signer", "ed25519"), ssh_key(&house, "own", "ed25519"), ssh_key(&house, "other", "ecdsa"));
    allow(&house, &[&signer]);
    let agent = SshAgent::start(&house);
    agent.add(&own);
    let none = agent.lazaret(&house, &["agent", "vouch", AGENT]);
    assert!(text(&none.stderr).contains("none of the ssh-agent's 1 keys"), "{}", text(&none.stderr));
    agent.add(&signer);
    let vouched = agent.lazaret(&house, &["agent", "vouch", AGENT]);
    assert_eq!(text(&vouched.stdout), "valid\n", "{}", text(&vouched.stderr));
    let shown = house.ok(&["agent", "show", AGENT]);
    assert!(shown.contains(SIGNER) && shown.contains("the key alone"), "{shown}");

    let source = format!("ssh-agent:{}", fingerprint(&own));
    let enrolled = agent.lazaret(&house, &["agent", "enroll", "held@ann.lazaret.local", "--key-source", &source]);
    assert!(enrolled.status.success(), "{}", text(&enrolled.stderr));
    let connect = || {
        let mut command = house.lazaret();
        command.args(["connect", "--agent", "held@ann.lazaret.local"]).env("SSH_AUTH_SOCK", &agent.socket);
        command
    };
    assert!(connects(&mut connect()));
    agent.remove(&own);
    assert!(!connects(&mut connect()), "the key is in the ssh-agent and nowhere else");
    agent.add(&other);
    let source = format!("ssh-agent:{}", fingerprint(&other));
    let wrong = agent.lazaret(&house, &["agent", "enroll", "x@ann.lazaret.local", "--key-source", &source]);
    assert!(text(&wrong.stderr).contains("must be ssh-ed25519"), "{}", text(&wrong.stderr));
}

#[test]
fn where_a_vouch_is_demanded_it_opens_the_door_and_striking_off_the_signer_shuts_it() {
    let Some(house) = house(true) else { return };
    let key = ssh_key(&house, "signer", "ed25519");
    allow(&house, &[&key]);
    let mut session = Peer::start(house.lazaret().args(["connect", "--agent", AGENT]));
    let mut call = || {
        let params = r#"{"name":"call_tool","arguments":{"server":"no","tool":"such","arguments":{}}}"#;
        session.request("tools/call", params)
    };
    let refused = call();
    assert!(refused.contains("nobody vouched") && refused.contains("lazaret agent vouch claude@ann"), "{refused}");
    house.ok(&["agent", "vouch", AGENT, "--key", utf8(&key)]);
    let passed = call();
    assert!(passed.contains("was not found"), "past the first gate: {passed}");
    allow(&house, &[]);
    let refused = call();
    assert!(refused.contains("is revoked"), "at once, in the open session: {refused}");
    assert_eq!(vouch_of(&house), "revoked");
    allow(&house, &[&key]);
    assert_eq!(vouch_of(&house), "valid");
    house.ok(&["agent", "vouch", AGENT, "--revoke", "--reason", "laptop lost"]);
    assert!(call().contains("is revoked"));
    let shown = house.ok(&["agent", "show", AGENT]);
    assert!(shown.contains("laptop lost"), "{shown}");
}

#[test]
fn a_key_is_rotated_by_both_keys_and_its_card_says_so() {
    let Some(house) = house(false) else { return };
    let connect = |key: Option<&Path>| {
        let mut command = house.lazaret();
        command.args(["connect", "--agent", AGENT]);
        if let Some(key) = key {
            command.arg("--key").arg(key);
        }
        command
    };
    assert!(connects(&mut connect(None)));
    let old_card = house.path("old.json");
    std::fs::write(&old_card, house.ok(&["agent", "card", "export", AGENT])).expect("the card can be written");
    let before = house.json(&["agent", "show", AGENT, "--json"])["agents"][0]["fingerprint"].clone();
    let after = house.ok(&["agent", "rotate", AGENT]);
    assert!(connects(&mut connect(None)), "the new key is where the old one was");
    let retired = house.home().join(format!(".config/lazaret/agents/{AGENT}.pem.retired"));
    assert!(!connects(&mut connect(Some(&retired))), "the old key is worth nothing");

    let revoked = house.json(&["agent", "revocations", "--json"]);
    let record = &revoked["revocations"][0];
    assert_eq!((&record["fingerprint"], record["reason"].as_str()), (&before, Some("key_rotation")));
    assert_eq!(record["superseded_by"].as_str(), Some(after.trim()));

    let card = house.ok(&["agent", "card", "export", AGENT, "--not-after", "30d"]);
    let path = house.path("card.json");
    std::fs::write(&path, &card).expect("the card can be written");
    let verified = house.json(&["agent", "card", "verify", utf8(&path), "--json"]);
    assert_eq!(verified["fingerprint"].as_str(), Some(after.trim()));
    std::fs::write(&path, card.replace("*/*", "*/x")).expect("the card can be written");
    assert_eq!(house.refused(&["agent", "card", "verify", utf8(&path)]).0, 1);
    // The card of the old key is whole, and its key is not taken.
    house.ok(&["agent", "card", "verify", utf8(&old_card)]);
    house.ok(&["agent", "deregister", AGENT]);
    let (_, said) = house.refused(&["agent", "card", "import", utf8(&old_card)]);
    assert!(said.contains("was revoked") && said.contains("key_rotation"), "{said}");
}

#[test]
fn an_imported_agent_waits_sees_only_its_actions_and_ends_at_its_time() {
    let Some(house) = house(false) else { return };
    let other = "reviewer@bob.lazaret.local";
    house.ok(&["agent", "enroll", other]);
    let path = house.path("card.json");
    std::fs::write(&path, house.ok(&["agent", "card", "export", other])).expect("the card can be written");
    let (_, said) = house.refused(&["agent", "card", "import", utf8(&path)]);
    assert!(said.contains("enrolled already"), "{said}");

    house.ok(&["agent", "enroll", "late@ann.lazaret.local", "--pending", "--not-after", "1h", "--allow", "time/*"]);
    let connect = || {
        let mut command = house.lazaret();
        command.args(["connect", "--agent", "late@ann.lazaret.local"]);
        command
    };
    assert!(!connects(&mut connect()), "it waits");
    house.ok(&["agent", "activate", "late@ann.lazaret.local"]);
    let mut session = Peer::start(&mut connect());
    let shown = house.ok(&["agent", "set", "late@ann.lazaret.local", "--calls-per-day", "7", "--owner", "bob"]);
    assert!(shown.contains("time/*") && shown.contains("7 calls a day") && shown.contains("bob"), "{shown}");
    // Its end comes while it is connected.
    let soon = run(Command::new("date").args(["-u", "-d", "2 seconds", "+%Y-%m-%dT%H:%M:%SZ"]));
    house.ok(&["agent", "set", "late@ann.lazaret.local", "--not-after", text(&soon.stdout).trim()]);
    let ended = lazaret_tests::poll(PATIENCE, || {
        let state = &house.json(&["agent", "show", "late@ann.lazaret.local", "--json"])["agents"][0]["state"];
        (state == "expired").then_some(())
    });
    assert!(ended.is_some(), "the timer did not end it");
    session.wait_for_end();
}

#[test]
fn a_key_in_a_token_connects_and_its_library_never_runs_where_the_kernel_trusts_the_program() {
    let Some(house) = house(false) else { return };
    let Some(token) = Token::or_skip(&house, "a_key_in_a_token") else { return };
    let (uri, pin) = (token.uri.clone(), token.pin.clone());
    let lazaret = |args: &[&str]| {
        let mut command = house.lazaret();
        command.env("SOFTHSM2_CONF", &token.conf).args(args);
        command
    };
    run(&mut lazaret(&["agent", "enroll", "hsm@ann.lazaret.local", "--key-source", &uri]));
    assert!(connects(&mut lazaret(&["connect", "--agent", "hsm@ann.lazaret.local"])));
    // The helper by itself, as somebody would start it to get a library of his into a trusted process.
    let alone = lazaret(&["agent", "open-token", &uri]).stdin(Stdio::null()).output().expect("the binary can be run");
    assert!(
        !alone.status.success() && text(&alone.stderr).contains("where the kernel trusts"),
        "{}",
        text(&alone.stderr)
    );
    std::fs::write(&pin, "9999\n").expect("the PIN can be written");
    assert!(!connects(&mut lazaret(&["connect", "--agent", "hsm@ann.lazaret.local"])), "a wrong PIN opens nothing");
}

#[test]
fn parents_whose_keys_are_in_an_ssh_agent_and_in_a_token_grant_as_those_with_a_file() {
    let Some(house) = house(false) else { return };
    let Some(token) = Token::or_skip(&house, "parents_whose_keys_are_in_an_ssh_agent_and_in_a_token") else { return };
    let ssh_agent = SshAgent::start(&house);
    let own = ssh_key(&house, "own", "ed25519");
    ssh_agent.add(&own);
    let lazaret = |args: &[&str]| {
        let mut command = house.lazaret();
        command.env("SOFTHSM2_CONF", &token.conf).env("SSH_AUTH_SOCK", &ssh_agent.socket).args(args);
        command.stdin(Stdio::null());
        command
    };
    let (top, middle, leaf) = ("top@ann.lazaret.local", "middle@ann.lazaret.local", "leaf@ann.lazaret.local");
    run(&mut lazaret(&["agent", "enroll", top, "--key-source", &format!("ssh-agent:{}", fingerprint(&own))]));
    run(&mut lazaret(&["agent", "enroll", middle, "--sub-agent", "--key-source", &token.uri]));
    house.ok(&["agent", "enroll", leaf, "--sub-agent"]);

    let (first, both) = (house.path("middle.chain"), house.path("leaf.chain"));
    // Each signs with the key that it was enrolled with; the sub-agent's public key is looked up there too.
    let grant = ["agent", "delegate", top, middle, "--cap", "*:*", "--max-depth", "3", "--out", utf8(&first)];
    run(&mut lazaret(&grant));
    let onward =
        ["agent", "delegate", middle, leaf, "--cap", "*:*", "--delegation", utf8(&first), "--out", utf8(&both)];
    run(&mut lazaret(&onward));
    assert_eq!(std::fs::read_to_string(&both).expect("a chain").lines().count(), 2);
    assert!(connects(&mut lazaret(&["connect", "--agent", middle, "--delegation", utf8(&first)])));
    assert!(connects(&mut lazaret(&["connect", "--agent", leaf, "--delegation", utf8(&both)])));
    let longer = [&onward[..8], &["--ttl", "9h"]].concat();
    let output = lazaret(&longer).output().expect("the binary can be run");
    assert!(text(&output.stderr).contains("later than hop 1"), "{}", text(&output.stderr));
    // Named by hand, as for an agent that this user did not enroll.
    run(&mut lazaret(&[&onward[..], &["--key-source", &token.uri]].concat()));
    assert!(connects(&mut lazaret(&["connect", "--agent", leaf, "--delegation", utf8(&both)])));

    // A key that cannot be used grants nothing, and says what to do.
    let refused = |args: &[&str]| {
        let output = lazaret(args).output().expect("the binary can be run");
        assert!(!output.status.success(), "{args:?}");
        text(&output.stderr)
    };
    ssh_agent.remove(&own);
    let said = refused(&["agent", "delegate", top, middle, "--cap", "*:*", "--out", utf8(&house.path("none.chain"))]);
    assert!(said.contains("ssh-agent") && !house.path("none.chain").exists(), "{said}");
    std::fs::write(&token.pin, "9999\n").expect("the PIN can be written");
    let said = refused(&[&onward[..8], &["--out", utf8(&house.path("none.chain"))]].concat());
    assert!(said.contains("PIN") && !house.path("none.chain").exists(), "{said}");
}
