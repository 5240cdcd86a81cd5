//! A backend's URL: what a `Location` begins with.

use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::address::bracketed;
use super::names;
use super::values::SettingValue;
use crate::fleet::{DotSegment, Weight, dot_segment};

/// Where a backend is: `http` or `https`, an authority, and at most a path.
///
/// # Trust
/// A `Location` is this, byte for byte, and then the visitor's path. It always ends at a full authority or
/// inside a path, so nothing that follows can change the host (CVE-2019-10098 is what happens otherwise).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendUrl {
    text: String,
    scheme_len: usize,
    authority_end: usize,
    port: u16,
}

impl BackendUrl {
    /// The URL without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Host and, where one is written, port.
    pub fn authority(&self) -> &str {
        &self.text[self.scheme_len + 3..self.authority_end]
    }

    /// The host, lower-cased, an IPv6 address in its brackets, no trailing dot.
    pub fn host(&self) -> String {
        self.host_as_written().trim_end_matches('.').to_ascii_lowercase()
    }

    /// The host as it is written: a trailing dot keeps the search domains of `/etc/resolv.conf` out of a lookup.
    pub fn host_as_written(&self) -> &str {
        let authority = self.authority();
        let end = match authority.rfind(']') {
            Some(bracket) => bracket + 1,
            None => authority.find(':').unwrap_or(authority.len()),
        };
        &authority[..end]
    }

    /// The host as an address, where it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        let host = self.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
    }

    /// The port that is written, else the scheme's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is reached by TLS.
    pub fn is_https(&self) -> bool {
        self.text.starts_with("https:")
    }

    /// Scheme and authority.
    pub fn origin(&self) -> &str {
        &self.text[..self.authority_end]
    }

    /// What stands behind the authority, without a trailing slash.
    pub fn path(&self) -> &str {
        &self.text[self.authority_end..]
    }

    /// Whether anything stands behind the authority.
    pub fn has_path(&self) -> bool {
        self.authority_end < self.text.len()
    }
}

/// Two URLs in one string are a mistake.
const ONE_EACH: &str = "one URL per --backend, and one per item of a list";
/// What may stand between them.
const BETWEEN: [char; 4] = [',', ' ', ';', '|'];

/// Returns what a URL without `://` was most likely meant to be: `http//a` has a scheme of a sort.
fn with_scheme(text: &str) -> String {
    let mistyped = ["https", "http"].into_iter().find_map(|scheme| {
        let rest =
            text.strip_prefix(scheme).filter(|rest| rest.starts_with("//") || rest.starts_with(":/"))?;
        Some(format!("{scheme}://{}", rest.trim_start_matches([':', '/'])))
    });
    mistyped.unwrap_or_else(|| {
        let scheme = if text.ends_with(":443") { "https" } else { "http" };
        format!("{scheme}://{text}")
    })
}

impl SettingValue for BackendUrl {
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse_after("", text)
    }
}

impl BackendUrl {
    /// Parses a URL; `before` is what stands before it, and so before each hint.
    fn parse_after(before: &str, text: &str) -> Result<Self, String> {
        const TAKES: &str = "a URL such as \"https://a.example.com\" or \"http://10.0.0.1:8080/base\"";
        let err = |why: &str| Err(format!("{TAKES}: {why}"));
        let Some((scheme, rest)) = text.split_once("://") else {
            let guess = with_scheme(text);
            return err(&match Self::parse(&guess) {
                Ok(_) => format!("it has no scheme; did you mean \"{before}{guess}\"?"),
                Err(_) if text.contains(BETWEEN) => ONE_EACH.to_owned(),
                Err(_) => match bracketed(text) {
                    Some(host) => format!("IPv6 addresses need brackets: \"{before}http://{host}\""),
                    None => "it has no scheme".to_owned(),
                },
            });
        };
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return err("its scheme is neither http nor https"),
        };
        if rest.contains('#') {
            return err("it has a fragment");
        }
        if rest.contains('?') {
            return err("it has a query");
        }
        // Stricter than the grammar of a host and of a path, which allow commas.
        if text.split(BETWEEN).skip(1).any(|next| next.contains("://")) {
            return err(ONE_EACH);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains(',') {
            return err(ONE_EACH);
        }
        if let Some(host) = bracketed(authority) {
            return err(&format!("IPv6 addresses need brackets: \"{before}{scheme}://{host}{path}\""));
        }
        if authority.contains('@') {
            return err("it has userinfo; credentials would be shown to every visitor");
        }
        let port = match names::host(authority) {
            Ok((_, port)) if !authority.ends_with(':') => port,
            Ok(_) => return err("its host or port is not valid: it ends with a colon"),
            Err(why) => return err(&format!("its host or port is not valid: {why}")),
        };
        if port == Some(0) {
            return err("port 0 is no port to visit");
        }
        if !path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'"' | b'<' | b'>' | b'^' | b'`'))
        {
            return err("its path has a character that must be percent-encoded");
        }
        if path.split('/').any(|segment| dot_segment(segment) != DotSegment::None) {
            return err("its path has a dot segment");
        }
        let path = path.trim_end_matches('/');
        let text = format!("{scheme}://{authority}{path}");
        let authority_end = text.len() - path.len();
        Ok(Self { scheme_len: scheme.len(), authority_end, port: port.unwrap_or(default_port), text })
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `[weight*]url`, the short form of a backend: `3*https://b.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedUrl {
    /// 1 where none is written.
    pub weight: Weight,
    /// The URL behind the weight.
    pub url: BackendUrl,
}

impl SettingValue for WeightedUrl {
    fn parse(text: &str) -> Result<Self, String> {
        let (before, weight, url) = match text.split_once('*') {
            Some((written, url)) if !written.contains(':') => {
                let weight = Weight::parse(written.trim()).map_err(|takes| {
                    format!("a weight and a URL, such as \"3*https://b.example.com\"; the weight is {takes}")
                })?;
                (format!("{}*", written.trim()), weight, url.trim())
            }
            _ => (String::new(), Weight::ONE, text),
        };
        let url = BackendUrl::parse_after(&before, url).map_err(|takes| match weight_first(text) {
            Some(right) => format!("a weight and a URL: write the weight first: \"{right}\""),
            None => takes,
        })?;
        Ok(Self { weight, url })
    }
}

/// Returns the right form of a URL that has its weight behind it, such as `http://a*3` and `http://a weight=3`, or apart
/// from it, such as `3 http://a`.
fn weight_first(text: &str) -> Option<String> {
    let (one, other) = text.split_once(['*', ' ', ';', '|'])?;
    let other = other.trim_start_matches(['*', ' ', ';', '|']);
    let (url, weight) = if other.contains("://") { (other, one) } else { (one, other) };
    let weight = weight.trim_start_matches("weight").trim_start_matches(['=', ':', ' ']).trim();
    Weight::parse(weight).ok()?;
    BackendUrl::parse(url.trim()).ok()?;
    Some(format!("{weight}*{}", url.trim()))
}

impl Serialize for BackendUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_backend_url_ends_at_an_authority_or_in_a_path() {
        for (written, kept) in [
            ("https://a.example.com", "https://a.example.com"),
            ("HTTPS://a.example.com/", "https://a.example.com"),
            ("http://[::1]:8080/base/", "http://[::1]:8080/base"),
            ("http://10.0.0.1/a/b", "http://10.0.0.1/a/b"),
        ] {
            assert_eq!(BackendUrl::parse(written).unwrap().as_str(), kept);
        }
    }

    #[test]
    fn a_backend_url_that_could_lead_elsewhere_is_refused() {
        for (written, why) in [
            ("a.example.com", "no scheme"),
            ("ftp://a.example.com", "neither http nor https"),
            ("https://", "host or port"),
            ("https:///x", "host or port"),
            ("https://user:pass@a.example.com", "userinfo"),
            ("https://a.example.com/?q", "query"),
            ("https://a.example.com?q", "query"),
            ("https://a.example.com/#f", "fragment"),
            ("https://a.example.com:99999", "host or port"),
            ("https://a.example.com:x", "host or port"),
            ("https://a.example.com:0", "port 0"),
            ("https://a.example.com:", "host or port"),
            ("https://a.example.com,https://b.example.com", "one URL per --backend"),
            ("https://a.example.com,b.example.com", "one URL per --backend"),
            ("https://a b", "host or port"),
            ("https://bücher.example", "xn--"),
            ("https://a.example.com/x/../y", "dot segment"),
            ("https://a.example.com/%2e%2e/y", "dot segment"),
            ("https://a.example.com/a b", "percent-encoded"),
        ] {
            let error = BackendUrl::parse(written).unwrap_err();
            assert!(error.contains(why), "{written}: {error}");
        }
    }

    #[test]
    fn a_backend_url_knows_its_host_and_port() {
        let of = |text| {
            let url = BackendUrl::parse(text).unwrap();
            (url.host(), url.port(), url.has_path())
        };
        assert_eq!(of("https://A.example.com"), ("a.example.com".into(), 443, false));
        assert_eq!(of("http://a.example.com./x"), ("a.example.com".into(), 80, true));
        assert_eq!(of("http://[::1]:81"), ("[::1]".into(), 81, false));
        assert_eq!(
            BackendUrl::parse("http://[::ffff:127.0.0.1]").unwrap().ip(),
            Some(Ipv4Addr::LOCALHOST.into())
        );
    }
}
