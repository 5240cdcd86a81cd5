//! Certificates: read from files, chosen by the name a visitor asks for, swapped while visitors are served.
//!
//! # Trust
//! The name comes from the visitor. It chooses among what there is and is looked up, never repeated or logged.

mod pair;
mod watch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub use pair::{LoadError, Pair};
pub use watch::{ReloadRequest, watch};

/// Where a pair is read from: two files in PEM. A relative path starts at the working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and behind it those that lead to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A pair in its place.
#[derive(Clone, Debug)]
pub struct CertificateEntry {
    /// Where it is read from.
    pub files: Files,
    /// What is served.
    pub pair: Arc<Pair>,
    /// Whether the last reading of its files was a success; if not, `pair` is from an earlier one.
    pub last_read_successful: bool,
}

/// Every pair, and which names each is for. Immutable: a change makes a new one.
#[derive(Debug)]
pub struct CertificateStore {
    places: Vec<CertificateEntry>,
    /// By host name, lower-cased: places in the order of the settings.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what stands behind `*.`.
    wildcard: HashMap<Box<str>, Vec<usize>>,
}

/// The shelf that new connections are served from.
pub type Published = Arc<ArcSwap<CertificateStore>>;

impl CertificateStore {
    /// Reads every pair.
    ///
    /// # Errors
    /// What is wrong, with the index of the pair.
    pub fn load(files: impl IntoIterator<Item = Files>) -> Result<Self, Vec<(usize, LoadError)>> {
        let mut places = Vec::new();
        let mut wrongs = Vec::new();
        for (index, files) in files.into_iter().enumerate() {
            match Pair::read(&files) {
                Ok(pair) => {
                    places.push(CertificateEntry { files, pair: Arc::new(pair), last_read_successful: true })
                }
                Err(wrong) => wrongs.push((index, wrong)),
            }
        }
        if wrongs.is_empty() { Ok(Self::new(places)) } else { Err(wrongs) }
    }

    fn new(places: Vec<CertificateEntry>) -> Self {
        let mut this = Self { places, exact: HashMap::new(), wildcard: HashMap::new() };
        for (index, place) in this.places.iter().enumerate() {
            for name in place.pair.names() {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut this.wildcard, parent),
                    None => (&mut this.exact, &**name),
                };
                names.entry(name.into()).or_default().push(index);
            }
        }
        this
    }

    /// Every pair, in the order of the settings.
    pub fn places(&self) -> &[CertificateEntry] {
        &self.places
    }

    /// The places for a name: those that name it, else those with a wildcard for it, else the first of all. A
    /// wildcard stands for one label (RFC 9525 §6.3).
    fn find(&self, name: Option<&str>) -> &[usize] {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let parent = name.split_once('.').map(|(_, parent)| parent);
            self.exact.get(&*name).or_else(|| self.wildcard.get(parent?))
        });
        named.map_or(&[0], Vec::as_slice)
    }

    /// The pair for a visitor: of those for the name, the first with a key that the visitor can check.
    fn choose(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = || {
            let places = self.find(hello.server_name()).iter().filter_map(|&index| self.places.get(index));
            places.map(|place| place.pair.key())
        };
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        keys().find(fits).or_else(|| keys().next()).cloned()
    }
}

/// Chooses from what is published at the time of each handshake.
#[derive(Debug)]
pub struct CertificateResolver(pub Published);

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().choose(&hello)
    }
}
