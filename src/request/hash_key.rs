//! The key that a visitor is hashed by, where a strategy of the pool asks for it.
//!
//! # Trust
//! But for the address it is chosen by the client, who can so choose among backends. That is no more than it could by
//! asking a backend by its own URL; and how much of that one may have is what bounds and limits are for.

use std::net::IpAddr;
use std::num::NonZeroU8;

use crate::fleet::HashKey;
use crate::request::pin_cookie;
use crate::request::{CheckedRequest, Target};
use crate::strategy;

/// The hash of what the visitor is known by; of its address where the request has no such thing. No allocation.
pub fn of(key: &HashKey, request: &CheckedRequest<'_>) -> u64 {
    match value(key, request) {
        Some(value) => strategy::hash(value),
        None => of_client(request.client.address),
    }
}

/// The same of a text: an address where that is the key, else a value or a path as it would be sent. `None` of a text
/// that is none of these.
pub fn of_text(key: &HashKey, text: &str) -> Option<u64> {
    match key {
        HashKey::Client => text.parse::<IpAddr>().ok().map(|address| of_client(address.to_canonical())),
        HashKey::Path(segments) => {
            let path = text.split('?').next().filter(|path| path.starts_with('/'))?;
            Some(strategy::hash(prefix(path, *segments).as_bytes()))
        }
        HashKey::Header(_) | HashKey::Cookie(_) | HashKey::Query(_) => {
            (!text.is_empty()).then(|| strategy::hash(text.as_bytes()))
        }
    }
}

fn of_client(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => strategy::hash(&address.octets()),
        IpAddr::V6(address) => strategy::hash(&address.octets()[..8]),
    }
}

/// What the visitor is known by besides its address; an empty text is nothing.
pub fn value<'a>(key: &'a HashKey, request: &CheckedRequest<'a>) -> Option<&'a [u8]> {
    let headers = request.headers;
    let value = match (key, request.target) {
        (HashKey::Client, _) | (_, Target::Server) => None,
        (HashKey::Header(name), _) => headers.get(name),
        (HashKey::Cookie(name), _) => pin_cookie::find_cookie(headers, name.as_bytes(), Some),
        (HashKey::Path(segments), Target::Path(target)) => Some(prefix(target.path(), *segments).as_bytes()),
        (HashKey::Query(name), Target::Path(target)) => in_query(target.query(), name).map(str::as_bytes),
    };
    value.filter(|value| !value.is_empty())
}

/// The path up to the end of so many segments.
fn prefix(path: &str, segments: Option<NonZeroU8>) -> &str {
    let Some(segments) = segments else { return path };
    let end = path.match_indices('/').nth(segments.get().into()).map_or(path.len(), |(at, _)| at);
    &path[..end]
}

/// The value of the first pair of a name.
fn in_query<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::request::{ClientInfo, RequestView};

    fn with<T>(
        client: &str,
        target: &str,
        fields: &[(&str, &str)],
        read: impl Fn(&CheckedRequest<'_>) -> T,
    ) -> T {
        let fields =
            fields.iter().fold(Request::get(target).header("host", "a"), |request, (name, value)| {
                request.header(*name, *value)
            });
        let request = fields.body(()).unwrap();
        let client = ClientInfo { address: client.parse().unwrap(), by_tls: false };
        read(&CheckedRequest::new(&RequestView::of(&request), client, 8192).unwrap())
    }

    fn found(key: &HashKey, target: &str, fields: &[(&str, &str)]) -> Option<String> {
        with("192.0.2.1", target, fields, |request| {
            value(key, request).map(|value| String::from_utf8(value.to_vec()).unwrap())
        })
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_64_bits() {
        let of = |client| with(client, "/", &[], |request| of(&HashKey::Client, request));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn who_has_no_such_value_is_known_by_the_address() {
        let keys = [
            HashKey::Header("x-user".parse().unwrap()),
            HashKey::Cookie("session".into()),
            HashKey::Query("id".into()),
        ];
        for key in keys {
            for fields in [&[][..], &[("x-user", ""), ("cookie", "session=; a=b")]] {
                let of = |key: &HashKey| with("192.0.2.1", "/?id=&ida=7", fields, |request| of(key, request));
                assert_eq!(of(&key), of(&HashKey::Client), "{key}");
            }
        }
    }

    #[test]
    fn values_are_taken_as_they_were_sent() {
        let header = HashKey::Header("x-user".parse().unwrap());
        assert_eq!(found(&header, "/", &[("X-User", "Ann"), ("x-user", "Bo")]).unwrap(), "Ann");
        let cookie = HashKey::Cookie("session".into());
        assert_eq!(found(&cookie, "/", &[("cookie", "a=1; session=x%20y; session=z")]).unwrap(), "x%20y");
        let query = HashKey::Query("id".into());
        for (target, value) in
            [("/?id=7", Some("7")), ("/?a=b&id=%37&id=8", Some("%37")), ("/?idx=7", None), ("/id=7", None)]
        {
            assert_eq!(found(&query, target, &[]).as_deref(), value, "{target}");
        }
    }

    #[test]
    fn a_text_is_hashed_as_what_it_stands_for() {
        let fields = [("x-user", "Ann"), ("cookie", "session=x%20y")];
        for (key, text) in [
            (HashKey::Client, "192.0.2.1"),
            (HashKey::Client, "::ffff:192.0.2.1"),
            (HashKey::Header("x-user".parse().unwrap()), "Ann"),
            (HashKey::Cookie("session".into()), "x%20y"),
            (HashKey::Query("id".into()), "7"),
            (HashKey::Path(None), "/a/b"),
            (HashKey::Path(NonZeroU8::new(1)), "/a/other?x"),
        ] {
            let sent = with("192.0.2.1", "/a/b?id=7", &fields, |request| of(&key, request));
            assert_eq!(of_text(&key, text), Some(sent), "{key} {text}");
        }
        for (key, text) in [(HashKey::Client, "a"), (HashKey::Client, ""), (HashKey::Query("id".into()), "")]
        {
            assert_eq!(of_text(&key, text), None, "{key} {text}");
        }
        assert_eq!(of_text(&HashKey::Path(None), "a"), None);
    }

    #[test]
    fn a_path_is_known_by_its_first_segments() {
        let path = |segments| HashKey::Path(NonZeroU8::new(segments));
        for (segments, target, value) in [
            (0, "/a/b?c", "/a/b"),
            (1, "/a/b/c", "/a"),
            (2, "/a/b/c", "/a/b"),
            (3, "/a/b/c", "/a/b/c"),
            (9, "/a/", "/a/"),
            (1, "/a/", "/a"),
            (1, "/", "/"),
            (1, "//a", "/"),
        ] {
            assert_eq!(found(&path(segments), target, &[]).unwrap(), value, "{segments} of {target}");
        }
    }
}
