//! Keys and signatures for tests: as ssh-keygen and an authenticator make them.

use ed25519_dalek::Signer as _;
use sha2::{Digest as _, Sha256};
use ssh_key::certificate::Builder;
use ssh_key::private::Ed25519Keypair;
use ssh_key::public::{Ed25519PublicKey, KeyData, SkEd25519};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, Signature, SshSig};

pub(crate) fn signer(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

pub(crate) fn public_line(key: &PublicKey) -> String {
    key.to_openssh().unwrap()
}

pub(crate) fn sign(key: &PrivateKey, namespace: &str, message: &str) -> String {
    key.sign(namespace, HashAlg::Sha512, message.as_bytes()).unwrap().to_pem(LineEnding::LF).unwrap()
}

/// What a security key makes: its public half, and a signature with these flags.
pub(crate) fn security_key(flags: u8, namespace: &str, message: &str) -> (PublicKey, String) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let public = SkEd25519::new(Ed25519PublicKey(key.verifying_key().to_bytes()), "ssh:");
    let signed = SshSig::signed_data(namespace, HashAlg::Sha512, message.as_bytes()).unwrap();
    let trailer = [flags, 0, 0, 0, 7];
    let asserted =
        [Sha256::digest(b"ssh:").as_slice(), trailer.as_slice(), Sha256::digest(&signed).as_slice()].concat();
    let raw = [key.sign(&asserted).to_bytes().as_slice(), trailer.as_slice()].concat();
    let signature = Signature::new(Algorithm::SkEd25519, raw).unwrap();
    let data = KeyData::SkEd25519(public);
    let armour = SshSig::new(data.clone(), namespace, HashAlg::Sha512, signature).unwrap();
    (PublicKey::from(data), armour.to_pem(LineEnding::LF).unwrap())
}

/// A signature over `document` by a key that another has certified for June 2026, after `shape`.
pub(crate) fn certified(subject: u8, authority: u8, shape: &dyn Fn(&mut Builder)) -> String {
    let (subject, authority) = (signer(subject), signer(authority));
    // 1 June and 1 July.
    let mut builder = Builder::new([7; 32], subject.public_key().clone(), 1_780_272_000, 1_782_864_000).unwrap();
    shape(&mut builder);
    let certificate = builder.sign(&authority).unwrap();
    let signature = subject.sign(super::NAMESPACE, HashAlg::Sha512, b"document").unwrap();
    let armour = SshSig::new(certificate.into(), super::NAMESPACE, HashAlg::Sha512, signature.signature().clone());
    armour.unwrap().to_pem(LineEnding::LF).unwrap()
}
