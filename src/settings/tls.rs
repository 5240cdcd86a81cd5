//! `[server.tls]`: the listeners that speak TLS, their certificates, and the way there from plain HTTP.

use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::Serialize;

use super::listener::{self, ListenerSettings};
use super::reader::{ReadContext, Section};
use super::values::HumanDuration;
use crate::certificates::{CertificateStore, Files, LoadError};

/// `[server.tls]`: the listeners that speak TLS.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TlsSettings {
    /// Addresses to listen on with TLS; `[::]` takes IPv4 too.
    pub listen: Vec<ListenerSettings>,
    /// How long a handshake may take, from accept.
    pub handshake_timeout: HumanDuration,
    /// The most handshakes under way at once, over all workers.
    pub max_handshakes: NonZeroU16,
    /// `max-age` of `Strict-Transport-Security`; 0: the field is not sent.
    pub hsts: HumanDuration,
    /// Addresses for plain HTTP that redirect every request to `https://` on the same host.
    pub redirect_listen: Vec<ListenerSettings>,
    /// The port of those redirects.
    pub redirect_port: NonZeroU16,
    /// What is served; the first where no other is for the name a visitor asks for.
    pub certificates: Vec<CertificateSettings>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CertificateSettings {
    /// The certificate's file, PEM, with the chain behind it.
    pub cert: PathBuf,
    /// The key's file, PEM.
    pub key: PathBuf,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            handshake_timeout: HumanDuration::seconds(5),
            max_handshakes: NonZeroU16::MIN.saturating_add(255),
            hsts: HumanDuration::seconds(0),
            redirect_listen: Vec::new(),
            redirect_port: NonZeroU16::MIN.saturating_add(442),
            certificates: Vec::new(),
        }
    }
}

impl TlsSettings {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let tls = Self {
            listen: listener::read_all(&mut section, "listen").unwrap_or_default(),
            certificates: read_certificates(&mut section),
            handshake_timeout: section.within(
                "handshake_timeout",
                default.handshake_timeout,
                "more than 0",
                |span| !span.0.is_zero(),
            ),
            max_handshakes: section.or("max_handshakes", default.max_handshakes),
            hsts: section.within("hsts", default.hsts, "a duration in whole seconds, 0s for none", |span| {
                span.0.subsec_nanos() == 0
            }),
            redirect_listen: listener::read_all(&mut section, "redirect_listen").unwrap_or_default(),
            redirect_port: section.or("redirect_port", default.redirect_port),
        };
        section.finish();
        tls
    }

    /// Where the pairs are read from.
    pub fn files(&self) -> impl Iterator<Item = Files> {
        self.certificates
            .iter()
            .map(|CertificateSettings { cert, key }| Files { cert: cert.clone(), key: key.clone() })
    }
}

fn read_certificates(section: &mut Section<'_>) -> Vec<CertificateSettings> {
    let context = section.context();
    let items = section.items("certificates").unwrap_or_default();
    let read = |(path, item)| {
        let mut section = Section::new(path, item, context);
        let mut file = |key: &'static str| {
            let missing = !section.has(key);
            let file = section.path(key);
            if missing {
                context.problem(&section.key(key), "is missing, takes the path of a PEM file");
            }
            file
        };
        let (cert, key) = (file("cert"), file("key"));
        section.finish();
        Some(CertificateSettings { cert: cert?, key: key? })
    };
    items.into_iter().filter_map(read).collect()
}

/// Reads every pair, so that a wrong one is told before anything is started.
pub(super) fn check(tls: &TlsSettings, context: &ReadContext, warnings: &mut Vec<String>) {
    const KEY: &str = "server.tls.certificates";
    // Where some could not be read, the others' places in the list are not those of the file.
    if context.is_wrong(KEY) {
        return;
    }
    if tls.certificates.is_empty() && !tls.listen.is_empty() {
        context.problem(
            KEY,
            "there is none, and server.tls.listen needs one; takes [{ cert = \"site.pem\", key = \"site.key\" }]",
        );
    }
    if !tls.certificates.is_empty() && tls.listen.is_empty() {
        warnings.push(format!("{KEY} are served by nobody: server.tls.listen is empty"));
    }
    for (index, CertificateSettings { cert, .. }) in tls.certificates.iter().enumerate() {
        if tls.certificates[..index].iter().any(|before| before.cert == *cert) {
            context.problem(
                &format!("{KEY}[{index}].cert"),
                format!(
                    "got {:?}, which stands before already, takes each file once",
                    cert.display().to_string()
                ),
            );
        }
    }
    match CertificateStore::load(tls.files()) {
        Ok(shelf) => {
            let expired = shelf.places().iter().filter_map(|place| place.pair.expired(&place.files.cert));
            warnings.extend(expired.map(|expired| format!("{KEY}: {expired}")));
        }
        Err(wrongs) => {
            for (index, wrong) in wrongs {
                let file = match wrong {
                    LoadError::Cert(_) => "cert",
                    LoadError::Key(_) => "key",
                };
                context.problem(&format!("{KEY}[{index}].{file}"), wrong.to_string());
            }
        }
    }
}
