//! The target of a request: as it was sent, and what it asks for.

use std::borrow::Cow;

use http::uri::Authority;
use http::{Method, Uri};

use crate::request::outcome::Rejection;

/// A request target as it was sent.
#[derive(Clone, Copy, Debug)]
pub enum RequestTarget<'a> {
    /// In origin form (RFC 9112 §3.2.1), of bytes that `Uri` takes unchanged.
    Origin(PathAndQuery<'a>),
    /// In any form.
    Uri(&'a Uri),
}

impl<'a> RequestTarget<'a> {
    /// The path; empty where there is none.
    pub fn path(self) -> &'a str {
        match self {
            Self::Origin(target) => target.path,
            Self::Uri(uri) => uri.path(),
        }
    }

    /// The authority, which HTTP/2 sends in place of `Host`.
    pub fn authority(self) -> Option<&'a Authority> {
        match self {
            Self::Origin(_) => None,
            Self::Uri(uri) => uri.authority(),
        }
    }

    /// What a log shows: path and query, or all of it where it has neither.
    pub fn shown(self) -> Cow<'a, str> {
        match self {
            Self::Origin(target) => Cow::Borrowed(target.raw),
            Self::Uri(uri) => {
                let whole = || Cow::Owned(uri.to_string());
                uri.path_and_query().map_or_else(whole, |path| Cow::Borrowed(path.as_str()))
            }
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `*`: the server itself, with `OPTIONS` alone.
    Server,
    /// A path, which begins with `/`, and maybe a query.
    Path(PathAndQuery<'a>),
}

impl<'a> Target<'a> {
    /// Reads what of a URI follows the authority; `is_absolute`: there was one in an HTTP/1 request.
    pub(super) fn read(
        raw: &'a str,
        path: &'a str,
        method: &Method,
        is_absolute: bool,
    ) -> Result<Self, Rejection> {
        // No browser sends these raw, and a `Location` may not hold them.
        if raw.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(Rejection::BadTarget);
        }
        match raw.as_bytes() {
            [b'/', ..] => Ok(Self::Path(PathAndQuery { path, raw })),
            // `http://host` and `http://host?query`.
            [] | [b'?', ..] if is_absolute => Ok(Self::Path(PathAndQuery { path: "/", raw })),
            b"*" if method == Method::OPTIONS && !is_absolute => Ok(Self::Server),
            _ => Err(Rejection::BadTarget),
        }
    }

    /// Its length as it was sent.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Server => 1,
            Self::Path(target) => target.raw.len(),
        }
    }
}

/// The raw path and query, never decoded, up to a `#`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathAndQuery<'a> {
    path: &'a str,
    /// Both as sent. An absolute-form target without a path lacks the slash.
    raw: &'a str,
}

/// Bytes that `Uri` takes unchanged in a path as in a query: not all such bytes, but those that clients send.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        plain[byte as usize] =
            !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
        byte += 1;
    }
    plain
};

/// The longest target that `Uri` takes.
const LONGEST: usize = u16::MAX as usize - 1;

impl<'a> PathAndQuery<'a> {
    /// Reads a target in origin form; `None` where `Uri` might read it otherwise, or reject it.
    pub fn from_origin_form(raw: &'a str) -> Option<Self> {
        let is_plain = raw.bytes().fold(true, |is_plain, byte| is_plain & PLAIN[usize::from(byte)]);
        if !is_plain || !raw.starts_with('/') || raw.len() > LONGEST {
            return None;
        }
        let path = memchr::memchr(b'?', raw.as_bytes()).map_or(raw, |end| &raw[..end]);
        Some(Self { path, raw })
    }

    /// The path; it begins with `/`.
    pub fn path(self) -> &'a str {
        self.path
    }

    /// The query without its `?`; empty where there is none.
    pub fn query(self) -> &'a str {
        self.raw.split_once('?').map_or("", |(_, query)| query)
    }

    /// Appends both to a buffer: byte for byte, but bytes from 0x80 up are percent-encoded, since a `Location`
    /// is a URI reference and browsers differ on raw ones.
    pub fn append_to(self, buffer: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        if !self.raw.starts_with('/') {
            buffer.push(b'/');
        }
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unusual_targets_are_left_to_uri() {
        for target in ["", "*", "a", "http://a/", "/#a", "/\"", "/é", "/a b", "/<", "/{}", "/\u{7f}"] {
            assert_eq!(PathAndQuery::from_origin_form(target), None, "{target}");
        }
        let longest = format!("/{}", "a".repeat(LONGEST - 1));
        assert!(PathAndQuery::from_origin_form(&longest).is_some() && longest.parse::<Uri>().is_ok());
        let longer = longest + "a";
        assert!(PathAndQuery::from_origin_form(&longer).is_none() && longer.parse::<Uri>().is_err());
    }

    proptest! {
        #[test]
        fn an_origin_form_is_what_uri_makes_of_it(target in "/[!-~]{0,12}|/[a-z%?&=/.]{0,20}") {
            if let Some(read) = PathAndQuery::from_origin_form(&target) {
                let uri: Uri = target.parse().unwrap();
                prop_assert_eq!(uri.path_and_query().unwrap().as_str(), &target);
                prop_assert_eq!((read.path(), read.query()), (uri.path(), uri.query().unwrap_or("")));
            }
        }
    }
}
