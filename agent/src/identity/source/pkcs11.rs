//! A key in a PKCS#11 token: a smart card, an HSM, SoftHSM. Its library is loaded when it is used.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use super::{KeySource, TokenUri};
use crate::identity::{KeyError, PublicKey, Signature};

const PIN_VARIABLE: &str = "LAZARET_PKCS11_PIN";
const LONGEST_PIN: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot load the PKCS#11 library {0}: {1}; check module-path")]
    Library(String, String),
    #[error("cannot find the PKCS#11 token: none of the library's tokens fits {0}; see `pkcs11-tool --module LIB -L`")]
    NoToken(String),
    #[error(
        "cannot find the key in the PKCS#11 token: {0} of its keys fit {1}; see `pkcs11-tool --module LIB -O --login`"
    )]
    NoKey(usize, String),
    #[error(
        "cannot use the key in the PKCS#11 token: its public half is not there as an Ed25519 point; write it to the token beside the private key"
    )]
    NoPublic,
    #[error(
        "cannot unlock the PKCS#11 token: it wants a PIN; put it into a file of mode 0600 and name that by pin-source, or set {PIN_VARIABLE}"
    )]
    NoPin,
    #[error("cannot read the PIN from {0}: {1}")]
    PinFile(String, String),
    #[error("the PKCS#11 token failed: {0}; see `pkcs11-tool --module LIB -O --login`")]
    Token(#[from] cryptoki::error::Error),
    #[error("the PKCS#11 token gave a signature that does not fit its key; the key is not one for plain Ed25519")]
    BadSignature,
}

pub(super) struct TokenKey {
    // Before the library: what is dropped first is closed first.
    session: Mutex<Session>,
    key: ObjectHandle,
    public: PublicKey,
    _library: Pkcs11,
}

impl TokenKey {
    pub(super) fn find(uri: &TokenUri) -> Result<Self, KeyError> {
        Self::open(uri).map_err(|e| KeyError::Source(e.to_string()))
    }

    fn open(uri: &TokenUri) -> Result<Self, TokenError> {
        let failed = |e: cryptoki::error::Error| TokenError::Library(uri.module.display().to_string(), e.to_string());
        let library = Pkcs11::new(&uri.module).map_err(failed)?;
        library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(failed)?;
        let mut fitting = None;
        for slot in library.get_slots_with_token()? {
            let info = library.get_token_info(slot)?;
            let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is.trim_end());
            if fits(&uri.token, info.label()) && fits(&uri.serial, info.serial_number()) {
                fitting = Some((slot, info.login_required()));
                break;
            }
        }
        let (slot, locked) = fitting.ok_or_else(|| TokenError::NoToken(uri.to_string()))?;
        let session = library.open_ro_session(slot)?;
        if locked {
            session.login(UserType::User, Some(&pin(uri)?))?;
        }
        let find = |class| -> Result<Vec<ObjectHandle>, TokenError> {
            let mut wanted = vec![Attribute::Class(class)];
            wanted.extend(uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
            wanted.extend(uri.id.as_ref().map(|id| Attribute::Id(id.clone())));
            Ok(session.find_objects(&wanted)?)
        };
        let key = match find(ObjectClass::PRIVATE_KEY)?.as_slice() {
            [key] => *key,
            keys => return Err(TokenError::NoKey(keys.len(), uri.to_string())),
        };
        let public = match find(ObjectClass::PUBLIC_KEY)?.first() {
            Some(public) => session.get_attributes(*public, &[AttributeType::EcPoint])?,
            None => Vec::new(),
        };
        let public = public.iter().find_map(|attribute| match attribute {
            Attribute::EcPoint(point) => public_key(point),
            _ => None,
        });
        let public = public.ok_or(TokenError::NoPublic)?;
        Ok(Self { session: Mutex::new(session), key, public, _library: library })
    }
}

/// The raw 32 bytes, or those in a DER OCTET STRING: both are in use.
fn public_key(point: &[u8]) -> Option<PublicKey> {
    let raw = match point {
        [0x04, 0x20, raw @ ..] => raw,
        raw => raw,
    };
    PublicKey::from_bytes(raw.try_into().ok()?).ok()
}

fn pin(uri: &TokenUri) -> Result<AuthPin, TokenError> {
    let Some(path) = &uri.pin_source else {
        return std::env::var(PIN_VARIABLE).map(AuthPin::from).map_err(|_| TokenError::NoPin);
    };
    let failed = |cause: String| TokenError::PinFile(path.display().to_string(), cause);
    let meta = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?;
    if meta.mode() & 0o077 != 0 {
        return Err(failed(format!(
            "others than its owner may read it (mode {:04o}); run chmod 600",
            meta.mode() & 0o7777
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let pin = text.trim_end_matches(['\r', '\n']);
    if pin.is_empty() || pin.len() > LONGEST_PIN {
        return Err(failed("it holds no PIN".into()));
    }
    Ok(AuthPin::from(pin.to_owned()))
}

impl KeySource for TokenKey {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, KeyError> {
        let signed = || -> Result<Signature, TokenError> {
            let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
            let raw = session.sign(&mechanism, self.key, message)?;
            let raw: [u8; 64] = raw.try_into().map_err(|_| TokenError::BadSignature)?;
            let signature = Signature::from_bytes(&raw);
            self.public.verify(message, &signature).map_err(|_| TokenError::BadSignature)?;
            Ok(signature)
        };
        signed().map_err(|e| KeyError::Source(e.to_string()))
    }
}
