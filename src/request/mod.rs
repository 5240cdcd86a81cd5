//! What the client sent, read once and checked.
//!
//! # Trust
//! Everything here is chosen by the client. hyper has checked that it is HTTP, but not the `Host`, and
//! `http::Uri` accepts targets that a dispatcher must refuse (RELIABILITY: `evil.com`, `*`, `javascript:x`,
//! `http://u@h/`); so each form is matched by name and what is left is refused.

pub mod client_address;
pub mod hash_key;
pub mod outcome;
pub mod pin_cookie;

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Version};

use crate::fleet::Host;
use crate::request::outcome::Rejection;

/// How a request came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client's address, IPv4 in its own form also on a dual-stack listener.
    pub address: IpAddr,
    /// Whether by TLS.
    pub by_tls: bool,
}

impl ClientInfo {
    /// A hash of the client, the same in every process, for what is decided by who comes: of IPv6 the network of 64
    /// bits counts, for that is what one subscriber has.
    pub fn hash(&self) -> u32 {
        let network = match self.address {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        mixed(network)
    }
}

/// Every bit of the result depends on every bit of the number: the last steps of MurmurHash3, in 64 bits.
fn mixed(number: u64) -> u32 {
    let mut bits = number;
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        bits = (bits ^ bits >> 33).wrapping_mul(factor);
    }
    (bits ^ bits >> 33) as u32
}

/// A request that may be served.
#[derive(Debug)]
pub struct Visit<'a> {
    /// The method: anything but `CONNECT` and `TRACE`.
    pub method: &'a Method,
    /// The host, lower-cased, without port and trailing dot; `None` where HTTP/1.0 sent none.
    pub host: Option<Cow<'a, str>>,
    /// What is asked for.
    pub target: Target<'a>,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// How it came.
    pub client: ClientInfo,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `*`: the server itself, with `OPTIONS` alone.
    Server,
    /// A path, which begins with `/`, and maybe a query.
    Path(PathAndQuery<'a>),
}

/// The raw path and query, never decoded, up to a `#`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathAndQuery<'a> {
    path: &'a str,
    /// Both as sent. An absolute-form target without a path lacks the slash.
    raw: &'a str,
}

impl<'a> Visit<'a> {
    /// Reads a request. Allocates only where the host has capitals.
    ///
    /// # Errors
    /// Why it can't be served.
    pub fn read<B>(
        request: &'a Request<B>,
        client: ClientInfo,
        max_target: usize,
    ) -> Result<Self, Rejection> {
        let method = request.method();
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(Rejection::MethodNotAllowed);
        }
        let (host, target) = Target::of(request)?;
        if target.raw().len() > max_target {
            return Err(Rejection::TargetTooLong);
        }
        Ok(Self { method, host, target, headers: request.headers(), client })
    }
}

impl<'a> Target<'a> {
    /// Reads the host and the target of a request, whatever its method and length, so that a rejected request can be
    /// routed too.
    ///
    /// # Errors
    /// Why there is none that could be routed.
    pub fn of<B>(request: &'a Request<B>) -> Result<(Option<Cow<'a, str>>, Self), Rejection> {
        let is_http2 = request.version() == Version::HTTP_2;
        let uri = request.uri();
        let field = host_field(request)?;
        let raw = uri.path_and_query().map(http::uri::PathAndQuery::as_str);
        let (host, raw) = match (uri.scheme(), uri.authority(), raw) {
            // Origin form, `/path`: the usual one. `*` comes the same way.
            (None, None, Some(raw)) => (field, raw),
            // Absolute form: its own authority counts, not the field (RFC 9112 §3.2.2). HTTP/2 has no other.
            (Some(scheme), Some(authority), Some(raw))
                if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS =>
            {
                // `Host::parse` refuses userinfo: `@` is in no host.
                let host = Host::parse(authority.as_str()).ok_or(Rejection::BadTarget)?;
                // HTTP/2's `:authority` is what `Host` is; beside it there may only be the same (RFC 9113 §8.3.1).
                if is_http2 && field.as_ref().is_some_and(|field| !field.is(&host)) {
                    return Err(Rejection::DuplicateHost);
                }
                (Some(host), raw)
            }
            // Authority form (`evil.example`, `:80@evil`, `javascript:x`) and other schemes.
            _ => return Err(Rejection::BadTarget),
        };
        let target = Self::read(raw, uri.path(), request.method(), uri.scheme().is_some() && !is_http2)?;
        Ok((host.map(|host| lower(host.name)).transpose()?, target))
    }

    /// As sent.
    fn raw(self) -> &'a str {
        match self {
            Self::Server => "*",
            Self::Path(target) => target.raw,
        }
    }
}

/// The `Host` field, checked: hyper does not look at it (RFC 9112 §3.2 demands the 400s).
fn host_field<B>(request: &Request<B>) -> Result<Option<Host<'_>>, Rejection> {
    let mut fields = request.headers().get_all(HOST).iter();
    let Some(first) = fields.next() else {
        let may_lack = match request.version() {
            Version::HTTP_2 => request.uri().authority().is_some(),
            version => version < Version::HTTP_11,
        };
        return if may_lack { Ok(None) } else { Err(Rejection::MissingHost) };
    };
    if fields.next().is_some() {
        return Err(Rejection::DuplicateHost);
    }
    let text = first.to_str().map_err(|_| Rejection::MalformedHost)?;
    Host::parse(text).map(Some).ok_or(Rejection::MalformedHost)
}

/// Lower-cased and without the dot that ends a fully qualified name.
fn lower(name: &str) -> Result<Cow<'_, str>, Rejection> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.ends_with('.') {
        return Err(Rejection::MalformedHost);
    }
    Ok(if has(name, |b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// Whether a text has such a byte. It looks at all of them without stopping, so that many are looked at in one go.
fn has(text: &str, such: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(false, |found, byte| found | such(byte))
}

impl<'a> Target<'a> {
    fn read(raw: &'a str, path: &'a str, method: &Method, absolute: bool) -> Result<Self, Rejection> {
        // No browser sends these raw, and a `Location` may not hold them.
        if has(raw, |b| b <= b' ' || b == 0x7f) {
            return Err(Rejection::BadTarget);
        }
        match raw.as_bytes() {
            [b'/', ..] => Ok(Self::Path(PathAndQuery { path, raw })),
            // `http://host` and `http://host?query`.
            [] | [b'?', ..] if absolute => Ok(Self::Path(PathAndQuery { path: "/", raw })),
            b"*" if method == Method::OPTIONS && !absolute => Ok(Self::Server),
            _ => Err(Rejection::BadTarget),
        }
    }
}

impl<'a> PathAndQuery<'a> {
    /// The path; it begins with `/`.
    pub fn path(self) -> &'a str {
        self.path
    }

    /// The query without its `?`; empty where there is none.
    pub fn query(self) -> &'a str {
        self.raw.split_once('?').map_or("", |(_, query)| query)
    }

    /// The slash that an absolute-form target without a path lacks.
    fn missing_slash(self) -> &'static str {
        if self.raw.starts_with('/') { "" } else { "/" }
    }

    /// Appends both to a buffer: byte for byte, but bytes from 0x80 up are percent-encoded, since a `Location`
    /// is a URI reference and browsers differ on raw ones.
    pub fn append_to(self, buffer: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        buffer.extend_from_slice(self.missing_slash().as_bytes());
        if self.raw.is_ascii() {
            buffer.extend_from_slice(self.raw.as_bytes());
            return;
        }
        for byte in self.raw.bytes() {
            if byte < 0x80 {
                buffer.push(byte);
            } else {
                buffer.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }

    /// How many bytes [`Self::append_to`] appends.
    pub fn encoded_len(self) -> usize {
        let high = if self.raw.is_ascii() { 0 } else { self.raw.bytes().filter(|&b| b >= 0x80).count() };
        self.missing_slash().len() + self.raw.len() + 2 * high
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const CLIENT: ClientInfo = ClientInfo { address: IpAddr::V4(Ipv4Addr::LOCALHOST), by_tls: false };

    fn request(method: &str, target: &str, hosts: &[&str], version: Version) -> Request<()> {
        let mut builder = Request::builder().method(method).uri(target).version(version);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        builder.body(()).unwrap()
    }

    fn read(method: &str, target: &str) -> Result<(Option<String>, String), Rejection> {
        let request = request(method, target, &["Site.Example:80"], Version::HTTP_11);
        let visit = Visit::read(&request, CLIENT, 8192)?;
        let mut text = Vec::new();
        match visit.target {
            Target::Server => text.push(b'*'),
            Target::Path(path) => {
                path.append_to(&mut text);
                assert_eq!(text.len(), path.encoded_len());
                assert!(path.path().starts_with('/'));
            }
        }
        Ok((visit.host.map(Cow::into_owned), String::from_utf8(text).unwrap()))
    }

    #[test]
    fn targets_keep_their_bytes() {
        let at_site = |target| read("GET", target).map(|(host, target)| (host.unwrap(), target));
        for (target, host, kept) in [
            ("/", "site.example", "/"),
            ("//evil.example", "site.example", "//evil.example"),
            ("/\\evil", "site.example", "/\\evil"),
            ("/%0d%0aSet-Cookie:x", "site.example", "/%0d%0aSet-Cookie:x"),
            ("/..;/", "site.example", "/..;/"),
            ("/a/../b?c=d&e", "site.example", "/a/../b?c=d&e"),
            ("/x#frag", "site.example", "/x"),
            ("/é?ü", "site.example", "/%C3%A9?%C3%BC"),
            ("http://Other.Example:81/p?q", "other.example", "/p?q"),
            ("http://other.example", "other.example", "/"),
            ("http://other.example?x=1", "other.example", "/?x=1"),
            ("https://other.example./p", "other.example", "/p"),
        ] {
            assert_eq!(at_site(target), Ok((host.to_owned(), kept.to_owned())), "{target}");
        }
        assert_eq!(read("OPTIONS", "*"), Ok((Some("site.example".into()), "*".into())));
    }

    #[test]
    fn targets_that_lead_elsewhere_are_refused() {
        for target in [
            "*",
            "evil.example",
            ":80@evil",
            "@evil",
            ".evil",
            "ftp://h/",
            "http://u@h/",
            "http://u:p@h/",
            "javascript:1",
        ] {
            if target.parse::<http::Uri>().is_ok() {
                assert_eq!(read("GET", target), Err(Rejection::BadTarget), "{target}");
            }
        }
        for method in ["CONNECT", "TRACE"] {
            assert_eq!(read(method, "/"), Err(Rejection::MethodNotAllowed));
        }
        assert_eq!(read("GET", &format!("/{}", "a".repeat(8192))), Err(Rejection::TargetTooLong));
    }

    #[test]
    fn http2_has_its_host_in_the_authority() {
        let read = |method: &str, target: &str, hosts: &[&str]| {
            let request = request(method, target, hosts, Version::HTTP_2);
            let visit = Visit::read(&request, CLIENT, 8192)?;
            Ok((visit.host.map(Cow::into_owned).unwrap(), visit.target == Target::Server))
        };
        let at = |host: &str| Ok((host.to_owned(), false));
        assert_eq!(read("GET", "https://Site.Example:8443/p", &[]), at("site.example"));
        assert_eq!(read("GET", "https://Site.Example:8443/p", &["site.example:8443"]), at("site.example"));
        // What an intermediary makes of a request without authority.
        assert_eq!(read("GET", "/p", &["site.example"]), at("site.example"));
        for other in ["evil.example", "site.example", "site.example:443"] {
            assert_eq!(
                read("GET", "https://site.example:8443/p", &[other]),
                Err(Rejection::DuplicateHost),
                "{other}"
            );
        }
        assert_eq!(read("GET", "https://a/p", &["a", "a"]), Err(Rejection::DuplicateHost));
        assert_eq!(read("GET", "https://a/p", &["a b"]), Err(Rejection::MalformedHost));
        assert_eq!(read("GET", "https://u@a/p", &[]), Err(Rejection::BadTarget));
        assert_eq!(read("GET", "/p", &[]), Err(Rejection::MissingHost));
        // `:path` is `*`: a URI in one text has no such form.
        for (method, result) in [("OPTIONS", Ok(true)), ("GET", Err(Rejection::BadTarget))] {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = Some("a".parse().unwrap());
            parts.path_and_query = Some("*".parse().unwrap());
            let mut request = request(method, "/", &[], Version::HTTP_2);
            *request.uri_mut() = http::Uri::from_parts(parts).unwrap();
            let visit = Visit::read(&request, CLIENT, 8192);
            assert_eq!(visit.map(|visit| visit.target == Target::Server), result, "{method}");
        }
    }

    #[test]
    fn a_host_is_there_once_and_well_formed() {
        let read = |hosts: &[&str], version| {
            let request = request("GET", "/", hosts, version);
            Visit::read(&request, CLIENT, 8192).map(|visit| visit.host.map(Cow::into_owned))
        };
        assert_eq!(read(&[], Version::HTTP_11), Err(Rejection::MissingHost));
        assert_eq!(read(&[], Version::HTTP_10), Ok(None));
        assert_eq!(read(&["a", "a"], Version::HTTP_11), Err(Rejection::DuplicateHost));
        assert_eq!(read(&["A.b.", "c"], Version::HTTP_10), Err(Rejection::DuplicateHost));
        assert_eq!(read(&["A.b.:8080"], Version::HTTP_11), Ok(Some("a.b".into())));
        for bad in ["", "a b", "a/evil", "[::1", "a:99999", "u@h", ".", "a..", "é"] {
            assert_eq!(read(&[bad], Version::HTTP_11), Err(Rejection::MalformedHost), "{bad:?}");
        }
    }
}
