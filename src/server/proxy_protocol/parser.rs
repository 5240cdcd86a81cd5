//! The header of the PROXY protocol, version 1 and 2, by which a proxy tells where a connection came from before
//! the first byte of it (HAProxy's `proxy-protocol.txt`). Pure: bytes in, an address out.
//!
//! # Trust
//! Whoever reaches the port can send a header, so it is read of trusted proxies alone. Even of these nothing is
//! guessed: what is not to the letter is malformed, and no header is optional.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The longest header, in bytes. One of version 1 has at most 107; one of version 2 has up to 232 for addresses, and
/// then values, of which a client's certificate may be one. nginx takes as many.
pub const MAX: usize = 4096;
/// The longest header of version 1, with its line end.
const MAX_V1: usize = 107;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = V2.len() + 4;

/// What a header says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The visitor's address, IPv4 in its own form; `None` where the header says none that can be used: the peer
    /// itself is meant (a health check), or the visitor came by a Unix socket.
    pub client: Option<IpAddr>,
    /// Whether the visitor came by TLS. Version 1 can't say so.
    pub by_tls: bool,
}

/// How far the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// All of them are the header's, and more must come.
    Partly,
    /// The header is whole.
    Whole {
        /// How many bytes of it there are; what is behind them is not the header's.
        length: usize,
        /// What it says.
        header: Header,
    },
}

/// Why the bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Parses what a connection begins with, at least [`MAX`] bytes of it where there are as many.
///
/// More bytes never change an answer but [`Parsed::Partly`].
///
/// # Errors
/// What is wrong, as soon as it can be told.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if begins_alike(bytes, V2) {
        parse_v2(bytes)
    } else if begins_alike(bytes, V1) {
        parse_v1(bytes)
    } else {
        Err(Malformed("it does not begin like a header"))
    }
}

/// Whether one of the two begins with the other.
fn begins_alike(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(a, b)| a == b)
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`
fn parse_v1(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let head = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = head.iter().position(|&byte| byte == b'\n') else {
        return if head.len() < MAX_V1 {
            Ok(Parsed::Partly)
        } else {
            Err(Malformed("its line is longer than 107 bytes"))
        };
    };
    let line = head[..end].strip_suffix(b"\r").ok_or(Malformed("its line does not end in CRLF"))?;
    let fields = line.strip_prefix(V1).and_then(|fields| std::str::from_utf8(fields).ok());
    let fields = fields.ok_or(Malformed("its line is no text"))?;
    let mut fields = fields.split(' ');
    let client = match fields.next() {
        Some("TCP4") => Some(v1_addresses::<Ipv4Addr>(fields)?),
        Some("TCP6") => Some(v1_addresses::<Ipv6Addr>(fields)?),
        // What stands behind it, if anything, is to be ignored.
        Some("UNKNOWN") => None,
        _ => return Err(Malformed("its protocol is none of TCP4, TCP6 and UNKNOWN")),
    };
    Ok(Parsed::Whole { length: end + 1, header: Header { client, by_tls: false } })
}

/// Source and destination, then the port of each.
fn v1_addresses<'a, A: FromStr + Into<IpAddr>>(
    mut fields: impl Iterator<Item = &'a str>,
) -> Result<IpAddr, Malformed> {
    let mut address = || fields.next()?.parse::<A>().ok();
    let (source, destination) = (address(), address());
    let ports = [fields.next(), fields.next()].map(|port| port.is_some_and(is_port));
    match (source, destination, ports, fields.next()) {
        (Some(source), Some(_), [true, true], None) => Ok(source.into().to_canonical()),
        _ => Err(Malformed("its addresses and ports are not two of each")),
    }
}

/// Decimal digits without a leading zero, up to 65535.
fn is_port(text: &str) -> bool {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    canonical && text.parse::<u16>().is_ok()
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some((&[.., version_command, family, high, low], rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Parsed::Partly);
    };
    let is_local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("its version is not 2, or its command neither LOCAL nor PROXY")),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED + length > MAX {
        return Err(Malformed("it is longer than 4096 bytes"));
    }
    let Some(body) = rest.get(..length) else { return Ok(Parsed::Partly) };
    let header = match family {
        // A health check of the proxy's own: family and body mean nothing.
        _ if is_local => Header { client: None, by_tls: false },
        // Neither addresses nor their length are known, so there is nothing to read behind them.
        0x00 => Header { client: None, by_tls: false },
        0x11 => v2_body::<12>(bytes, body, |block| {
            let [a, b, c, d, ..] = *block;
            Some(Ipv4Addr::new(a, b, c, d).into())
        })?,
        0x21 => v2_body::<36>(bytes, body, |block| {
            let source: Option<&[u8; 16]> = block.first_chunk();
            source.map(|source| IpAddr::from(*source).to_canonical())
        })?,
        0x31 => v2_body::<216>(bytes, body, |_| None)?,
        _ => return Err(Malformed("its family is neither TCP over IPv4, TCP over IPv6 nor a Unix stream")),
    };
    Ok(Parsed::Whole { length: FIXED + length, header })
}

/// A block of addresses, then values of a type each.
fn v2_body<const BLOCK: usize>(
    bytes: &[u8],
    body: &[u8],
    client: impl FnOnce(&[u8; BLOCK]) -> Option<IpAddr>,
) -> Result<Header, Malformed> {
    const CRC32C: u8 = 0x03;
    const SSL: u8 = 0x20;
    const CLIENT_SSL: u8 = 0x01;

    let (block, mut values) = body.split_first_chunk().ok_or(Malformed("its addresses are cut off"))?;
    let mut by_tls = false;
    while !values.is_empty() {
        let value = values.split_first_chunk().and_then(|(&[kind, high, low], rest)| {
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            Some((kind, value, rest))
        });
        let (kind, value, rest) = value.ok_or(Malformed("a value in it is cut off"))?;
        match (kind, value) {
            // What the client did, four bytes of whether its certificate holds, then values about it.
            (SSL, [client, _, _, _, _, ..]) => by_tls = client & CLIENT_SSL != 0,
            (SSL, _) => return Err(Malformed("its value about TLS is cut off")),
            (CRC32C, value) => {
                let header = &bytes[..FIXED + body.len()];
                // The sum is over the header with four zeros in its own place.
                let at = header.len() - rest.len() - value.len();
                if <[u8; 4]>::try_from(value).ok() != Some(crc32c(header, at..at + 4).to_be_bytes()) {
                    return Err(Malformed("its checksum is another"));
                }
            }
            _ => {}
        }
        values = rest;
    }
    Ok(Header { client: client(block), by_tls })
}

/// The checksum of RFC 3385, of bytes of which a range is taken for zeros. Bit by bit: a header is short, and few
/// proxies send one.
fn crc32c(bytes: &[u8], zeros: std::ops::Range<usize>) -> u32 {
    let mut crc = !0_u32;
    for (at, &byte) in bytes.iter().enumerate() {
        crc ^= if zeros.contains(&at) { 0 } else { u32::from(byte) };
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Result<(Option<String>, bool), &'static str> {
        match parse(bytes) {
            Ok(Parsed::Whole { length, header }) => {
                assert_eq!(length, bytes.len());
                Ok((header.client.map(|client| client.to_string()), header.by_tls))
            }
            Ok(Parsed::Partly) => Err("partly"),
            Err(Malformed(why)) => Err(why),
        }
    }

    fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2, &[version_command, family], &length, body].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

    #[test]
    fn a_line_of_version_1() {
        let client = |address: &str| Ok((Some(address.to_owned()), false));
        let line = |text: &str| whole(format!("PROXY {text}\r\n").as_bytes());
        assert_eq!(line("TCP4 192.0.2.1 198.51.100.1 56324 443"), client("192.0.2.1"));
        assert_eq!(line("TCP6 2001:db8::1 2001:db8::2 0 65535"), client("2001:db8::1"));
        assert_eq!(line("TCP6 ::ffff:192.0.2.1 ::1 1 1"), client("192.0.2.1"));
        assert_eq!(line("UNKNOWN"), Ok((None, false)));
        assert_eq!(line("UNKNOWN ffff::1 anything  at all"), Ok((None, false)));
        let ffff = ["ffff"; 8].join(":");
        assert!(line(&format!("UNKNOWN {ffff} {ffff} 65535 65535")).is_ok());

        for bad in [
            "",
            " TCP4 192.0.2.1 198.51.100.1 1 1",
            "TCP4",
            "TCP4 192.0.2.1 198.51.100.1 1",
            "tcp4 192.0.2.1 198.51.100.1 1 1",
            "TCP4 192.0.2.1 198.51.100.1 1 1 ",
            "TCP4 192.0.2.1  198.51.100.1 1 1",
            "TCP4 192.0.2.1 198.51.100.1 1 65536",
            "TCP4 192.0.2.1 198.51.100.1 01 1",
            "TCP4 192.0.2.1 198.51.100.1 +1 1",
            "TCP4 192.0.2.01 198.51.100.1 1 1",
            "TCP4 192.0.2.1 nobody 1 1",
            "TCP4 ::1 ::1 1 1",
            "TCP6 192.0.2.1 198.51.100.1 1 1",
            "UDP4 192.0.2.1 198.51.100.1 1 1",
            "UNKNOWNS",
            "TCP4\t192.0.2.1 198.51.100.1 1 1",
            "TCP4 192.0.2.1 198.51.100.1 1 1\r",
        ] {
            assert!(line(bad).is_err_and(|why| why != "partly"), "{bad:?}");
        }
        assert_eq!(whole(b"PROXY UNKNOWN\n"), Err("its line does not end in CRLF"));
        // 107 bytes are the most.
        let filled = |count: usize| format!("UNKNOWN {}", "x".repeat(count - "PROXY UNKNOWN \r\n".len()));
        assert!(line(&filled(107)).is_ok());
        assert_eq!(line(&filled(108)), Err("its line is longer than 107 bytes"));
        assert_eq!(whole(&[b"PROXY ", &[b'x'; 101][..]].concat()), Err("its line is longer than 107 bytes"));
    }

    #[test]
    fn a_header_of_version_2() {
        let client = |address: &str, by_tls| Ok((Some(address.to_owned()), by_tls));
        assert_eq!(whole(&v2(0x21, 0x11, &V4)), client("192.0.2.1", false));
        let v6 = |source: &str| {
            let source: Ipv6Addr = source.parse().unwrap();
            [&source.octets()[..], &[0; 20]].concat()
        };
        assert_eq!(whole(&v2(0x21, 0x21, &v6("2001:db8::1"))), client("2001:db8::1", false));
        assert_eq!(whole(&v2(0x21, 0x21, &v6("::ffff:192.0.2.1"))), client("192.0.2.1", false));
        // No address, or none of a visitor.
        assert_eq!(whole(&v2(0x21, 0x31, &[b'/'; 216])), Ok((None, false)));
        assert_eq!(whole(&v2(0x21, 0x00, b"whatever")), Ok((None, false)));
        for family in [0x00, 0x11, 0x21, 0xff] {
            assert_eq!(whole(&v2(0x20, family, &V4)), Ok((None, false)), "LOCAL says nothing");
        }
        for bad in [
            v2(0x11, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x12, &V4),
            v2(0x21, 0x22, &[0; 36]),
            v2(0x21, 0x32, &[0; 216]),
            v2(0x21, 0x10, &V4),
            v2(0x21, 0x01, &V4),
            v2(0x21, 0x11, &V4[1..]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x31, &[0; 215]),
            v2(0x21, 0x11, &[0; MAX - FIXED + 1]),
        ] {
            assert!(whole(&bad).is_err_and(|why| why != "partly"), "{bad:x?}");
        }
        assert!(whole(&v2(0x20, 0x00, &[0; MAX - FIXED])).is_ok());
    }

    #[test]
    fn values_of_version_2() {
        let with = |values: &[&[u8]]| whole(&v2(0x21, 0x11, &[&V4[..], &values.concat()].concat()));
        let by_tls = |by_tls| Ok((Some("192.0.2.1".to_owned()), by_tls));
        let noop: &[u8] = &[0x04, 0, 3, 0, 0, 0];
        let [yes, no]: [&[u8]; 2] = [&[0x20, 0, 5, 0x05, 0, 0, 0, 0], &[0x20, 0, 5, 0x06, 0, 0, 0, 0]];
        assert_eq!(with(&[noop]), by_tls(false));
        assert_eq!(with(&[noop, yes, noop]), by_tls(true));
        assert_eq!(with(&[no]), by_tls(false));
        assert_eq!(
            with(&[&[0x20, 0, 13, 1, 0, 0, 0, 0, 0x21, 0, 5, b'T', b'L', b'S', b'v', b'1']]),
            by_tls(true)
        );
        for bad in [
            &[0x04][..],
            &[0x04, 0],
            &[0x04, 0, 1],
            &[0x20, 0, 4, 1, 0, 0, 0],
            &[0x03, 0, 4, 0, 0, 0, 0],
            &[0x03, 0, 0],
        ] {
            assert!(with(&[bad]).is_err_and(|why| why != "partly"), "{bad:x?}");
        }
    }

    #[test]
    fn the_checksum_is_held() {
        assert_eq!(crc32c(b"123456789", 0..0), 0xe306_9283);
        let mut header =
            v2(0x21, 0x11, &[&V4[..], &[0x04, 0, 0, 0x03, 0, 4, 0, 0, 0, 0, 0x04, 0, 1, 7]].concat());
        let at = FIXED + V4.len() + 6;
        let sum = crc32c(&header, 0..0).to_be_bytes();
        header[at..at + 4].copy_from_slice(&sum);
        assert_eq!(whole(&header), Ok((Some("192.0.2.1".to_owned()), false)));
        // An address, a port, the sum itself, a value behind it.
        for at in [FIXED, FIXED + V4.len() - 1, at, header.len() - 1] {
            let mut changed = header.clone();
            changed[at] ^= 1;
            assert_eq!(whole(&changed), Err("its checksum is another"), "{at}");
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_once() {
        for bytes in [&b"G"[..], b"GET / HTTP/1.1", b"\x16\x03\x01", b"\r\n\r\nX", b"PROXY\t", b"proxy TCP4"]
        {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
