//! Who the visitor is where proxies stand in front: the address and scheme that a trusted one tells of.
//!
//! # Trust
//! Anybody can send `X-Forwarded-For` and `Forwarded`. They are read only where the peer itself is a trusted
//! proxy, from the right, and only as far as each address further right is trusted too: what stands left of the
//! first untrusted one was written by the visitor. One kind of field is read, the one the settings name, since a
//! proxy that writes one kind may well pass on the other as the visitor sent it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use ipnet::IpNet;

use crate::visit::Came;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Which field trusted proxies write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

/// Who is believed, and what they write.
#[derive(Clone, Debug)]
pub struct Trust {
    proxies: Box<[IpNet]>,
    field: Field,
}

/// What one proxy says of whom it had its request from.
#[derive(Clone, Copy, Debug, Default)]
struct Hop {
    /// `None` where it says nothing that is an address (`unknown`, `_hidden`, nonsense).
    client: Option<IpAddr>,
    by_tls: Option<bool>,
}

impl Trust {
    /// Believes these; none: nobody, and no field is ever read.
    pub fn new(proxies: impl IntoIterator<Item = IpNet>, field: Field) -> Self {
        Self { proxies: proxies.into_iter().collect(), field }
    }

    /// Whether this is the address of a trusted proxy. O(proxies).
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|net| net.contains(&address))
    }

    /// Where a request came from, given where its connection came from. O(hops × proxies), and nothing where the
    /// peer is not trusted.
    pub fn resolve(&self, peer: Came, headers: &HeaderMap) -> Came {
        if !self.is_proxy(peer.client) {
            return peer;
        }
        match self.field {
            Field::XForwardedFor => self.walk(peer, x_forwarded(headers)),
            Field::Forwarded => self.walk(peer, forwarded(headers)),
        }
    }

    /// Goes from the nearest hop outwards for as long as who speaks is trusted and says an address.
    fn walk(&self, peer: Came, hops: impl Iterator<Item = Hop>) -> Came {
        let mut came = peer;
        for hop in hops {
            let Some(client) = hop.client else { break };
            came = Came { client, by_tls: hop.by_tls.unwrap_or(came.by_tls) };
            if !self.is_proxy(client) {
                break;
            }
        }
        came
    }
}

/// The items of a list field over all its lines, the last first.
fn backwards<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(|line| line.to_str().unwrap_or("").rsplit(',').map(str::trim))
}

/// `X-Forwarded-For`, with the scheme of the same place in `X-Forwarded-Proto` where both lists are as long, and
/// else its last one for all: most proxies replace that field and do not append to it.
fn x_forwarded(headers: &HeaderMap) -> impl Iterator<Item = Hop> {
    let clients = || backwards(headers, &X_FORWARDED_FOR);
    let schemes = || backwards(headers, &X_FORWARDED_PROTO);
    let paired = schemes().count() == clients().count();
    let (nearest, mut of_same_place) = (schemes().next().unwrap_or_default(), schemes());
    clients().map(move |client| Hop {
        client: address(client),
        by_tls: scheme(if paired { of_same_place.next().unwrap_or_default() } else { nearest }),
    })
}

/// `Forwarded: for=192.0.2.60;proto=https, for="[2001:db8::1]:4711"`.
fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Hop> {
    backwards(headers, &FORWARDED).map(|element| {
        let mut hop = Hop::default();
        for (name, value) in element.split(';').filter_map(|pair| pair.split_once('=')) {
            let value = value.trim().trim_matches('"');
            if name.trim().eq_ignore_ascii_case("for") {
                hop.client = address(value);
            } else if name.trim().eq_ignore_ascii_case("proto") {
                hop.by_tls = scheme(value);
            }
        }
        hop
    })
}

fn scheme(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("https") {
        Some(true)
    } else if text.eq_ignore_ascii_case("http") {
        Some(false)
    } else {
        None
    }
}

/// An address with or without port, IPv6 with or without brackets; IPv4 inside IPv6 is IPv4.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let v4_with_port =
        || text.split_once(':').and_then(|(ip, _)| ip.parse::<Ipv4Addr>().ok()).map(IpAddr::V4);
    let address = bare.parse().ok().or_else(with_port).or_else(v4_with_port)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(client: &str, by_tls: bool) -> Came {
        Came { client: client.parse().unwrap(), by_tls }
    }

    /// Resolves a request from `peer`, trusting 10/8 and fd00::/8.
    fn resolve(field: Field, peer: &str, lines: &[(HeaderName, &str)]) -> Came {
        let trust = Trust::new(["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()), field);
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        trust.resolve(came(peer, false), &headers)
    }

    #[test]
    fn nobody_else_is_believed() {
        let spoofed = [
            (X_FORWARDED_FOR, "192.0.2.9"),
            (X_FORWARDED_PROTO, "https"),
            (FORWARDED, "for=192.0.2.9;proto=https"),
        ];
        for field in [Field::XForwardedFor, Field::Forwarded] {
            assert_eq!(resolve(field, "198.51.100.1", &spoofed), came("198.51.100.1", false));
        }
        // Nor is the field that our proxies don't write.
        assert_eq!(resolve(Field::XForwardedFor, "10.0.0.1", &spoofed[2..]), came("10.0.0.1", false));
        assert_eq!(resolve(Field::Forwarded, "10.0.0.1", &spoofed[..2]), came("10.0.0.1", false));
    }

    #[test]
    fn the_walk_ends_at_the_first_stranger() {
        let walk = |list: &str| {
            resolve(Field::XForwardedFor, "10.0.0.1", &[(X_FORWARDED_FOR, list)]).client.to_string()
        };
        assert_eq!(walk("192.0.2.1"), "192.0.2.1");
        assert_eq!(walk("6.6.6.6, 192.0.2.1, 10.0.0.2"), "192.0.2.1");
        assert_eq!(walk("10.0.0.3, 10.0.0.2"), "10.0.0.3", "all trusted: the farthest");
        assert_eq!(walk("192.0.2.1, unknown, 10.0.0.2"), "10.0.0.2", "what can't be read ends it");
        assert_eq!(walk(""), "10.0.0.1");
        assert_eq!(walk("192.0.2.1:4711"), "192.0.2.1");
        assert_eq!(walk("[2001:db8::1]:80"), "2001:db8::1");
        assert_eq!(walk("2001:db8::1"), "2001:db8::1");
        assert_eq!(walk("::ffff:192.0.2.1"), "192.0.2.1");
        let two_lines = [(X_FORWARDED_FOR, "6.6.6.6"), (X_FORWARDED_FOR, "192.0.2.1, 10.0.0.2")];
        assert_eq!(resolve(Field::XForwardedFor, "10.0.0.1", &two_lines).client.to_string(), "192.0.2.1");
    }

    #[test]
    fn the_scheme_is_the_visitor_s() {
        let by_tls = |clients: &'static str, schemes: &'static str| {
            resolve(
                Field::XForwardedFor,
                "10.0.0.1",
                &[(X_FORWARDED_FOR, clients), (X_FORWARDED_PROTO, schemes)],
            )
            .by_tls
        };
        assert!(by_tls("192.0.2.1", "https"));
        assert!(!by_tls("192.0.2.1", "http"));
        assert!(by_tls("192.0.2.1, 10.0.0.2", "https, http"), "lists of one length go in pairs");
        assert!(!by_tls("192.0.2.1, 10.0.0.2", "http, https"));
        assert!(by_tls("192.0.2.1, 10.0.0.2", "HTTPS"));
        assert!(by_tls("192.0.2.1, 10.0.0.2", "http, http, https"), "else the last one is for all");
        assert!(!by_tls("192.0.2.1", "gopher"));
    }

    #[test]
    fn forwarded_is_read_by_its_grammar() {
        let of = |list: &'static str| resolve(Field::Forwarded, "10.0.0.1", &[(FORWARDED, list)]);
        assert_eq!(of("for=192.0.2.1;proto=https;by=10.0.0.1"), came("192.0.2.1", true));
        assert_eq!(of("For=\"[2001:db8::1]:4711\""), came("2001:db8::1", false));
        assert_eq!(
            of("for=6.6.6.6, for=192.0.2.1;proto=https, for=10.0.0.2;proto=http"),
            came("192.0.2.1", true)
        );
        assert_eq!(of("for=_hidden;proto=https"), came("10.0.0.1", false));
        assert_eq!(of("for=unknown, for=10.0.0.7"), came("10.0.0.7", false));
        assert_eq!(of(";;,=,for"), came("10.0.0.1", false));
    }
}
