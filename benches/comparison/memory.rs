//! What a connection costs that was answered once and then waits.

use std::sync::Arc;
use std::time::Duration;

use crate::response::request;
use crate::servers::{Ground, Kind, Server};
use crate::settings::Settings;
use crate::smoke::{ask, over_tls, plain};
use crate::{h2, machine, tls};

/// How many connections wait, where the limit of descriptors allows it.
const MOST: usize = 10_000;

/// Long enough for what a server does with connections that wait.
const WAIT: Duration = Duration::from_secs(3);

/// What the connections speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenerProtocol {
    Plain,
    Tls,
    Http2,
}

impl ListenerProtocol {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::Http2];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "HTTP/1.1",
            Self::Tls => "HTTP/1.1 over TLS",
            Self::Http2 => "HTTP/2 over TLS",
        }
    }
}

/// How many connections are opened.
pub fn connections() -> usize {
    MOST.min(machine::most_connections() - 200)
}

/// Bytes of resident memory for each connection, in a process that was just started.
pub fn measure(kind: Kind, speaks: ListenerProtocol, ground: &Ground<'_>) -> Result<f64, String> {
    let server = Server::start(kind, Settings::Plain, ground);
    let count = connections();
    let per_connection = |before: f64| (server.process.resident() - before) * 1024.0 / count as f64;
    match speaks {
        ListenerProtocol::Plain => hold(count, per_connection, &server, || {
            let mut stream = plain(server.plain)?;
            ask(&mut stream, &request(&[])).map(|_| stream)
        }),
        ListenerProtocol::Tls => {
            let config = tls::hurried(&["http/1.1"], false);
            hold(count, per_connection, &server, || {
                let mut stream = over_tls(server.tls, &config)?;
                ask(&mut stream, &request(&[])).map(|_| stream)
            })
        }
        ListenerProtocol::Http2 => {
            let config = Arc::clone(&tls::hurried(&["h2"], false));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let outcome =
                hold(count, per_connection, &server, || runtime.block_on(h2::ask_once(server.tls, &config)));
            runtime.shutdown_background();
            outcome
        }
    }
}

/// Opens the connections after a hundred that warm the server up, and asks what they cost once they have waited.
fn hold<T>(
    count: usize,
    cost: impl Fn(f64) -> f64,
    server: &Server,
    mut open: impl FnMut() -> Result<T, String>,
) -> Result<f64, String> {
    for _ in 0..100 {
        open()?;
    }
    std::thread::sleep(Duration::from_millis(300));
    let before = server.process.resident();
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(open()?);
    }
    std::thread::sleep(WAIT);
    Ok(cost(before))
}
