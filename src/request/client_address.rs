//! The address and scheme of a client behind proxies, as the trusted ones report them.
//!
//! # Trust
//! Any client can send `X-Forwarded-For` and `Forwarded`. They are read only if the peer itself is a trusted proxy, from
//! the right, and only as far as each address further right is trusted too: what is left of the first untrusted one was
//! written by the client. One kind of field is read, the one that the settings name, because a proxy that writes one kind
//! may well pass on the other as the client sent it.
//!
//! The last item of a field is the proxy's. So items are told apart from the right, and whatever the client wrote further
//! left (an unbalanced quote, bytes that are no text) changes nothing about it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::{FORWARDED, HeaderName};
use ipnet::IpNet;

use crate::request::{ClientInfo, Headers};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Which field trusted proxies write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientIpHeader {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

/// Who is believed, and what they write.
#[derive(Clone, Debug)]
pub struct TrustedProxies {
    proxies: Box<[IpNet]>,
    field: ClientIpHeader,
}

/// What one proxy reports of the client that it received the request from.
#[derive(Clone, Copy, Debug, Default)]
struct Hop {
    /// `None` if it reports none, or something that is no address (`unknown`, `_hidden`).
    client: Option<IpAddr>,
    /// `None` if it reports no scheme, or an unknown one.
    by_tls: Option<bool>,
}

impl TrustedProxies {
    /// Believes these; none: nobody, and no field is ever read.
    pub fn new(proxies: impl IntoIterator<Item = IpNet>, field: ClientIpHeader) -> Self {
        Self { proxies: proxies.into_iter().collect(), field }
    }

    /// Whether this is the address of a trusted proxy. O(proxies).
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|net| net.contains(&address))
    }

    /// Where a request came from, given where its connection came from. O(hops × proxies), and nothing where the
    /// peer is not trusted.
    pub fn resolve(&self, peer: ClientInfo, headers: Headers<'_>) -> ClientInfo {
        if !self.is_proxy(peer.address) {
            return peer;
        }
        match self.field {
            ClientIpHeader::XForwardedFor => self.walk(peer, x_forwarded(headers)),
            ClientIpHeader::Forwarded => self.walk(peer, forwarded(headers)),
        }
    }

    /// Goes from the nearest hop outwards for as long as the reporting proxy is trusted and reports an address. The last
    /// hop may report a scheme alone.
    fn walk(&self, peer: ClientInfo, hops: impl Iterator<Item = Hop>) -> ClientInfo {
        let mut client = peer;
        for hop in hops {
            client.by_tls = hop.by_tls.unwrap_or(client.by_tls);
            let Some(address) = hop.client else { break };
            client.address = address;
            if !self.is_proxy(address) {
                break;
            }
        }
        client
    }
}

/// The items of a list field over all its lines, the last first. Empty items do not count (RFC 9110 §5.6.1.2).
fn backwards<'a>(headers: Headers<'a>, name: &'static HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).rev();
    let items = lines.flat_map(|line| split_backwards(line, b','));
    items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// The parts of a text between separators that are not inside a quoted string (RFC 9110 §5.6.4), the last first. Quotes
/// are paired from the right.
fn split_backwards(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(text);
    std::iter::from_fn(move || {
        let text = left?;
        let mut is_quoted = false;
        for (at, &byte) in text.iter().enumerate().rev() {
            if byte == b'"' && !is_escaped(text, at) {
                is_quoted = !is_quoted;
            } else if byte == separator && !is_quoted {
                left = Some(&text[..at]);
                return Some(&text[at + 1..]);
            }
        }
        left = None;
        Some(text)
    })
}

/// Whether an odd number of backslashes precedes a byte.
fn is_escaped(text: &[u8], at: usize) -> bool {
    text[..at].iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

/// `X-Forwarded-For`, each address with the scheme at the same place in `X-Forwarded-Proto` if both lists have the same
/// length. Otherwise the last scheme holds for all addresses, because most proxies replace that field and do not append
/// to it. Without an address there is one hop, which reports a scheme alone.
fn x_forwarded(headers: Headers<'_>) -> impl Iterator<Item = Hop> {
    static FOR: HeaderName = X_FORWARDED_FOR;
    static PROTO: HeaderName = X_FORWARDED_PROTO;
    let clients = || backwards(headers, &FOR);
    let schemes = || backwards(headers, &PROTO);
    let count = clients().count();
    let paired = schemes().count() == count;
    let (nearest, mut of_same_place) = (schemes().next().and_then(scheme), schemes());
    let hops = clients().map(move |client| Hop {
        client: std::str::from_utf8(client).ok().and_then(address),
        by_tls: if paired { of_same_place.next().and_then(scheme) } else { nearest },
    });
    hops.chain((count == 0).then_some(Hop { client: None, by_tls: nearest }))
}

/// `Forwarded: for=192.0.2.60;proto=https, for="[2001:db8::1]:4711"`.
fn forwarded(headers: Headers<'_>) -> impl Iterator<Item = Hop> {
    backwards(headers, &FORWARDED).map(|element| {
        let mut hop = Hop::default();
        let quotes =
            element.iter().enumerate().filter(|&(at, &byte)| byte == b'"' && !is_escaped(element, at));
        if quotes.count() % 2 == 1 {
            return hop;
        }
        for pair in split_backwards(element, b';') {
            let Some(equals) = memchr::memchr(b'=', pair) else { continue };
            let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
            let mut space = [0; LONGEST_VALUE];
            if name.eq_ignore_ascii_case(b"for") {
                hop.client = unquoted(value, &mut space).and_then(address);
            } else if name.eq_ignore_ascii_case(b"proto") {
                hop.by_tls = unquoted(value, &mut space).and_then(|value| scheme(value.as_bytes()));
            }
        }
        hop
    })
}

/// The longest value of a `Forwarded` pair that is read: an IPv6 address with an IPv4 part, brackets and a port has 53
/// bytes.
const LONGEST_VALUE: usize = 64;

/// A token, or the contents of a quoted string, without its escapes. `None` if it is no text, or too long for `space`.
fn unquoted<'a>(value: &[u8], space: &'a mut [u8; LONGEST_VALUE]) -> Option<&'a str> {
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    let mut bytes = quoted.unwrap_or(value).iter();
    let mut length = 0;
    while let Some(&byte) = bytes.next() {
        let plain = if byte == b'\\' && quoted.is_some() { *bytes.next()? } else { byte };
        *space.get_mut(length)? = plain;
        length += 1;
    }
    std::str::from_utf8(&space[..length]).ok()
}

/// Whether a scheme is one of TLS: `wss` is what some proxies report of a WebSocket.
fn scheme(text: &[u8]) -> Option<bool> {
    let is = |names: [&[u8]; 2]| names.iter().any(|name| text.eq_ignore_ascii_case(name));
    if is([b"https", b"wss"]) {
        Some(true)
    } else if is([b"http", b"ws"]) {
        Some(false)
    } else {
        None
    }
}

/// An address with or without a port, IPv6 with or without brackets; IPv4 inside IPv6 is IPv4.
fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = if let Some(inside) = text.strip_prefix('[') {
        let (address, rest) = inside.split_once(']')?;
        let fits = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        address.parse::<Ipv6Addr>().ok().filter(|_| fits)?.into()
    } else if let Ok(address) = text.parse() {
        address
    } else {
        let (address, _) = text.split_once(':').filter(|(_, port)| is_port(port))?;
        address.parse::<Ipv4Addr>().ok()?.into()
    };
    Some(address.to_canonical())
}

/// Whether a text is a port, or an obfuscated one such as `_name` (RFC 7239 §6).
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn client_info(client: &str, by_tls: bool) -> ClientInfo {
        ClientInfo { address: client.parse().unwrap(), by_tls }
    }

    /// Resolves a request from `peer`, trusting 10/8 and fd00::/8.
    fn resolve(field: ClientIpHeader, peer: &str, lines: &[(HeaderName, &str)]) -> ClientInfo {
        let trust = TrustedProxies::new(["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()), field);
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        trust.resolve(client_info(peer, false), Headers::Map(&headers))
    }

    #[test]
    fn ignores_fields_of_untrusted_peers() {
        let spoofed = [
            (X_FORWARDED_FOR, "192.0.2.9"),
            (X_FORWARDED_PROTO, "https"),
            (FORWARDED, "for=192.0.2.9;proto=https"),
        ];
        for field in [ClientIpHeader::XForwardedFor, ClientIpHeader::Forwarded] {
            assert_eq!(resolve(field, "198.51.100.1", &spoofed), client_info("198.51.100.1", false));
        }
        // Nor is the field that our proxies don't write.
        assert_eq!(
            resolve(ClientIpHeader::XForwardedFor, "10.0.0.1", &spoofed[2..]),
            client_info("10.0.0.1", false)
        );
        assert_eq!(
            resolve(ClientIpHeader::Forwarded, "10.0.0.1", &spoofed[..2]),
            client_info("10.0.0.1", false)
        );
    }

    /// With `X-Forwarded-For` and `X-Forwarded-Proto`; `None`: without that field.
    fn x_forwarded(clients: Option<&str>, schemes: Option<&str>) -> ClientInfo {
        let lines =
            [clients.map(|list| (X_FORWARDED_FOR, list)), schemes.map(|list| (X_FORWARDED_PROTO, list))];
        resolve(ClientIpHeader::XForwardedFor, "10.0.0.1", &lines.into_iter().flatten().collect::<Vec<_>>())
    }

    #[test]
    fn the_walk_ends_at_the_first_stranger() {
        for (list, client) in [
            ("192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1, 10.0.0.2", "192.0.2.1"),
            // All are trusted: the farthest.
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            // What is no address ends it.
            ("192.0.2.1, unknown, 10.0.0.2", "10.0.0.2"),
            ("192.0.2.1, \"\", 10.0.0.2", "10.0.0.2"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[192.0.2.1]", "10.0.0.1"),
            ("[2001:db8::1]80", "10.0.0.1"),
            // Empty items do not count.
            ("", "10.0.0.1"),
            (" , ,\t", "10.0.0.1"),
            ("192.0.2.1,", "192.0.2.1"),
            (",192.0.2.1 ,, 10.0.0.2 , ", "192.0.2.1"),
            ("6.6.6.6, ,192.0.2.1,\t,10.0.0.2,10.0.0.3,,", "192.0.2.1"),
        ] {
            assert_eq!(x_forwarded(Some(list), None).address.to_string(), client, "{list:?}");
        }
    }

    #[test]
    fn lines_are_read_from_the_last_one_whatever_the_client_put_before() {
        for field in [ClientIpHeader::XForwardedFor, ClientIpHeader::Forwarded] {
            let (name, prefix) = match field {
                ClientIpHeader::XForwardedFor => (X_FORWARDED_FOR, ""),
                ClientIpHeader::Forwarded => (FORWARDED, "for="),
            };
            let of = |lines: &[&[u8]]| {
                let trust = TrustedProxies::new(["10.0.0.0/8".parse().unwrap()], field);
                let mut headers = HeaderMap::new();
                for line in lines {
                    headers.append(&name, HeaderValue::from_bytes(line).unwrap());
                }
                let headers = Headers::Map(&headers);
                trust.resolve(client_info("10.0.0.1", false), headers).address.to_string()
            };
            let item = |address: &str| format!("{prefix}{address}").into_bytes();
            let spoof = item("6.6.6.6");
            let honest = [item("192.0.2.1"), item("10.0.0.2")].join(&b',');
            assert_eq!(of(&[&spoof, &honest]), "192.0.2.1");
            assert_eq!(of(&[&spoof, &honest, b"", b" , "]), "192.0.2.1", "empty lines");
            // What is no text ends the walk, and hides nothing further right.
            assert_eq!(of(&[&spoof, &[b"\xff", &honest[..]].join(&b',')]), "192.0.2.1");
            assert_eq!(of(&[&spoof, &[b"\xff,", &item("10.0.0.2")[..]].concat()]), "10.0.0.2");
            assert_eq!(of(&[&spoof, b"\xff"]), "10.0.0.1");
            for client_wrote in ["\"", "for=\"", "for=\"a, b", "for=\"\\\"", "\\"] {
                let line = [client_wrote.as_bytes(), &honest].join(&b',');
                assert_eq!(of(&[&spoof, &line]), "192.0.2.1", "{client_wrote}");
            }
        }
    }

    #[test]
    fn the_scheme_is_the_client_s() {
        for (clients, schemes, by_tls) in [
            (Some("192.0.2.1"), Some("https"), true),
            (Some("192.0.2.1"), Some("http"), false),
            (Some("192.0.2.1"), Some("WSS"), true),
            (Some("192.0.2.1"), Some("gopher"), false),
            (Some("192.0.2.1"), Some("\"https\""), false),
            (Some("192.0.2.1"), None, false),
            // Lists of one length go in pairs.
            (Some("192.0.2.1, 10.0.0.2"), Some("https, http"), true),
            (Some("192.0.2.1, 10.0.0.2"), Some("http, https"), false),
            (Some(", 192.0.2.1 ,, 10.0.0.2"), Some("https,,\thttp ,"), true),
            // Otherwise the last one is for all.
            (Some("192.0.2.1, 10.0.0.2"), Some("HTTPS"), true),
            (Some("192.0.2.1, 10.0.0.2"), Some(" https,"), true),
            (Some("192.0.2.1, 10.0.0.2"), Some("http, http, https"), true),
            (Some("192.0.2.1, 10.0.0.2"), Some("https, https, http"), false),
            // A place without a known scheme changes nothing.
            (Some("192.0.2.1, 10.0.0.2"), Some("gopher, https"), true),
        ] {
            let expected = client_info(if clients.is_some() { "192.0.2.1" } else { "10.0.0.1" }, by_tls);
            assert_eq!(x_forwarded(clients, schemes), expected, "{clients:?} {schemes:?}");
        }
    }

    #[test]
    fn a_scheme_counts_without_an_address() {
        for clients in
            [None, Some(""), Some(" , "), Some("unknown"), Some("_hidden"), Some("6.6.6.6, unknown")]
        {
            assert_eq!(x_forwarded(clients, None), client_info("10.0.0.1", false), "{clients:?}");
            assert_eq!(x_forwarded(clients, Some("https")), client_info("10.0.0.1", true), "{clients:?}");
            assert_eq!(
                x_forwarded(clients, Some("http, https")),
                client_info("10.0.0.1", true),
                "{clients:?}"
            );
            // The nearest one is the peer's; the others may be the client's.
            if clients.is_none_or(|list| !list.contains('6')) {
                assert_eq!(
                    x_forwarded(clients, Some("https, http")),
                    client_info("10.0.0.1", false),
                    "{clients:?}"
                );
            }
        }
        // A peer that was reached over TLS keeps that unless it reports otherwise.
        let trust = TrustedProxies::new(["10.0.0.0/8".parse().unwrap()], ClientIpHeader::Forwarded);
        for (line, by_tls) in
            [("", true), ("proto=gopher", true), ("proto=http", false), ("for=unknown", true)]
        {
            let headers = HeaderMap::from_iter([(FORWARDED, line.parse().unwrap())]);
            let headers = Headers::Map(&headers);
            assert_eq!(trust.resolve(client_info("10.0.0.1", true), headers).by_tls, by_tls, "{line}");
        }
    }

    #[test]
    fn forwarded_is_read_by_its_grammar() {
        for (list, client, by_tls) in [
            ("for=192.0.2.1;proto=https;by=10.0.0.1", "192.0.2.1", true),
            ("For=\"[2001:db8::1]:4711\"", "2001:db8::1", false),
            ("for=\"[2001:db8::1]:_port\"", "2001:db8::1", false),
            ("for=\"192.0.2.1:_port\" ; Proto = \"HTTPS\"", "192.0.2.1", true),
            ("for=\"\\1\\92.0.2.1\"", "192.0.2.1", false),
            ("for=6.6.6.6, for=192.0.2.1;proto=https, for=10.0.0.2;proto=http", "192.0.2.1", true),
            // Empty elements and pairs do not count.
            (",, for=192.0.2.1;;proto=https; ,\t, for=10.0.0.2 , ", "192.0.2.1", true),
            (";;,=,for", "10.0.0.1", false),
            // A separator inside a quoted string separates nothing.
            ("for=192.0.2.1;ext=\"a,b;proto=http;c\\\",d\";proto=https", "192.0.2.1", true),
            ("for=192.0.2.1;proto=https;by=\"_x, for=6.6.6.6\"", "192.0.2.1", true),
            // A scheme without an address that can be read.
            ("proto=https", "10.0.0.1", true),
            ("by=10.0.0.1;proto=https;host=a", "10.0.0.1", true),
            ("for=_hidden;proto=https", "10.0.0.1", true),
            ("for=unknown;proto=https, for=10.0.0.7", "10.0.0.7", true),
            ("for=unknown, for=10.0.0.7", "10.0.0.7", false),
            ("for=6.6.6.6;proto=https, proto=http", "10.0.0.1", false),
            ("for=\"\";proto=https", "10.0.0.1", true),
            ("for=\"192.0.2.1", "10.0.0.1", false),
            ("for=[2001:db8::1]:80\"", "10.0.0.1", false),
            ("for=\"192.0.2.1;for=192.0.2.2;proto=https", "10.0.0.1", false),
        ] {
            let read = resolve(ClientIpHeader::Forwarded, "10.0.0.1", &[(FORWARDED, list)]);
            assert_eq!(read, client_info(client, by_tls), "{list}");
        }
        let long = format!("for=\"{}192.0.2.1\";proto=https", "\\".repeat(1000));
        assert_eq!(
            resolve(ClientIpHeader::Forwarded, "10.0.0.1", &[(FORWARDED, &long)]),
            client_info("10.0.0.1", true)
        );
    }
}
