use super::*;
use crate::identity::vouch::testing::{certified, public_line, security_key, sign, signer};
use crate::identity::vouch::{NAMESPACE, verify};
use proptest::prelude::*;
use ssh_key::certificate::{Builder, CertType};
use ssh_key::{LineEnding, PublicKey, SshSig};

fn key(seed: u8) -> PublicKey {
    signer(seed).public_key().clone()
}

fn line(seed: u8, options: &str) -> String {
    format!("ann@acme.example {options} {}", public_line(&key(seed)))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn allow(text: &str, seed: u8, when: &str) -> Result<String, String> {
    let signers = Signers::parse(text, "f").map_err(|e| e.to_string())?;
    signers.allow(key(seed).key_data(), NAMESPACE, at(when)).map_err(|e| e.to_string())
}

const NOW: &str = "2026-06-01T12:00:00Z";

#[test]
fn a_key_of_the_file_may_sign_and_no_other() {
    let text = format!("# operators\n\n{}\n\t{}  a comment\r\n", line(1, ""), line(2, ""));
    assert_eq!(allow(&text, 1, NOW).unwrap(), "ann@acme.example");
    assert_eq!(allow(&text, 2, NOW).unwrap(), "ann@acme.example");
    assert!(allow(&text, 3, NOW).unwrap_err().contains("no line with this key"));
    let quoted = line(1, "").replace("ann@acme.example", "\"ann@acme.example,bob smith\"");
    assert_eq!(allow(&quoted, 1, NOW).unwrap(), "ann@acme.example,bob smith");
}

#[test]
fn namespaces_narrow_with_patterns_and_negation() {
    for good in ["vouch@lazaret", "git,vouch@*", "*", "v?uch@lazaret"] {
        assert!(allow(&line(1, &format!("namespaces=\"{good}\"")), 1, NOW).is_ok(), "{good}");
    }
    for bad in ["git", "file,git", "*,!vouch@lazaret", "!vouch@lazaret,*", "vouch"] {
        let error = allow(&line(1, &format!("namespaces=\"{bad}\"")), 1, NOW).unwrap_err();
        assert!(error.contains("line 1") && error.contains("namespaces"), "{bad}: {error}");
    }
}

#[test]
fn validity_is_kept_to_the_second() {
    let text = line(1, "valid-after=\"20260601Z\",valid-before=\"20260701123000Z\"");
    assert!(allow(&text, 1, "2026-05-31T23:59:59Z").unwrap_err().contains("valid-after"));
    assert!(allow(&text, 1, "2026-06-01T00:00:00Z").is_ok());
    assert!(allow(&text, 1, "2026-07-01T12:29:59Z").is_ok());
    assert!(allow(&text, 1, "2026-07-01T12:30:00Z").unwrap_err().contains("valid-before"));
}

#[test]
fn a_certificate_authority_signs_no_vouch_itself_and_is_told_why() {
    let error = allow(&line(1, "cert-authority"), 1, NOW).unwrap_err();
    assert!(error.contains("cert-authority") && error.contains("a key that it has certified"), "{error}");
    let both = format!("{}\n{}\n", line(1, "cert-authority"), line(1, ""));
    assert!(allow(&both, 1, NOW).is_ok(), "a later line of the same key counts");
}

#[test]
fn a_certificate_counts_for_the_people_whom_it_names_and_the_line_lets_in() {
    let by = |options: &str, shape: &dyn Fn(&mut Builder)| {
        let signers =
            Signers::parse(&line(1, options).replace("ann@acme.example", "*@acme.example,!eve@*"), "f").unwrap();
        let armour = certified(2, 1, shape);
        verify(b"document", &armour, &signers, at(NOW)).map_err(|e| e.to_string())
    };
    let named = |names: &'static [&'static str]| {
        move |cert: &mut Builder| {
            for name in names {
                cert.valid_principal(*name).unwrap();
            }
        }
    };
    let signed = by("cert-authority", &named(&["ann@acme.example", "ann@other.example", "eve@acme.example"])).unwrap();
    assert_eq!(
        (signed.by.as_str(), signed.algorithm.as_str()),
        ("ann@acme.example", "ssh-ed25519-cert-v01@openssh.com")
    );
    assert_eq!(signed.key, key(2).fingerprint(HashAlg::Sha256).to_string(), "the person's own key");

    let refused = |options: &str, shape: &dyn Fn(&mut Builder)| by(options, shape).unwrap_err();
    for (error, part) in [
        (refused("cert-authority", &named(&["eve@acme.example"])), "names nobody whom"),
        (
            refused("cert-authority", &|cert| {
                cert.all_principals_valid().unwrap();
            }),
            "names nobody; sign",
        ),
        (refused("", &named(&["ann@acme.example"])), "write cert-authority before it"),
        (refused("cert-authority,namespaces=\"git\"", &named(&["ann@acme.example"])), "namespaces"),
        (refused("cert-authority,valid-before=\"20260101Z\"", &named(&["ann@acme.example"])), "valid-before"),
        (
            refused("cert-authority", &|cert| {
                cert.valid_principal("ann@acme.example").unwrap().cert_type(CertType::Host).unwrap();
            }),
            "a host's",
        ),
        (
            refused("cert-authority", &|cert| {
                cert.valid_principal("ann@acme.example").unwrap().critical_option("verify-required", "").unwrap();
            }),
            "critical option \"verify-required\"",
        ),
    ] {
        assert!(error.contains(part) && error.contains("line 1"), "{part}: {error}");
    }
    // One that another authority has signed, and one outside of its time.
    let signers = Signers::parse(&line(1, "cert-authority"), "f").unwrap();
    let other = verify(b"document", &certified(2, 3, &named(&["ann@acme.example"])), &signers, at(NOW)).unwrap_err();
    assert!(other.to_string().contains("no cert-authority line"), "{other}");
    let good = certified(2, 1, &named(&["ann@acme.example"]));
    for (when, part) in [("2026-05-31T23:59:59Z", "not valid yet"), ("2026-07-01T00:00:00Z", "has ended")] {
        let error = verify(b"document", &good, &signers, at(when)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(matches!(verify(b"Document", &good, &signers, at(NOW)), Err(VouchError::Mismatch)));
}

#[test]
fn a_certificate_whose_authority_has_not_signed_it_is_nobody_s() {
    let signers = Signers::parse(&line(1, "cert-authority"), "f").unwrap();
    let named = |cert: &mut Builder| {
        cert.valid_principal("ann@acme.example").unwrap();
    };
    let armour = certified(2, 1, &named);
    let signature = crate::identity::vouch::sshsig::read(&armour).unwrap();
    let bytes = signature.public_key().certificate().unwrap().to_bytes().unwrap();
    let place = bytes.windows(3).position(|window| window == b"ann").unwrap();
    let mut forged = bytes;
    forged[place..place + 3].copy_from_slice(b"bob");
    let forged = ssh_key::Certificate::from_bytes(&forged).unwrap();
    let forged = SshSig::new(forged.into(), NAMESPACE, HashAlg::Sha512, signature.signature().clone()).unwrap();
    let error = verify(b"document", &forged.to_pem(LineEnding::LF).unwrap(), &signers, at(NOW)).unwrap_err();
    assert!(error.to_string().contains("is not signed by its authority"), "{error}");
}

#[test]
fn what_is_not_understood_spoils_the_whole_file_and_names_the_line() {
    let good = line(1, "");
    for bad in [
        "ann",
        "ann ssh-ed25519",
        "ann ssh-ed25519 AAAA",
        "ann ssh-ed25519 not-base64",
        &line(1, "namespaces=vouch@lazaret"),
        &line(1, "namespaces=\"x"),
        &line(1, "namespaces=\"\""),
        &line(1, "no-such-option"),
        &line(1, "cert-authority=\"x\""),
        &line(1, "valid-after=\"2026\""),
        &line(1, "valid-after=\"20261301\""),
        &line(1, "valid-after=\"20260101Z\",valid-after=\"20260102Z\""),
        &line(1, "valid-after=\"20260102Z\",valid-before=\"20260101Z\""),
        &line(1, "namespaces=\"x\"junk"),
        "\"ann ssh-ed25519 AAAA",
    ] {
        let error = allow(&format!("{good}\n{bad}\n"), 1, NOW).unwrap_err();
        assert!(error.starts_with("f:2:"), "{bad}: {error}");
    }
}

#[test]
fn a_signature_is_bound_to_key_document_and_namespace() {
    let signers = Signers::parse(&line(1, ""), "f").unwrap();
    let check = |message: &str, armour: &str| verify(message.as_bytes(), armour, &signers, at(NOW));
    let good = sign(&signer(1), NAMESPACE, "document");
    let signed = check("document", &good).unwrap();
    assert_eq!((signed.by.as_str(), signed.algorithm.as_str()), ("ann@acme.example", "ssh-ed25519"));
    assert!(signed.key.starts_with("SHA256:"));
    assert!(matches!(check("Document", &good), Err(VouchError::Mismatch)));
    assert!(matches!(check("document", &sign(&signer(2), NAMESPACE, "document")), Err(VouchError::Signer { .. })));
    assert!(matches!(check("document", &sign(&signer(1), "git", "document")), Err(VouchError::Namespace(_))));
    for garbage in ["", "hello", "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n", &good[..100]] {
        assert!(matches!(check("document", garbage), Err(VouchError::Armour(_))), "{garbage}");
    }
}

#[test]
fn a_security_key_counts_only_when_somebody_touched_it() {
    let (key, touched) = security_key(1, NAMESPACE, "document");
    let signers = Signers::parse(&format!("ann {}", public_line(&key)), "f").unwrap();
    let signed = verify(b"document", &touched, &signers, at(NOW)).unwrap();
    assert_eq!(signed.algorithm, "sk-ssh-ed25519@openssh.com");
    // With user verification and without presence; with nothing at all.
    for flags in [0, 4] {
        let (_, untouched) = security_key(flags, NAMESPACE, "document");
        assert!(matches!(verify(b"document", &untouched, &signers, at(NOW)), Err(VouchError::NoTouch)), "{flags}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_file_or_an_error_with_a_line(text in "(\\PC|\n|\"|,|=){0,200}") {
        if let Err(e) = Signers::parse(&text, "f") {
            let is_line = matches!(&e, SignersError::Line { line, .. } if *line >= 1 && *line <= text.lines().count());
            prop_assert!(is_line, "{}", e);
        }
    }

    #[test]
    fn options_in_any_order_mean_the_same(swap: bool, seed in 1u8..4) {
        let (a, b) = ("namespaces=\"git\"", "valid-before=\"20250101Z\"");
        let options = if swap { format!("{b},{a}") } else { format!("{a},{b}") };
        prop_assert!(allow(&line(seed, &options), seed, NOW).is_err());
    }

    #[test]
    fn any_armour_is_a_signature_or_an_error(body in "[A-Za-z0-9+/=\n]{0,300}", whole: bool) {
        let text = if whole { format!("-----BEGIN SSH SIGNATURE-----\n{body}\n-----END SSH SIGNATURE-----\n") } else { body };
        let signers = Signers::parse(&line(1, ""), "f").unwrap();
        prop_assert!(verify(b"x", &text, &signers, at(NOW)).is_err());
    }

    /// One bit anywhere in a signature's bytes.
    #[test]
    fn a_signature_with_one_bit_changed_is_refused(at_byte in 0usize..160, bit in 0u8..8) {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD;
        let armour = sign(&signer(1), NAMESPACE, "document");
        let body: String = armour.lines().filter(|line| !line.starts_with("-----")).collect();
        let mut bytes = base64.decode(body).unwrap();
        let at_byte = at_byte % bytes.len();
        bytes[at_byte] ^= 1 << bit;
        let text = base64.encode(&bytes);
        let lines: Vec<&str> = text.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let changed = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"));
        let signers = Signers::parse(&line(1, ""), "f").unwrap();
        prop_assert!(verify(b"document", &changed, &signers, at(NOW)).is_err());
    }
}

/// Made by OpenSSH 9.2, `ssh-keygen -t rsa -b 2048` and `-Y sign -n vouch@lazaret`; the private half is gone.
const RSA_KEY: &str = concat!(
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDOODFTKCT012bunM7pAdVU39SxuTK20yOGYpkXUefBI9vPR9qadcy/YuMq+RNx3vPC59+aUE",
    "oFpy05ldNxp4Aq7hGkfvaUKeNDGJvUMvv4RM8sfjwaCDvXBZuuXWQNUajvhOWGS4z1u5BlgQHK01EbyjnWREOgwjk52Ge9EnIN0GFhElZgggyG",
    "RBtsPPyxGHf9jkpT9H7hYCo+9GOOswf23ypERdBD2GmqbwrQzNKm0di7Hcm0BmJEOugWpn6y/nuzkrPqUQW4qDMMgOEsszEg1X8E6gQ26AImGG",
    "zFe5wd0fpzRwcFAVGbEJuWZnClzDyW8PgoXo40v6RmHzSkg7ln",
);
const RSA_SIGNATURE: &str = "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAARcAAAAHc3NoLXJzYQAAAAMBAAEAAAEBAM44MVMoJPTXZu6czukB1V
Tf1LG5MrbTI4ZimRdR58Ej289H2pp1zL9i4yr5E3He88Ln35pQSgWnLTmV03GngCruEaR+
9pQp40MYm9Qy+/hEzyx+PBoIO9cFm65dZA1RqO+E5YZLjPW7kGWBAcrTURvKOdZEQ6DCOT
nYZ70Scg3QYWESVmCCDIZEG2w8/LEYd/2OSlP0fuFgKj70Y46zB/bfKkRF0EPYaapvCtDM
0qbR2LsdybQGYkQ66BamfrL+e7OSs+pRBbioMwyA4SyzMSDVfwTqBDboAiYYbMV7nB3R+n
NHBwUBUZsQm5ZmcKXMPJbw+ChejjS/pGYfNKSDuWcAAAANdm91Y2hAbGF6YXJldAAAAAAA
AAAGc2hhNTEyAAABFAAAAAxyc2Etc2hhMi01MTIAAAEArrdL7BlXyGPU08t/VnN9LAVpqy
cK/FDRxleeQwuTZ1Gv0/iOaw6Np1wYtYg5QRmhoNgndQCgbc2Jar5XFFj0Qg0b0EDkpCRX
8msi/5LfI01xMAPmUfwEsMCFsrGZy3RfaX1h84aExeVijAPC8mbG0jDahFrBNubjCjjOa/
qtQLn/ry/Mbv2qfyboYbXYb5RkAfI0vv3U8SKE511BkQVBANIWIj67glG6bfDcsxXgwrmX
/SQy1bQ/LMF9G07dTNgYOF0kxy5fGCNe35z32RcrS65p0jjrvYKHGqXb1aJWUDcs/etKOY
drp5xb3INtUuKlX9dge3aBjW/5YkYvC5gh+g==
-----END SSH SIGNATURE-----
";

#[test]
fn an_rsa_key_vouches_over_sha_512_and_for_its_document_alone() {
    let signers = Signers::parse(&format!("ann {RSA_KEY}"), "f").unwrap();
    let signed = verify(b"document", RSA_SIGNATURE, &signers, at(NOW)).unwrap();
    assert_eq!((signed.by.as_str(), signed.algorithm.as_str()), ("ann", "ssh-rsa"));
    assert!(matches!(verify(b"Document", RSA_SIGNATURE, &signers, at(NOW)), Err(VouchError::Mismatch)));
    // The same signature, said to be over SHA-1 or to be another key's.
    let read = crate::identity::vouch::sshsig::read(RSA_SIGNATURE).unwrap();
    let again = |key: ssh_key::public::KeyData, algorithm: ssh_key::Algorithm| {
        let signature = ssh_key::Signature::new(algorithm, read.signature_bytes()).unwrap();
        let armour = SshSig::new(key.clone(), NAMESPACE, HashAlg::Sha512, signature).unwrap();
        let line = format!("ann {}", public_line(&PublicKey::from(key)));
        let armour = armour.to_pem(LineEnding::LF).unwrap();
        verify(b"document", &armour, &Signers::parse(&line, "f").unwrap(), at(NOW)).is_ok()
    };
    let own = || read.public_key().clone();
    assert!(again(own(), ssh_key::Algorithm::Rsa { hash: Some(HashAlg::Sha512) }));
    assert!(!again(own(), ssh_key::Algorithm::Rsa { hash: None }), "SHA-1 counts for nothing");
    assert!(!again(own(), ssh_key::Algorithm::Rsa { hash: Some(HashAlg::Sha256) }));
}
