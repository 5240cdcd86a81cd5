//! The ways of a request into the dispatcher, each with code of its own for reading and writing.

use std::sync::Arc;

use crate::certificates::{Site, client, connect, request_over_http2};
use crate::harness::{Answer, Signpost};

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 without TLS: GET and HEAD without more are served without hyper.
    Http1,
    /// The same, with a field that makes it hyper's.
    Http1ByHyper,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS.
    Http2,
}

impl Protocol {
    pub const ALL: [Self; 4] = [Self::Http1, Self::Http1ByHyper, Self::Tls, Self::Http2];

    /// A request without body for `site.example`, on a connection of its own.
    pub fn ask(
        self,
        signpost: &Signpost,
        site: &Site,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let config = |protocol| Arc::new(client(&[site], &[protocol]));
        match self {
            Self::Http1 => signpost.request(method, path, headers),
            Self::Http1ByHyper => {
                signpost.request(method, path, &[headers, &[("Connection", "keep-alive, x")]].concat())
            }
            Self::Tls => connect(signpost.tls.unwrap(), "site.example", &config("http/1.1"))
                .unwrap()
                .request(method, path, headers),
            Self::Http2 => {
                let uri = format!("https://site.example{path}");
                request_over_http2(signpost.tls.unwrap(), &config("h2"), method, &uri, headers)
            }
        }
    }
}
