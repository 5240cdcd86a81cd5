//! Failures of a health check in plain words, without error numbers and debug prints.

use std::error::Error as _;
use std::fmt;
use std::io;

use rustls::{CertificateError, Error, InvalidMessage};
use rustls_pki_types::{ServerName, UnixTime};

/// A certificate that is its own issuer, and is not trusted.
#[derive(Debug)]
pub(super) struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("self-signed certificate")
    }
}

impl std::error::Error for SelfSigned {}

/// A failed system call: the system's words without the error number, such as "connection refused".
pub(super) fn io(error: &io::Error) -> String {
    if let Some(error) = tls_error(error) {
        return tls(error);
    }
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// A failed TLS handshake.
pub(super) fn handshake(error: &io::Error) -> String {
    match (tls_error(error), error.kind()) {
        (Some(error), _) => tls(error),
        (None, io::ErrorKind::UnexpectedEof) => "connection closed during the TLS handshake".to_owned(),
        (None, _) => format!("{} during the TLS handshake", io(error)),
    }
}

/// A failed request, or a response that is none.
pub(super) fn http(error: &hyper::Error) -> String {
    if let Some(error) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        return format!("{} before the response was complete", io(error));
    }
    if error.is_parse_too_large() {
        "the response head is too long".to_owned()
    } else if error.is_parse() {
        "malformed response (not HTTP/1.1)".to_owned()
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "connection closed before the response was complete".to_owned()
    } else {
        error.to_string()
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "the port does not speak TLS".to_owned(),
        Error::AlertReceived(alert) => format!("the backend rejected the TLS handshake: {alert:?}"),
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "certificate expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("certificate expired on {}", date(*not_after))
        }
        CertificateError::NotValidYet => "certificate not yet valid".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate not valid before {}", date(*not_before))
        }
        CertificateError::NotValidForName => "certificate is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, .. } => {
            format!("certificate is not for {}", name(expected))
        }
        CertificateError::UnknownIssuer => "certificate issuer is not trusted".to_owned(),
        CertificateError::Other(other) if other.0.is::<SelfSigned>() => {
            format!("{SelfSigned} is not trusted")
        }
        CertificateError::Other(other) => format!("certificate is not valid: {other}"),
        other => format!("certificate is not valid: {other:?}"),
    }
}

fn date(time: UnixTime) -> impl fmt::Display {
    let seconds = std::time::Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + seconds)
}

fn name(name: &ServerName<'_>) -> String {
    name.to_str().into_owned()
}
