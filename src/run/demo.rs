//! `signpost demo`: a dispatcher and its backends in one process, with nothing to configure.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::http::Uri;
use tokio::net::TcpListener;

/// The most backends a demo starts.
pub const MAX_BACKENDS: u16 = 26;

/// A small HTTP server that answers everything with its own name.
#[derive(Debug)]
pub struct DemoBackend {
    /// `a`, `b`, `c`, …
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Starts backends on free ports of loopback. They end with the runtime.
///
/// # Errors
/// That no port could be had.
pub async fn start_backends(count: u16) -> io::Result<Vec<DemoBackend>> {
    let mut backends = Vec::new();
    for letter in ('a'..='z').take(count.into()) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let page = move |uri: Uri| async move {
            let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
            format!("This is backend {letter} on {address}. You asked for {path}\n")
        };
        let app = Router::new().fallback(page);
        tokio::spawn(async move { axum::serve(listener, app).await });
        backends.push(DemoBackend { id: letter.to_string(), address });
    }
    Ok(backends)
}

/// The first free port of loopback from `first` on, among a hundred.
pub fn free_port(first: u16) -> Option<u16> {
    (first..first.saturating_add(100))
        .find(|&port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

/// What a person can try, as lines to print.
pub fn invitation(
    dispatcher: SocketAddr,
    admin: SocketAddr,
    backends: &[DemoBackend],
    pinned: bool,
) -> String {
    let mut text = String::from("\n");
    for DemoBackend { id, address } in backends {
        text += &format!("  backend {id}   http://{address}\n");
    }
    text += "\nTry:\n";
    let mut line = |command: String, what| text += &format!("  {command:52} # {what}\n");
    line(format!("curl -I 'http://{dispatcher}/some/path?q=1'"), "where would I be sent?");
    line(format!("curl -L http://{dispatcher}/"), "go there");
    line(format!("http://{admin}/"), "in a browser: the status page");
    line(format!("curl http://{admin}/metrics"), "who was sent where, and why");
    if pinned {
        line(format!("curl -sIL -b jar -c jar http://{dispatcher}/"), "again and again: one backend");
    }
    text += "\nCtrl-C ends it.\n";
    text
}
