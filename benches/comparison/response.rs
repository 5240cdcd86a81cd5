//! An answer as a visitor reads it: where it ends, whether the connection does, and whether it is the right one.

/// Where visitors are sent. Nobody listens there, and nobody asks.
pub const BACKENDS: [&str; 4] =
    ["http://127.0.0.1:9001", "http://127.0.0.1:9002", "http://127.0.0.1:9003", "http://127.0.0.1:9004"];

/// What visitors ask for, and so the end of each `Location`.
pub const PATH: &str = "/releases/24.04/image.iso?from=entry";

/// What is read of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// How long it is with its body.
    pub length: usize,
    pub status: &'a [u8],
    pub location: &'a [u8],
    pub cookie: Option<&'a [u8]>,
    /// Whether the server ends the connection with it.
    pub closes: bool,
}

impl<'a> Answer<'a> {
    /// Reads one whose head is whole; `None` where it is not.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let status = bytes.get(9..12).filter(|_| bytes.starts_with(b"HTTP/1.1 ")).unwrap_or_default();
        let mut answer = Self { length: head + 4, status, location: b"", cookie: None, closes: false };
        for line in bytes[..head].split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                let text = std::str::from_utf8(value).ok()?;
                answer.length += text.parse::<usize>().ok()?;
            } else if name.eq_ignore_ascii_case(b"location") {
                answer.location = value;
            } else if name.eq_ignore_ascii_case(b"set-cookie") {
                answer.cookie = Some(value);
            } else if name.eq_ignore_ascii_case(b"connection") {
                answer.closes = value.eq_ignore_ascii_case(b"close");
            }
        }
        Some(answer)
    }

    /// Whether it sends the visitor to one of the backends with what was asked for.
    pub fn is_right(&self) -> bool {
        self.status == b"302" && leads_to_a_backend(self.location)
    }
}

/// Whether a `Location` is that of one of the backends.
pub fn leads_to_a_backend(location: &[u8]) -> bool {
    let Some(base) = location.strip_suffix(PATH.as_bytes()) else { return false };
    BACKENDS.iter().any(|backend| backend.as_bytes() == base)
}

/// What a visitor sends, with these lines besides.
pub fn request(more: &[(&str, &str)]) -> Vec<u8> {
    let mut text =
        format!("GET {PATH} HTTP/1.1\r\nHost: site.example\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n");
    for (name, value) in more {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}
