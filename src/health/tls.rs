//! TLS to a backend that is probed.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
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
    let config = if health.verify {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(health)?), provider);
        let verifier = verifier.build().map_err(|error| error.to_string())?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Webpki(verifier)))
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything(provider)))
    };
    let mut config = config.with_no_client_auth();
    // A session that is resumed says nothing of the certificate of today.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Who may have signed a certificate: those in `ca_file`, or those that browsers trust, built into the binary, since
/// an image from scratch has no list of its own.
fn roots(health: &HealthSettings) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = &health.ca_file else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
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

/// Verifies as rustls does by default, but tells a self-signed certificate from one whose issuer is unknown.
#[derive(Debug)]
struct Webpki(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Webpki {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify_server_cert(end_entity, intermediates, name, ocsp, now).map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) if is_self_signed(end_entity) => {
                CertificateError::Other(OtherError(Arc::new(SelfSigned))).into()
            }
            other => other,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    Certificate::from_der(certificate)
        .is_ok_and(|parsed| parsed.tbs_certificate().issuer() == parsed.tbs_certificate().subject())
}

/// Takes any certificate, but still asks for proof of its key.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
