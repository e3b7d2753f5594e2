use super::*;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt as _;

/// Made by `openssl genpkey -algorithm ed25519`; fingerprints by `openssl dgst`.
const OPENSSL_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIG7OcEk4Y5GZuMiHSEWp/NY4JDu7hlc8yZVDz0L4WCSQ
-----END PRIVATE KEY-----
";
const OPENSSL_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA72OYfXUscgXDOC0etGH1Q8bO75b8Zr1gtiAllCNtKhU=
-----END PUBLIC KEY-----
";

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn openssl_s_keys_are_read_and_written_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.pem");
    write(&path, OPENSSL_PRIVATE, 0o600);
    let key = AgentKey::load(&path).unwrap();
    assert_eq!(*key.to_pem(), OPENSSL_PRIVATE);
    let public = key.public();
    assert_eq!(public.to_spki_pem(), OPENSSL_PUBLIC);
    assert_eq!(PublicKey::from_spki_pem(OPENSSL_PUBLIC).unwrap(), public);
    assert_eq!(public.to_string(), "72OYfXUscgXDOC0etGH1Q8bO75b8Zr1gtiAllCNtKhU=");
    assert_eq!(public.fingerprint_raw(), "SHA256:YLyQYFnQhXzNWhQsNQYJUSUaQPqFrk/LiJC1I6l1/Ik=");
    assert_eq!(public.fingerprint_spki(), "SHA256:nWVJ5Zb4l5bY3YCnmwnuGAIjs5tro8EP6wrGIIj+DPU=");
}

#[test]
fn did_key_is_that_of_the_specification_s_vector() {
    let key = AgentKey(SigningKey::from_bytes(&[0; 32])).public();
    assert_eq!(key.did(), "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp");
    assert_eq!(PublicKey::from_did(&key.did()).unwrap(), key);
}

#[test]
fn a_saved_key_is_private_and_reads_back_and_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/dir/a@x.y.pem");
    let key = AgentKey::generate().unwrap();
    key.save(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(AgentKey::load(&path).unwrap().public(), key.public());
    assert!(matches!(AgentKey::generate().unwrap().save(&path), Err(KeyError::Exists { .. })));
    assert_eq!(AgentKey::load(&path).unwrap().public(), key.public());
    assert_eq!(AgentKey::load_or_create(&path).unwrap().public(), key.public());
}

#[test]
fn a_link_at_the_place_of_a_new_key_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.pem");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
    assert!(matches!(AgentKey::generate().unwrap().save(&path), Err(KeyError::Exists { .. })));
    assert!(!dir.path().join("elsewhere").exists());
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.pem");
    for mode in [0o640, 0o604, 0o620, 0o644] {
        write(&path, OPENSSL_PRIVATE, mode);
        let error = AgentKey::load(&path).unwrap_err();
        assert!(matches!(error, KeyError::TooOpen { .. }) && error.to_string().contains("chmod 600"), "{error}");
    }
}

#[test]
fn what_is_no_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.pem");
    let encrypted = OPENSSL_PRIVATE.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let long = "x".repeat(1 << 20);
    for text in ["", "hello", OPENSSL_PUBLIC, &OPENSSL_PRIVATE[..60], &encrypted, &long] {
        write(&path, text, 0o600);
        assert!(matches!(AgentKey::load(&path), Err(KeyError::NotAKey { .. })), "{text:.40}");
    }
    std::fs::write(&path, [0xff; 8]).unwrap();
    assert!(matches!(AgentKey::load(&path), Err(KeyError::NotAKey { .. })));
    assert!(matches!(AgentKey::load(dir.path()), Err(KeyError::NotAKey { .. })));
    assert!(matches!(AgentKey::load(&dir.path().join("none")), Err(KeyError::Read { .. })));
}

#[test]
fn weak_points_are_no_keys() {
    // The neutral element: it verifies a forged signature over anything.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    assert!(matches!(PublicKey::from_bytes(&neutral), Err(KeyError::Weak)));
    assert!(matches!(BASE64.encode([0; 32]).parse::<PublicKey>(), Err(KeyError::Weak)));
}

#[test]
fn a_signature_fits_one_key_and_one_message() {
    let (key, other) = (AgentKey::generate().unwrap(), AgentKey::generate().unwrap());
    let signature = key.sign(b"a");
    let read: Signature = serde_json::from_str(&serde_json::to_string(&signature).unwrap()).unwrap();
    assert_eq!(key.public().verify(b"a", &read), Ok(()));
    assert_eq!(key.public().verify(b"b", &read), Err(BadSignature));
    assert_eq!(other.public().verify(b"a", &read), Err(BadSignature));
}

#[test]
fn a_debug_print_shows_no_secret() {
    let key = AgentKey(SigningKey::from_bytes(&[7; 32]));
    assert_eq!(format!("{key:?}"), format!("AgentKey({})", key.public().did()));
}

#[test]
fn the_key_directory_is_the_most_special_one_that_is_set() {
    let address: Address = "claude@acme.lazaret.local".parse().unwrap();
    let path = |set: &[(&str, &str)]| {
        key_path(&address, |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
    };
    let all = [("LAZARET_KEY_DIR", "/k"), ("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")];
    assert_eq!(path(&all).unwrap(), Path::new("/k/claude@acme.lazaret.local.pem"));
    assert_eq!(path(&all[1..]).unwrap(), Path::new("/x/lazaret/agents/claude@acme.lazaret.local.pem"));
    assert_eq!(path(&all[2..]).unwrap(), Path::new("/h/.config/lazaret/agents/claude@acme.lazaret.local.pem"));
    assert!(matches!(path(&[]), Err(KeyError::NoHome)));
}

proptest! {
    #[test]
    fn public_keys_read_back_in_each_form(seed: [u8; 32]) {
        let key = AgentKey(SigningKey::from_bytes(&seed)).public();
        for text in [key.to_string(), key.did(), key.to_spki_pem()] {
            prop_assert_eq!(text.parse::<PublicKey>().unwrap(), key);
        }
        prop_assert_eq!(&key.to_spki_der()[12..], key.as_bytes());
    }

    #[test]
    fn any_text_is_a_public_key_or_an_error(text in "\\PC{0,100}|did:key:z[1-9A-Za-z]{0,80}|[A-Za-z0-9+/]{43}=") {
        if let Ok(key) = text.parse::<PublicKey>() {
            prop_assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        }
    }
}
