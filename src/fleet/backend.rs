//! A backend as a request sees it, and the one danger of a base URL with a path.

use super::{AgentDescription, LastCheck};

/// One server that visitors are sent to.
#[derive(Debug)]
pub struct Backend {
    /// What metrics, logs and pins call it.
    pub id: Box<str>,
    /// Its base URL without a trailing slash: what a `Location` begins with.
    pub base: Box<str>,
    /// Its last health check.
    pub check: LastCheck,
    /// The description in its agent's last line that asked for a state.
    pub agent_description: AgentDescription,
}

/// A share of new visitors relative to the other backends of the pool, 0 to 256; 0: no new visitors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Weight(u16);

impl Weight {
    /// The highest weight, as in HAProxy.
    pub const MAX: u16 = 256;
    /// The weight of a backend that says nothing of it.
    pub const ONE: Self = Self(1);

    /// `None` over [`Self::MAX`].
    pub fn new(weight: u16) -> Option<Self> {
        (weight <= Self::MAX).then_some(Self(weight))
    }

    /// As a number, 0 to 256.
    pub fn get(self) -> u16 {
        self.0
    }

    /// Whether new visitors are to stay away.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// How a browser reads a path segment when it resolves a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DotSegment {
    /// An ordinary segment.
    None,
    /// `.`.
    Current,
    /// `..`.
    Parent,
}

/// Reads a segment as the WHATWG URL standard does: `%2e` is a dot.
pub fn dot_segment(segment: &str) -> DotSegment {
    let mut rest = segment.as_bytes();
    let mut count = 0;
    loop {
        rest = match rest {
            [] => break,
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return DotSegment::None,
        };
        count += 1;
    }
    match count {
        1 => DotSegment::Current,
        2 => DotSegment::Parent,
        _ => DotSegment::None,
    }
}

/// Whether a path's dot segments lead above where it begins, as a browser resolves them (`\` counts as `/`).
///
/// Appended to a base with a path, such a path would leave the base: `https://b/app` + `/../admin` is
/// `https://b/admin`. `..;` and `..%2f` are ordinary segments there.
pub fn escapes_base_path(path: &str) -> bool {
    let mut depth = 0usize;
    let path = path.strip_prefix('/').unwrap_or(path);
    for segment in path.split(['/', '\\']) {
        match dot_segment(segment) {
            DotSegment::None => depth += 1,
            DotSegment::Current => {}
            DotSegment::Parent => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return true,
            },
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_those_of_browsers() {
        for up in ["..", ".%2e", "%2E.", "%2e%2E"] {
            assert_eq!(dot_segment(up), DotSegment::Parent, "{up}");
        }
        for stay in [".", "%2e"] {
            assert_eq!(dot_segment(stay), DotSegment::Current, "{stay}");
        }
        for none in ["", "...", "..;", "..%2f", "a", "%2", "%252e%252e", ". ."] {
            assert_eq!(dot_segment(none), DotSegment::None, "{none}");
        }
    }

    #[test]
    fn a_path_that_leads_above_its_root_climbs() {
        for path in [
            "/..",
            "/../x",
            "/%2e%2e/admin",
            "/.%2E/admin",
            "/..\\admin",
            "/a/../../x",
            "/./../x",
            "//../../x",
        ] {
            assert!(escapes_base_path(path), "{path}");
        }
        for path in ["/", "/a/..", "/a/../b", "/..;/", "/..%2fadmin", "/%252e%252e/", "//..", "/.", "/a/./b"]
        {
            assert!(!escapes_base_path(path), "{path}");
        }
    }
}
