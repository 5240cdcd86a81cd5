//! Failures of a health check in plain words, without error numbers and debug prints.

use std::error::Error as _;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
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
        Error::InvalidMessage(why) => format!("malformed TLS message: {}", words(why)),
        Error::AlertReceived(why) => format!("the backend rejected the TLS handshake: {}", alert(*why)),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => format!("the backend's TLS is incompatible: {OLD_TLS}"),
        Error::PeerIncompatible(why) => format!("the backend's TLS is incompatible: {}", words(why)),
        Error::PeerMisbehaved(why) => format!("the backend violates the TLS protocol: {}", words(why)),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "the backend violates the TLS protocol: unexpected message".to_owned()
        }
        other => other.to_string(),
    }
}

const OLD_TLS: &str = "it supports neither TLS 1.2 nor TLS 1.3";

fn alert(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::ProtocolVersion => OLD_TLS,
        AlertDescription::HandshakeFailure => {
            "no TLS parameters in common, or it requires a client certificate"
        }
        AlertDescription::CertificateRequired => "it requires a client certificate",
        AlertDescription::InsufficientSecurity => "it requires stronger ciphers",
        AlertDescription::UnrecognisedName => "it does not serve this name",
        AlertDescription::UnknownCA => "unknown CA",
        AlertDescription::BadRecordMac => "bad record MAC",
        AlertDescription::Unknown(code) => return format!("alert {code}"),
        other => return words(&other),
    };
    text.to_owned()
}

/// The name of a variant in words, of an error that has no other text: `NoCipherSuitesInCommon` is "no cipher suites in
/// common". What it contains is left out.
fn words(variant: &dyn fmt::Debug) -> String {
    let text = format!("{variant:?}");
    let name = text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default();
    let mut words = String::new();
    let mut was_lower = false;
    for letter in name.chars() {
        if letter.is_uppercase() && was_lower {
            words.push(' ');
        }
        was_lower = !letter.is_uppercase();
        words.extend(letter.to_lowercase());
    }
    words
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
        // Of webpki, whose errors rustls does not name.
        CertificateError::Other(other) => match words(&other.0).as_str() {
            "ca used as end entity" => "certificate is that of a CA (CA:TRUE), not of a server".to_owned(),
            "end entity used as ca" => "certificate is issued by one that is not of a CA".to_owned(),
            other => format!("certificate is not valid: {other}"),
        },
        CertificateError::BadEncoding => "certificate is malformed".to_owned(),
        CertificateError::BadSignature => {
            "wrong signature of the certificate or the TLS handshake".to_owned()
        }
        CertificateError::UnhandledCriticalExtension => {
            "certificate has a critical extension that is not supported".to_owned()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "certificate has a signature algorithm that is not supported".to_owned()
        }
        CertificateError::InvalidPurposeContext { required, presented } if !presented.is_empty() => {
            let presented: Vec<_> = presented.iter().map(ToString::to_string).collect();
            format!("certificate is not for {required} but for {}", presented.join(", "))
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate is not for server authentication".to_owned()
        }
        other => format!("certificate is not valid: {}", words(other)),
    }
}

fn date(time: UnixTime) -> impl fmt::Display {
    let seconds = std::time::Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + seconds)
}

fn name(name: &ServerName<'_>) -> String {
    name.to_str().into_owned()
}

#[cfg(test)]
mod tests {
    use rustls::PeerMisbehaved;

    use super::*;

    #[test]
    fn errors_of_tls_are_in_plain_words() {
        let invalid = |error: CertificateError| tls(&error.into());
        let signature_algorithm_id = vec![6, 9];
        for (text, expected) in [
            (invalid(CertificateError::BadEncoding), "certificate is malformed"),
            (
                invalid(CertificateError::UnsupportedSignatureAlgorithmContext {
                    signature_algorithm_id,
                    supported_algorithms: vec![],
                }),
                "certificate has a signature algorithm that is not supported",
            ),
            (
                invalid(CertificateError::ApplicationVerificationFailure),
                "certificate is not valid: application verification failure",
            ),
            (
                tls(&PeerIncompatible::NoCipherSuitesInCommon.into()),
                "the backend's TLS is incompatible: no cipher suites in common",
            ),
            (
                tls(&PeerIncompatible::ServerDoesNotSupportTls12Or13.into()),
                "the backend's TLS is incompatible: it supports neither TLS 1.2 nor TLS 1.3",
            ),
            (
                tls(&PeerMisbehaved::MissingKeyShare.into()),
                "the backend violates the TLS protocol: missing key share",
            ),
            (tls(&InvalidMessage::MissingData("Random").into()), "malformed TLS message: missing data"),
        ] {
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn no_alert_is_a_name_of_code() {
        for code in 0..=u8::MAX {
            let text = alert(code.into());
            let is_name = |word: &str| {
                word.chars().skip(1).any(char::is_uppercase) && word.chars().any(char::is_lowercase)
            };
            assert!(
                !text.is_empty() && !text.split(' ').any(is_name) && !text.contains(['(', '{', '"']),
                "{text}"
            );
        }
        assert_eq!(alert(AlertDescription::InternalError), "internal error");
        assert_eq!(alert(99.into()), "alert 99");
    }
}
