//! A certificate and its key: two PEM files that must belong together.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::os::files;

use super::Files;

/// A certificate with its chain and its key, checked.
#[derive(Debug)]
pub struct Pair {
    key: Arc<CertifiedKey>,
    names: Box<[Box<str>]>,
    ends: Duration,
    fingerprint: u64,
}

/// Why two files are no pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The certificate's file; the text names it.
    Cert(String),
    /// The key's file; the text names it.
    Key(String),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Cert(text) | Self::Key(text)) = self;
        f.write_str(text)
    }
}

/// How much of a file is read: a chain of certificates has some kilobytes.
const MOST: u64 = 1 << 20;

/// What two files hold, unread.
pub(super) struct PairContents {
    cert: io::Result<Vec<u8>>,
    key: io::Result<Vec<u8>>,
}

impl PairContents {
    /// Reads both files.
    pub(super) fn of(of: &Files) -> Self {
        let read = |file| files::read_first(file, MOST);
        Self { cert: read(&of.cert), key: read(&of.key) }
    }

    /// A hash of both. By content, as with settings files: swapped links and copied files look the same.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for file in [&self.cert, &self.key] {
            file.as_ref().map_err(io::Error::kind).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Parses both files and holds them against each other.
    pub(super) fn parse(&self, files: &Files) -> Result<Pair, LoadError> {
        let wrong_cert = |why: String| LoadError::Cert(format!("{} {why}", files.cert.display()));
        let wrong_key = |why: String| LoadError::Key(format!("{} {why}", files.key.display()));
        let unreadable = |error: &io::Error| format!("can't be read: {error}");
        let cert = self.cert.as_ref().map_err(|error| wrong_cert(unreadable(error)))?;
        let key = self.key.as_ref().map_err(|error| wrong_key(unreadable(error)))?;

        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong_cert(format!("is not valid PEM: {error}")))?;
        let first = chain.first().ok_or_else(|| {
            wrong_cert("holds no certificate, takes PEM with \"BEGIN CERTIFICATE\"".to_owned())
        })?;
        let parsed = Certificate::from_der(first)
            .map_err(|error| wrong_cert(format!("holds a certificate that can't be read: {error}")))?;
        let ends = parsed.tbs_certificate().validity().not_after.to_unix_duration();
        let names = names(&parsed);

        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            wrong_key(format!("holds no private key without a passphrase, takes PEM: {error}"))
        })?;
        let key = aws_lc_rs::default_provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| wrong_key(format!("holds a key that can't be used: {error}")))?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong_key(format!("is not the key of {}", files.cert.display()))
            }
            other => wrong_cert(format!("holds a certificate that can't be used: {other}")),
        })?;
        Ok(Pair { key: Arc::new(key), names, ends, fingerprint: self.fingerprint() })
    }
}

/// The host names a certificate is for, lower-cased. A common name counts for nothing: no browser reads it.
fn names(certificate: &Certificate) -> Box<[Box<str>]> {
    let Ok(Some((_, SubjectAltName(names)))) = certificate.tbs_certificate().get_extension() else {
        return [].into();
    };
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase().into()),
        _ => None,
    });
    dns.collect()
}

impl Pair {
    /// Reads a pair from its files.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn read(files: &Files) -> Result<Self, LoadError> {
        PairContents::of(files).parse(files)
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn ends(&self) -> u64 {
        self.ends.as_secs()
    }

    /// "x ended at …", where it did: browsers turn such a certificate down, but it can be served.
    pub fn expired(&self, path: &Path) -> Option<String> {
        let ends = UNIX_EPOCH.checked_add(self.ends)?;
        (ends < SystemTime::now()).then(|| {
            format!(
                "the certificate of {} ended at {}, and browsers turn it down",
                path.display(),
                humantime::format_rfc3339_seconds(ends)
            )
        })
    }

    /// What rustls serves.
    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    pub(super) fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Of the contents it was read from.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}
