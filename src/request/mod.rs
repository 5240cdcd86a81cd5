//! What the client sent: a borrowed view of it, and the same checked. Nothing is copied.
//!
//! # Trust
//! Everything here is chosen by the client. The parser has checked that it is HTTP, but not the `Host`, and
//! `http::Uri` accepts targets that a dispatcher must reject (`evil.com`, `*`, `javascript:x`, `http://u@h/`); so each
//! form is matched by name and what is left is rejected.

pub mod client_address;
pub mod hash_key;
mod headers;
pub mod outcome;
pub mod pin_cookie;
mod target;

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN};
use http::uri::Scheme;
use http::{Method, Request, Uri, Version};

pub use headers::Headers;
pub use target::{PathAndQuery, RequestTarget, Target};

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

/// The head of a request as it was read. Nothing of it is checked but what HTTP's grammar demands.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// The version of HTTP.
    pub version: Version,
    /// The target.
    pub target: RequestTarget<'a>,
    /// The header fields.
    pub headers: Headers<'a>,
}

impl<'a> RequestView<'a> {
    /// Returns the view of a request that hyper has read.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            version: request.version(),
            target: RequestTarget::Uri(request.uri()),
            headers: Headers::Map(request.headers()),
        }
    }

    /// Whether it is a CORS preflight (Fetch, CORS-preflight request).
    pub fn is_preflight(&self) -> bool {
        *self.method == Method::OPTIONS
            && self.headers.contains(&ACCESS_CONTROL_REQUEST_METHOD)
            && self.headers.contains(&ORIGIN)
    }

    /// Reads the host and what is asked for, whatever the method and the length, so that a rejected request can be
    /// routed too.
    ///
    /// # Errors
    /// Why there is none that could be routed.
    pub fn host_and_target(&self) -> Result<(Option<RequestHost<'a>>, Target<'a>), Rejection> {
        let field = self.host_field()?;
        let (host, target) = match self.target {
            RequestTarget::Origin(target) => (field, Target::Path(target)),
            RequestTarget::Uri(uri) => self.read_uri(uri, field)?,
        };
        Ok((host.map(|host| lower(host.name)).transpose()?, target))
    }

    fn read_uri(
        &self,
        uri: &'a Uri,
        field: Option<Host<'a>>,
    ) -> Result<(Option<Host<'a>>, Target<'a>), Rejection> {
        let has_authority = self.version >= Version::HTTP_2;
        let raw = uri.path_and_query().map(http::uri::PathAndQuery::as_str);
        let (host, raw) = match (uri.scheme(), uri.authority(), raw) {
            // Origin form, `/path`: the usual one. `*` comes the same way.
            (None, None, Some(raw)) => (field, raw),
            // Absolute form: its own authority counts, not the field (RFC 9112 §3.2.2). HTTP/2 has no other.
            (Some(scheme), Some(authority), Some(raw))
                if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS =>
            {
                // `Host::parse` refuses userinfo: `@` is in no host.
                let host = Host::parse(authority.as_str().as_bytes()).ok_or(Rejection::BadTarget)?;
                // `:authority` is what `Host` is; beside it there may only be the same (RFC 9113 §8.3.1, RFC 9114 §4.3.1).
                if has_authority && field.as_ref().is_some_and(|field| !field.is(&host)) {
                    return Err(Rejection::DuplicateHost);
                }
                (Some(host), raw)
            }
            // Authority form (`evil.example`, `:80@evil`, `javascript:x`) and other schemes.
            _ => return Err(Rejection::BadTarget),
        };
        let is_absolute = uri.scheme().is_some() && !has_authority;
        Ok((host, Target::read(raw, uri.path(), self.method, is_absolute)?))
    }

    /// The `Host` field, checked: no parser looks at it (RFC 9112 §3.2 demands the 400s).
    fn host_field(&self) -> Result<Option<Host<'a>>, Rejection> {
        let (mut first, mut count) = (None, 0);
        self.headers.find_value(&HOST, |value| {
            (first, count) = (first.or(Some(value)), count + 1);
            (count > 1).then_some(())
        });
        let Some(first) = first else {
            let may_lack = match self.version {
                version if version >= Version::HTTP_2 => self.target.authority().is_some(),
                version => version < Version::HTTP_11,
            };
            return if may_lack { Ok(None) } else { Err(Rejection::MissingHost) };
        };
        if count > 1 {
            return Err(Rejection::DuplicateHost);
        }
        Host::parse(first).map(Some).ok_or(Rejection::MalformedHost)
    }
}

/// The host of a request, lower-cased, without port and trailing dot.
pub type RequestHost<'a> = Cow<'a, [u8]>;

/// A request that may be served.
#[derive(Debug)]
pub struct CheckedRequest<'a> {
    /// The method: anything but `CONNECT` and `TRACE`.
    pub method: &'a Method,
    /// The host; `None` where HTTP/1.0 sent none.
    pub host: Option<RequestHost<'a>>,
    /// What is asked for.
    pub target: Target<'a>,
    /// The header fields.
    pub headers: Headers<'a>,
    /// Who sent it.
    pub client: ClientInfo,
}

impl<'a> CheckedRequest<'a> {
    /// Checks a request. Allocates only where the host has capitals.
    ///
    /// # Errors
    /// Why it can't be served.
    pub fn new(view: &RequestView<'a>, client: ClientInfo, max_target: usize) -> Result<Self, Rejection> {
        let RequestView { method, headers, .. } = *view;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(Rejection::MethodNotAllowed);
        }
        let (host, target) = view.host_and_target()?;
        if target.len() > max_target {
            return Err(Rejection::TargetTooLong);
        }
        Ok(Self { method, host, target, headers, client })
    }
}

/// Lower-cased and without the dot that ends a fully qualified name.
fn lower(name: &[u8]) -> Result<RequestHost<'_>, Rejection> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() || name.ends_with(b".") {
        return Err(Rejection::MalformedHost);
    }
    // All bytes are looked at without stopping, so that many are looked at in one go.
    let has_capitals = name.iter().fold(false, |found, byte| found | byte.is_ascii_uppercase());
    Ok(if has_capitals { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
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

    fn into_text(host: RequestHost<'_>) -> String {
        String::from_utf8(host.into_owned()).unwrap()
    }

    fn read(method: &str, target: &str) -> Result<(Option<String>, String), Rejection> {
        let request = request(method, target, &["Site.Example:80"], Version::HTTP_11);
        let checked = CheckedRequest::new(&RequestView::of(&request), CLIENT, 8192)?;
        let mut text = Vec::new();
        match checked.target {
            Target::Server => text.push(b'*'),
            Target::Path(path) => {
                path.append_to(&mut text);
                assert!(path.path().starts_with('/'));
            }
        }
        Ok((checked.host.map(into_text), String::from_utf8(text).unwrap()))
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
            if target.parse::<Uri>().is_ok() {
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
            let checked = CheckedRequest::new(&RequestView::of(&request), CLIENT, 8192)?;
            Ok((checked.host.map(into_text).unwrap(), checked.target == Target::Server))
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
            *request.uri_mut() = Uri::from_parts(parts).unwrap();
            let checked = CheckedRequest::new(&RequestView::of(&request), CLIENT, 8192);
            assert_eq!(checked.map(|checked| checked.target == Target::Server), result, "{method}");
        }
    }

    #[test]
    fn a_host_is_there_once_and_well_formed() {
        let read = |hosts: &[&str], version| {
            let request = request("GET", "/", hosts, version);
            CheckedRequest::new(&RequestView::of(&request), CLIENT, 8192)
                .map(|checked| checked.host.map(into_text))
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
