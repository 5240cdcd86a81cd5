//! Which pool serves which hosts and paths.

use fnv::FnvHashMap;

/// One claim: a pool serves this host and what is under this prefix.
#[derive(Clone, Debug)]
pub struct Route {
    /// What the host must be.
    pub host: HostMatch,
    /// The prefix without a trailing slash; empty for the root.
    pub prefix: Box<str>,
    /// The pool's index in the fleet.
    pub pool: usize,
}

/// The host part of a route.
#[derive(Clone, Debug)]
pub enum HostMatch {
    /// Every host, and requests without one.
    Any,
    /// This host, lower-cased.
    Exact(Box<str>),
    /// Hosts that end in this, which begins with a dot.
    Suffix(Box<str>),
}

/// Why no pool was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No pool serves the host.
    Host,
    /// The host is served, but not this path.
    Path,
}

/// Prefixes with their pools, longest first.
type Prefixes = Vec<(Box<str>, usize)>;

/// All routes: exact hosts before the longest wildcard before none.
#[derive(Debug, Default)]
pub struct Routes {
    // Names of the settings alone are in there, so no client can make them collide.
    exact: FnvHashMap<Box<[u8]>, Prefixes>,
    suffix: FnvHashMap<Box<[u8]>, Prefixes>,
    any: Prefixes,
}

impl Routes {
    /// Sorts the claims. No two may be the same; the settings see to that.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut this = Self::default();
        for Route { host, prefix, pool } in routes {
            let prefixes = match host {
                HostMatch::Any => &mut this.any,
                HostMatch::Exact(name) => this.exact.entry(name.into_boxed_bytes()).or_default(),
                HostMatch::Suffix(name) => this.suffix.entry(name.into_boxed_bytes()).or_default(),
            };
            prefixes.push((prefix, pool));
        }
        let all = this.exact.values_mut().chain(this.suffix.values_mut()).chain([&mut this.any]);
        for prefixes in all {
            prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        }
        this
    }

    /// Finds the pool's index. One hash look-up for the name, one per dot in it.
    ///
    /// # Errors
    /// Whether it was the host or the path that nobody serves.
    pub fn find(&self, host: Option<&[u8]>, path: &str) -> Result<usize, NoRoute> {
        let mut known = false;
        let found = self.find_level(host, |prefixes| {
            known = true;
            longest(prefixes, path)
        });
        found.ok_or(if known { NoRoute::Path } else { NoRoute::Host })
    }

    /// Whether some pool serves the host, whatever the path.
    pub fn knows(&self, host: Option<&[u8]>) -> bool {
        self.find_level(host, |_| Some(())).is_some()
    }

    /// Whether some pool names the host, exactly or by a wildcard.
    pub fn names(&self, host: &[u8]) -> bool {
        self.find_level(Some(host), |prefixes| (!std::ptr::eq(prefixes, &self.any)).then_some(())).is_some()
    }

    /// Visits the prefixes of every claim that matches the host, most specific first, until something is found. There
    /// is at least one prefix at a time.
    fn find_level<T>(&self, host: Option<&[u8]>, mut visit: impl FnMut(&Prefixes) -> Option<T>) -> Option<T> {
        let host = host.unwrap_or_default();
        if let Some(found) = self.exact.get(host).and_then(&mut visit) {
            return Some(found);
        }
        if !self.suffix.is_empty() {
            // A wildcard needs a label in its place, so the dot it begins with is not the first character.
            let dots = memchr::memchr_iter(b'.', host).filter(|&at| at > 0);
            let found = dots.filter_map(|at| self.suffix.get(&host[at..])).find_map(&mut visit);
            if found.is_some() {
                return found;
            }
        }
        if self.any.is_empty() { None } else { visit(&self.any) }
    }
}

/// The first prefix that matches at a segment's end, on raw bytes.
fn longest(prefixes: &Prefixes, path: &str) -> Option<usize> {
    let matches = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
    };
    prefixes.iter().find(|(prefix, _)| matches(prefix)).map(|&(_, pool)| pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let exact = |name: &str| HostMatch::Exact(name.into());
        let suffix = |name: &str| HostMatch::Suffix(name.into());
        let table = [
            (exact("www.example.com"), ""),
            (exact("www.example.com"), "/video"),
            (exact("only.example.com"), "/a"),
            (suffix(".example.com"), ""),
            (suffix(".b.example.com"), "/deep"),
            (exact("solo.test"), "/a"),
        ];
        Routes::new(table.into_iter().enumerate().map(|(pool, (host, prefix))| Route {
            host,
            prefix: prefix.into(),
            pool,
        }))
    }

    #[test]
    fn exact_goes_before_the_longest_wildcard() {
        let routes = routes();
        for (host, path, found) in [
            ("www.example.com", "/", Ok(0)),
            ("www.example.com", "/video", Ok(1)),
            ("www.example.com", "/video/x", Ok(1)),
            ("www.example.com", "/videos", Ok(0)),
            ("www.example.com", "/Video", Ok(0)),
            ("x.example.com", "/video", Ok(3)),
            ("x.b.example.com", "/deep/er", Ok(4)),
            ("x.b.example.com", "/", Ok(3)),
            ("only.example.com", "/a", Ok(2)),
            ("only.example.com", "/b", Ok(3)),
            ("example.com", "/", Err(NoRoute::Host)),
            (".example.com", "/", Err(NoRoute::Host)),
            ("solo.test", "/b", Err(NoRoute::Path)),
            ("other.test", "/", Err(NoRoute::Host)),
        ] {
            assert_eq!(routes.find(Some(host.as_bytes()), path), found, "{host}{path}");
        }
        assert_eq!(routes.find(None, "/"), Err(NoRoute::Host));
        assert!(routes.names(b"x.example.com") && routes.names(b"solo.test") && !routes.names(b"other.test"));
    }

    #[test]
    fn a_pool_without_hosts_takes_the_rest() {
        let any = |prefix: &str, pool| Route { host: HostMatch::Any, prefix: prefix.into(), pool };
        let routes = Routes::new([any("/a", 0), any("/a/b", 1)]);
        assert_eq!(routes.find(None, "/a"), Ok(0));
        assert_eq!(routes.find(Some(b"x"), "/a/b/c"), Ok(1));
        assert_eq!(routes.find(Some(b"x"), "/c"), Err(NoRoute::Path));
        assert!(routes.knows(None) && !routes.names(b"x"));
    }
}
