//! TLS as a client speaks it, and certificates to be shown.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, StreamOwned,
};

use super::http::connect_from;
use super::process::replace;

/// The name that visitors ask for.
pub const NAME: &str = "site.example";

/// A connection on which the handshake is done.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A self-signed certificate and its key (ECDSA P-256), in PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Pair {
    /// A pair for [`NAME`].
    pub fn new() -> Self {
        Self::of(&[NAME], 2999)
    }

    /// A pair for these names, which is valid until the year before `year` has ended.
    pub fn of(names: &[&str], year: i32) -> Self {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        let text = |label: &str, bytes: &[u8]| {
            let lines = BASE64_STANDARD.encode(bytes);
            format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n")
        };
        Self { cert: text("CERTIFICATE", &der), key: text("PRIVATE KEY", &key.serialize_der()), der }
    }
}

/// The files of a pair.
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Files {
    pub fn new(directory: &Path) -> Self {
        Self { cert: directory.join("site.crt"), key: directory.join("site.key") }
    }

    /// Puts a pair in place, each file in one step.
    pub fn write(&self, pair: &Pair) {
        replace(&self.key, &pair.key);
        replace(&self.cert, &pair.cert);
    }

    /// `[server.tls]` with them, on a free port.
    pub fn settings(&self) -> String {
        format!(
            "[server.tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{{ cert = '{}', key = '{}' }}]\n",
            self.cert.display(),
            self.key.display()
        )
    }
}

/// A client that believes these and nobody else, and resumes no session: each handshake is a whole one.
pub fn config(pairs: &[&Pair], protocols: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pair in pairs {
        roots.add(pair.der.clone()).unwrap();
    }
    let mut provider = aws_lc_rs::default_provider();
    // As browsers offer them.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Connects from an address, and has said nothing yet.
pub fn begin(from: IpAddr, to: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Tls> {
    let socket = connect_from(from, to)?;
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, socket))
}

/// Connects from an address and does the handshake.
pub fn connect(from: IpAddr, to: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Tls> {
    let mut stream = begin(from, to, config)?;
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Makes a client accept any certificate: to see which one is sent, or to spend no time on it under load.
pub fn accept_any_certificate(config: &mut ClientConfig) {
    config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate(aws_lc_rs::default_provider())));
}

#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
