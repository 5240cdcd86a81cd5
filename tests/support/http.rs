//! HTTP/1.1 as a client speaks it, by hand: what goes wrong must be seen, not retried.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// How long anything may take before it counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An answer's head, and its body where it has a length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Names are lower-cased.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Parses a head that ends with an empty line; `None` where it is none.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Self { status, headers, body: Vec::new() })
    }

    /// The only value of a field. Panics if the field occurs twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "{name} occurs twice in {self:?}");
        first
    }

    /// `Location`. Panics if there is none.
    pub fn location(&self) -> &str {
        self.header("location").unwrap_or_else(|| panic!("no location in {self:?}"))
    }

    /// `name=value` of the cookie that is set.
    pub fn cookie(&self) -> Option<&str> {
        self.header("set-cookie").map(|cookie| cookie.split(';').next().unwrap())
    }

    /// How many bytes of body follow the head.
    pub fn length(&self) -> usize {
        self.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
    }

    /// Whether the connection ends with it.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The port of the backend that `Location` names.
    pub fn port(&self) -> Option<u16> {
        let authority = self.header("location")?.split_once("://")?.1.split('/').next()?;
        authority.rsplit_once(':')?.1.parse().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The end of the head in `bytes`, just past its empty line.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The loopback address 127.0.0.`last`: a client of its own.
pub fn client(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Connects from an address of choice.
pub fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if from.is_ipv4() == to.is_ipv4() {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A GET without body; `Host` is added where none is among the headers.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text += "Host: site.example\r\n";
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    (text + "\r\n" + body).into_bytes()
}

/// Sends bytes and reads one answer.
pub fn exchange(stream: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<Answer> {
    stream.write_all(bytes)?;
    read_answer(stream)
}

/// Reads one answer. What was read beyond it is lost, so this is not for pipelining.
pub fn read_answer(stream: &mut impl Read) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    let mut more = |bytes: &mut Vec<u8>| -> io::Result<()> {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer was whole"));
        }
        bytes.extend_from_slice(&buffer[..count]);
        Ok(())
    };
    let end = loop {
        match head_end(&bytes) {
            Some(end) => break end,
            None => more(&mut bytes)?,
        }
    };
    let mut answer = Answer::parse(&bytes[..end]).ok_or_else(|| io::Error::other("no HTTP answer"))?;
    while bytes.len() < end + answer.length() {
        more(&mut bytes)?;
    }
    answer.body = bytes.split_off(end);
    Ok(answer)
}

/// One request on a connection of its own.
pub fn once(from: IpAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<Answer> {
    exchange(&mut connect_from(from, to)?, bytes)
}

/// The value of a series in Prometheus text, whatever the order of its labels.
pub fn series(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    text.lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{').unwrap_or((series, ""));
        let wanted = |(key, value): &(&str, &str)| rest.contains(&format!("{key}=\"{value}\""));
        (found == name && labels.iter().all(wanted)).then(|| value.parse().ok()).flatten()
    })
}
