//! A pool's pin policy with everything about it that does not change between requests.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// How many bytes of an HMAC-SHA256 a pin carries: half, which RFC 2104 §5 still calls sound.
pub const MAC_BYTES: usize = 16;

/// How far the clocks of replicas may differ, in seconds: a pin may have been issued so much later than now, and may
/// be taken for valid so much longer.
pub const CLOCK_SKEW: u64 = 300;

/// A name as a pin holds it: fixed in size, the same on every replica, and saying nothing of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag([u8; 8]);

impl Tag {
    /// From its bytes in a pin.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// As bytes for a pin.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }

    fn of(kind: &str, names: &[&str]) -> Self {
        let mut hash = Sha256::new();
        hash.update(kind.as_bytes());
        for name in names {
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name.as_bytes());
        }
        let digest = hash.finalize();
        let mut tag = [0; 8];
        tag.copy_from_slice(&digest[..8]);
        Self(tag)
    }
}

/// The pin policy of a pool.
pub struct PinPolicy {
    /// The pool, as pins name it.
    pub pool: Tag,
    /// Pins of another generation are void.
    pub generation: u32,
    /// How long a pin is valid after it was issued, in seconds.
    pub max_age: u64,
    /// The cookie.
    pub cookie: Cookie,
    signer: Hmac<Sha256>,
    older: Box<[Hmac<Sha256>]>,
    tags: Box<[Tag]>,
    /// The same, sorted, each with its backend.
    backends: Box<[(Tag, u32)]>,
}

/// The parts of a `Set-Cookie` around the value.
#[derive(Debug)]
pub struct Cookie {
    /// Its name.
    pub name: Box<str>,
    /// From behind the value to the end, for a visitor who came by plain HTTP.
    pub attributes: Box<str>,
    /// The same for one who came by TLS.
    pub attributes_tls: Box<str>,
}

impl PinPolicy {
    /// Prepares the keys and the table of backends. The first key signs, all verify.
    pub fn new<'a>(
        pool: &str,
        ids: impl IntoIterator<Item = &'a str>,
        signing_key: &[u8],
        older_keys: impl IntoIterator<Item = &'a [u8]>,
        generation: u32,
        max_age: u64,
        cookie: Cookie,
    ) -> Self {
        let tags: Box<[Tag]> = ids.into_iter().map(|id| Tag::of("backend", &[pool, id])).collect();
        let mut backends: Box<[(Tag, u32)]> = tags.iter().copied().zip(0..).collect();
        backends.sort_unstable();
        Self {
            pool: Tag::of("pool", &[pool]),
            generation,
            max_age,
            cookie,
            signer: keyed(signing_key),
            older: older_keys.into_iter().map(keyed).collect(),
            tags,
            backends,
        }
    }

    /// How pins name the backend at an index of the roster.
    pub fn tag(&self, backend: usize) -> Tag {
        self.tags[backend]
    }

    /// The roster's index of a backend that a pin names, where it is still there. O(log backends).
    pub fn backend(&self, tag: Tag) -> Option<usize> {
        let at = self.backends.binary_search_by_key(&tag, |&(known, _)| known).ok()?;
        Some(self.backends[at].1 as usize)
    }

    /// Signs with the first key.
    pub fn sign(&self, message: &[u8]) -> [u8; MAC_BYTES] {
        let full = self.signer.clone().chain_update(message).finalize().into_bytes();
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&full[..MAC_BYTES]);
        mac
    }

    /// Verifies against every key, each in constant time. No allocation.
    pub fn verify(&self, message: &[u8], mac: &[u8; MAC_BYTES]) -> bool {
        let mut keys = std::iter::once(&self.signer).chain(&self.older);
        keys.any(|key| key.clone().chain_update(message).verify_truncated_left(mac).is_ok())
    }
}

impl std::fmt::Debug for PinPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pins").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

/// HMAC takes keys of any length, so the error its constructor could give is never given.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(hmac) => hmac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}
