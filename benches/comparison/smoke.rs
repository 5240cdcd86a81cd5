//! Before anything is measured: that each server does what its rows say.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, StreamOwned};

use crate::h2;
use crate::response::{Answer, request};
use crate::servers::{Kind, Server};
use crate::settings::Settings;
use crate::tls::{self, Pair};

/// How long an answer may take here.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the tries of a server found out.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The cookie that a first answer sets, as a visitor sends it back.
    pub pin: Option<String>,
    /// What it does otherwise than asked.
    pub notes: Vec<String>,
}

/// Tries a server; an error says what it does not do.
pub fn try_out(server: &Server, settings: Settings, pair: &Pair) -> Result<Found, String> {
    let mut found = Found::default();
    let (bytes, kept) = ask_twice(&mut plain(server.plain)?, &request(&[]))?;
    let answer = right(&bytes)?;
    found.pin = answer.cookie.map(|cookie| {
        let pair = cookie.split(|byte| *byte == b';').next().unwrap_or_default();
        String::from_utf8_lossy(pair).into_owned()
    });
    if !kept {
        found.notes.push("closes each connection after its answer".to_owned());
    }
    let bytes = ask(&mut plain(server.plain)?, &request(&[("Connection", "close")]))?;
    if !right(&bytes)?.closes {
        found.notes.push("does not say that it closes".to_owned());
    }
    match (&found.pin, settings) {
        (Some(pin), Settings::Pin) => try_pin(server, pin)?,
        (None, Settings::Plain | Settings::Deferred | Settings::Log) => {}
        (cookie, _) => return Err(format!("cookie: {cookie:?}")),
    }
    if server.kind != Kind::Bare {
        try_tls(server, pair)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = pair.careful(&["h2"]);
        let asked = runtime
            .block_on(async { tokio::time::timeout(PATIENCE, h2::ask_once(server.tls, &config)).await });
        asked.map_err(|_| "no answer over HTTP/2".to_owned())?.map_err(|why| format!("HTTP/2: {why}"))?;
    }
    Ok(found)
}

/// The answer that keeps its connection, and the one that ends it.
pub fn both_answers(server: &Server) -> Result<[Vec<u8>; 2], String> {
    let keep = ask(&mut plain(server.plain)?, &request(&[]))?;
    let close = ask(&mut plain(server.plain)?, &request(&[("Connection", "close")]))?;
    Ok([keep, close])
}

/// A pin must lead to one backend each time, and is not set anew.
fn try_pin(server: &Server, pin: &str) -> Result<(), String> {
    let mut stream = plain(server.plain)?;
    let mut first = None;
    for _ in 0..20 {
        let bytes = ask(&mut stream, &request(&[("Cookie", pin)]))?;
        let answer = right(&bytes)?;
        let location = answer.location.to_vec();
        if answer.cookie.is_some() || *first.get_or_insert(location.clone()) != location {
            return Err("a pin does not keep its visitor".to_owned());
        }
    }
    Ok(())
}

/// The version, the cipher, the group, and that a second visit takes the session up.
fn try_tls(server: &Server, pair: &Pair) -> Result<(), String> {
    let config = pair.careful(&["http/1.1"]);
    for (visit, kind) in [("first", HandshakeKind::Full), ("second", HandshakeKind::Resumed)] {
        let mut stream = over_tls(server.tls, &config)?;
        let bytes = ask(&mut stream, &request(&[("Connection", "close")]))?;
        right(&bytes)?;
        // Tickets may come after the answer.
        let _ = stream.read_to_end(&mut Vec::new());
        let tls = &stream.conn;
        let suite = tls.negotiated_cipher_suite().map(|suite| suite.suite());
        let group = tls.negotiated_key_exchange_group().map(|group| group.name());
        let said = (tls.protocol_version(), suite, group, tls.handshake_kind());
        let due = (
            Some(ProtocolVersion::TLSv1_3),
            Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256),
            Some(rustls::NamedGroup::X25519),
            Some(kind),
        );
        if said != due {
            return Err(format!("TLS of the {visit} visit: {said:?}, and not {due:?}"));
        }
    }
    Ok(())
}

/// A plain connection that waits for what it is to get.
pub fn plain(to: SocketAddr) -> Result<TcpStream, String> {
    let connect = || {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        io::Result::Ok(stream)
    };
    connect().map_err(|error| error.to_string())
}

/// The same over TLS.
pub fn over_tls(
    to: SocketAddr,
    config: &Arc<ClientConfig>,
) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
    Ok(StreamOwned::new(tls::connection(config), plain(to)?))
}

/// One request, and the bytes of its answer.
pub fn ask(stream: &mut (impl Read + Write), request: &[u8]) -> Result<Vec<u8>, String> {
    let mut exchange = || {
        stream.write_all(request)?;
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        while Answer::parse(&bytes).is_none_or(|answer| answer.length > bytes.len()) {
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
        io::Result::Ok(bytes)
    };
    exchange().map_err(|error| error.to_string())
}

/// The same, and whether a second request on the same connection is answered too.
fn ask_twice(stream: &mut TcpStream, request: &[u8]) -> Result<(Vec<u8>, bool), String> {
    let bytes = ask(stream, request)?;
    let kept = ask(stream, request).is_ok();
    Ok((bytes, kept))
}

/// The answer in bytes, where it is the right one.
fn right(bytes: &[u8]) -> Result<Answer<'_>, String> {
    let answer = Answer::parse(bytes).ok_or("no answer")?;
    if answer.is_right() { Ok(answer) } else { Err(String::from_utf8_lossy(bytes).into_owned()) }
}
