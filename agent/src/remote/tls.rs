//! Whom TLS is trusted by: the certificate authorities of this host (`SSL_CERT_FILE` is heard).

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};

type Loaded = Result<(Arc<ClientConfig>, usize), String>;

/// Read when it is first needed, once.
#[derive(Clone)]
pub(super) struct Trust(Arc<OnceLock<Loaded>>);

impl Trust {
    pub(super) fn system() -> Self {
        Self(Arc::default())
    }

    #[cfg(test)]
    pub(super) fn only(der: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(der.to_vec().into()).unwrap();
        Self(Arc::new(OnceLock::from(config(roots).map(|config| (config, 1)))))
    }

    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, String> {
        self.get().clone().map(|(config, _)| config)
    }

    pub(super) fn count(&self) -> Result<usize, String> {
        self.get().clone().map(|(_, count)| count)
    }

    fn get(&self) -> &Loaded {
        self.0.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            // Some hosts carry one that is too old to be read; the others are good.
            let (added, _unreadable) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                let why = found.errors.first().map(|e| format!(" ({e})")).unwrap_or_default();
                return Err(format!("this host has no certificate authorities{why}; install ca-certificates"));
            }
            config(roots).map(|config| (config, added))
        })
    }
}

fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
