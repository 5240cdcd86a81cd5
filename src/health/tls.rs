//! TLS to a backend that is probed.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::error_text::SelfSigned;
use crate::os::files;
use crate::settings::HealthSettings;

/// How certificates are judged, as the settings say.
///
/// # Errors
/// What is wrong with `ca_file`, for a person.
pub(super) fn client(health: &HealthSettings) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let roots = if health.verify { roots(health)? } else { browser_roots() };
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    let webpki = webpki.build().map_err(|error| error.to_string())?;
    let verifier = Verifier { webpki, checks_certificate: health.verify };
    let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = config.with_no_client_auth();
    // A session that is resumed says nothing of the certificate of today.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The certificate authorities that browsers trust, built into the binary because an image from scratch has no list.
fn browser_roots() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// The certificate authorities of `ca_file`, or else those of browsers.
fn roots(health: &HealthSettings) -> Result<RootCertStore, String> {
    let Some(file) = &health.ca_file else { return Ok(browser_roots()) };
    let mut roots = RootCertStore::empty();
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let open = files::open(file).map_err(|error| named(&error))?;
    for certificate in CertificateDer::pem_reader_iter(open) {
        let certificate = certificate.map_err(|error| named(&error))?;
        roots.add(certificate).map_err(|error| named(&error))?;
    }
    match roots.is_empty() {
        true => Err(named(&"it holds no certificate")),
        false => Ok(roots),
    }
}

/// Verifies as rustls does by default, but reports a self-signed certificate apart from an unknown issuer. With
/// `health.verify = false` it accepts any certificate, but still verifies that the backend has its key.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    checks_certificate: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.checks_certificate {
            return Ok(ServerCertVerified::assertion());
        }
        self.webpki.verify_server_cert(end_entity, intermediates, name, ocsp, now).map_err(
            |error| match error {
                Error::InvalidCertificate(CertificateError::UnknownIssuer) if is_self_signed(end_entity) => {
                    CertificateError::Other(OtherError(Arc::new(SelfSigned))).into()
                }
                other => other,
            },
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    Certificate::from_der(certificate)
        .is_ok_and(|parsed| parsed.tbs_certificate().issuer() == parsed.tbs_certificate().subject())
}
