//! The header fields of a request, wherever they were read into.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header fields of a request, as the parser found them or in hyper's map.
#[derive(Clone, Copy, Debug)]
pub enum Headers<'a> {
    /// In the order in which they were sent, names in any case.
    Raw(&'a [httparse::Header<'a>]),
    /// By name.
    Map(&'a HeaderMap),
}

impl<'a> Headers<'a> {
    /// Returns the value of the first field of a name.
    pub fn get(self, name: &HeaderName) -> Option<&'a [u8]> {
        match self {
            Self::Raw(fields) => {
                let name = name.as_str();
                fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
            }
            Self::Map(map) => map.get(name).map(HeaderValue::as_bytes),
        }
    }

    /// Returns the values of all fields of a name, in order.
    pub fn get_all<'n>(
        self,
        name: &'n HeaderName,
    ) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a, 'n> {
        let (fields, values) = match self {
            Self::Raw(fields) => (fields, None),
            Self::Map(map) => (&[][..], Some(map.get_all(name))),
        };
        let name = name.as_str();
        let of_name = fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        let of_fields = of_name.map(|field| field.value);
        of_fields.chain(values.into_iter().flatten().map(HeaderValue::as_bytes))
    }

    /// Visits the values of all fields of a name, in order, until something is found. For what is looked for in every
    /// request: it is cheaper than an iterator.
    pub fn find_value<T>(self, name: &HeaderName, mut visit: impl FnMut(&'a [u8]) -> Option<T>) -> Option<T> {
        match self {
            Self::Raw(fields) => {
                let name = name.as_str();
                let mut of_name = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
                of_name.find_map(|field| visit(field.value))
            }
            Self::Map(map) => map.get_all(name).iter().find_map(|value| visit(value.as_bytes())),
        }
    }

    /// Whether there is a field of a name.
    pub fn contains(self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Returns the number of fields.
    pub fn len(self) -> usize {
        match self {
            Self::Raw(fields) => fields.len(),
            Self::Map(map) => map.len(),
        }
    }

    /// Whether there are no fields.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, COOKIE, HOST};
    use httparse::Header;

    use super::*;

    #[test]
    fn raw_fields_and_a_map_say_the_same() {
        let fields = [("hOsT", "a"), ("Cookie", "x=1"), ("host2", "b"), ("COOKIE", "y=2")];
        let raw = fields.map(|(name, value)| Header { name, value: value.as_bytes() });
        let map = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), *value))
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, HeaderValue::from_static(value));
                map
            });
        for headers in [Headers::Raw(&raw), Headers::Map(&map)] {
            assert_eq!((headers.len(), headers.is_empty()), (4, false));
            assert_eq!(headers.get(&HOST), Some(&b"a"[..]));
            assert_eq!(headers.get_all(&COOKIE).collect::<Vec<_>>(), [b"x=1", b"y=2"]);
            assert_eq!(headers.get_all(&COOKIE).rev().collect::<Vec<_>>(), [b"y=2", b"x=1"]);
            let of_cookie = |last: &[u8]| {
                let mut seen = Vec::new();
                let found = headers.find_value(&COOKIE, |value| {
                    seen.push(value.to_vec());
                    (value == last).then_some(())
                });
                (found.is_some(), seen.len())
            };
            assert_eq!(
                [b"x=1", b"y=2", b"z=3"].map(|last| of_cookie(last)),
                [(true, 1), (true, 2), (false, 2)]
            );
            assert!(headers.contains(&COOKIE) && !headers.contains(&ACCEPT));
        }
    }
}
