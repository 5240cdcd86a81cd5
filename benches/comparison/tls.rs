//! TLS as all rows that have it speak it: one ECDSA P-256 key, X25519, TLS_AES_128_GCM_SHA256. The clients offer
//! nothing else, so each server takes the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::support;
pub use crate::support::tls::NAME;

/// The cipher and the group as OpenSSL's programs call them.
pub const OPENSSL_NAMES: (&str, &str) = ("TLS_AES_128_GCM_SHA256", "X25519");

/// The files of the certificate of all servers, and its key.
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pub both: PathBuf,
    der: CertificateDer<'static>,
}

impl Pair {
    pub fn new(directory: &Path) -> Self {
        let pair = support::tls::Pair::new();
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        Self {
            both: write("both.pem", &format!("{}{}", pair.cert, pair.key)),
            cert: write("cert.pem", &pair.cert),
            key: write("key.pem", &pair.key),
            der: pair.der,
        }
    }

    /// A client that looks at the certificate, for trying each server before it is measured.
    pub fn careful(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let config = builder().with_root_certificates(roots).with_no_client_auth();
        with_protocols(config, protocols)
    }
}

/// A client under load: it believes any certificate, since what it would spend on that is not the server's and
/// would only keep the server waiting. It remembers sessions where it may, its own alone.
pub fn hurried(protocols: &[&str], resumes: bool) -> Arc<ClientConfig> {
    let config = builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut config = Arc::unwrap_or_clone(with_protocols(config, protocols));
    support::tls::accept_any_certificate(&mut config);
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    Arc::new(config)
}

/// The client's side of a new connection.
pub fn connection(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from(NAME).unwrap()).unwrap()
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&TLS13]).unwrap()
}

fn with_protocols(mut config: ClientConfig, protocols: &[&str]) -> Arc<ClientConfig> {
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(4);
    Arc::new(config)
}
