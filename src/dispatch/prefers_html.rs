//! Whether a client reads HTML, by its `Accept` (RFC 9110 §12.5.1).
//!
//! # Trust
//! The field is the client's. It decides between two texts of the operator's and of ours, nothing else.

use http::header::ACCEPT;

use crate::request::Headers;

/// Whether a request names `text/html`, and does not prefer `text/plain`. Browsers name it when they load a page; scripts
/// and programs such as curl send `*/*`, images other ranges: for them a line of plain text is the better response.
/// O(length of the field), no allocation.
pub(super) fn prefers_html(headers: Headers<'_>) -> bool {
    let (mut html, mut plain) = (0, 0);
    for line in headers.get_all(&ACCEPT) {
        for range in line.split(|&byte| byte == b',') {
            let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let best = match name {
                name if name.eq_ignore_ascii_case(b"text/html") => &mut html,
                name if name.eq_ignore_ascii_case(b"text/plain") => &mut plain,
                _ => continue,
            };
            *best = weight(parts).max(*best);
        }
    }
    html > 0 && html >= plain
}

/// The weight of a media range, in thousandths: all without a `q`, none with one that is malformed.
fn weight<'a>(mut parameters: impl Iterator<Item = &'a [u8]>) -> u32 {
    let q = |parameter: &'a [u8]| parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="));
    let Some(text) = parameters.find_map(q) else { return 1000 };
    match text {
        [b'1'] | [b'1', b'.', ..] if text[1..].iter().skip(1).all(|&byte| byte == b'0') => 1000,
        [b'0'] => 0,
        [b'0', b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => {
            let digit = |at: usize| digits.get(at).map_or(0, |&digit| u32::from(digit - b'0'));
            digit(0) * 100 + digit(1) * 10 + digit(2)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn prefers(lines: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT, line.parse().unwrap());
        }
        prefers_html(Headers::Map(&headers))
    }

    #[test]
    fn a_page_load_of_a_browser_prefers_html() {
        // Chromium, Firefox and Safari.
        for line in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "TEXT/HTML",
            "text/html;charset=utf-8;q=0.001",
            "application/json, text/html ; q=1.000",
            "text/plain;q=0.5, text/html;q=0.5",
        ] {
            assert!(prefers(&[line]), "{line}");
        }
        assert!(prefers(&["application/json", "text/html"]), "a second line");
    }

    #[test]
    fn everything_else_reads_plain_text() {
        assert!(!prefers(&[]));
        for line in [
            "",
            "*/*",
            "text/*",
            "image/avif,image/webp,*/*;q=0.8",
            "application/json, */*;q=0.1",
            "text/html;q=0",
            "text/html;q=0.000",
            "text/html;q=2",
            "text/html;q=1.5",
            "text/html;q=x",
            "text/html;q=0.1234",
            "text/html;q=0.1, text/plain",
            "text/htmlx",
            ",,;;,q=1",
        ] {
            assert!(!prefers(&[line]), "{line}");
        }
    }
}
