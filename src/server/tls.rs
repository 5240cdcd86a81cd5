//! TLS on accepted sockets: what is offered, and handshakes with a bound on their time and their number.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{Acceptor, NoServerSessionStorage};
use rustls::version::{TLS12, TLS13};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection_tracker::ConnectionHandle;
use super::tcp_stream::Socket;
use crate::certificates::{CertificateResolver, Published};
use crate::metrics::{Counter, Handshake, Limit};
use crate::settings;

/// ALPN's names of what is spoken over TLS, the preferred one first.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// Clients of HTTP/1.0 may offer this alone. They are served as any client of HTTP/1 is.
const HTTP1_0: &[u8] = b"http/1.0";

/// How long a handshake takes a place from others: longer than its reckoning takes, and than most peers.
const COSTLY: Duration = Duration::from_millis(250);

/// How TLS is spoken, one for all workers. Cheap to clone: clones share it.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    places: Arc<Semaphore>,
    timeout: Duration,
    hsts: Option<HeaderValue>,
}

/// What a connection to a TLS listener turned out to be.
pub(super) enum Accepted {
    /// The handshake is done.
    Tls(Box<TlsStream<Socket>>),
    /// The peer sends plain HTTP.
    Plain(Socket),
}

impl Tls {
    /// As the settings say, with the certificates that are published at the time of each handshake.
    ///
    /// # Errors
    /// What keeps rustls from it: no randomness for the tickets' keys.
    pub fn new(settings: &settings::TlsSettings, certificates: Published) -> Result<Self, rustls::Error> {
        // Passed on and not installed: with a second provider in the build, rustls would not know which to take.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(CertificateResolver(certificates)));
        config.alpn_protocols = [HTTP2, HTTP1, HTTP1_0].map(<[u8]>::to_vec).into();
        // Tickets keep a session at the visitor; a table of ours would be a lock that all workers share.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        // Early data can be replayed, and a replay would take a turn and be counted.
        config.max_early_data_size = 0;
        let max_age = settings.hsts.0.as_secs();
        Ok(Self {
            config: Arc::new(config),
            places: Arc::new(Semaphore::new(settings.max_handshakes.get().into())),
            timeout: settings.handshake_timeout.0,
            hsts: (max_age > 0).then(|| HeaderValue::from_str(&format!("max-age={max_age}")).ok()).flatten(),
        })
    }

    /// What every answer says in `Strict-Transport-Security`.
    pub(super) fn hsts(&self) -> Option<&HeaderValue> {
        self.hsts.as_ref()
    }

    /// Shakes hands, and counts how it went; `None` where that led to nothing.
    ///
    /// The first message is read before a place is asked for: a peer that sends none, or half of one, takes no
    /// place from others. Who connects and says nothing at all is no handshake, and while draining is not waited for.
    /// Neither is plain HTTP: its first byte is a letter, which no TLS record begins with (RFC 8446 §5.1).
    pub(super) async fn accept(
        &self,
        mut socket: Socket,
        counter: &Counter,
        handle: &ConnectionHandle,
    ) -> Option<Accepted> {
        let deadline = Instant::now() + self.timeout;
        let mut byte = [0];
        let first = async { matches!(socket.peek(&mut byte).await, Ok(1)) };
        let spoke = tokio::select! {
            biased;
            first = timeout_at(deadline, first) => first,
            () = handle.drain_wait() => return None,
        };
        if byte[0].is_ascii_alphabetic() {
            return Some(Accepted::Plain(socket));
        }
        let shaken = match spoke {
            Ok(true) => tokio::select! {
                shaken = timeout_at(deadline, self.shake(socket, counter)) => shaken,
                () = handle.prompt_drain_wait() => return None,
            },
            Ok(false) => return None,
            Err(late) => Err(late),
        };
        let (handshake, stream) = match shaken {
            Ok(Ok(stream)) => (Handshake::Ok, Some(stream)),
            Ok(Err(error)) => {
                // Strangers fail at will, so why is for who looks for it.
                tracing::debug!(%error, "a handshake failed");
                (Handshake::Failed, None)
            }
            Err(_) => (Handshake::Timeout, None),
        };
        counter.handshake(handshake);
        // Boxed: it is large, and is moved whenever a connection is parked or wakes.
        stream.map(|stream| Accepted::Tls(Box::new(stream)))
    }

    async fn shake(&self, socket: Socket, counter: &Counter) -> io::Result<TlsStream<Socket>> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let place = match self.places.try_acquire() {
            Ok(place) => place,
            Err(_) => {
                counter.limited(Limit::Handshakes);
                self.places.acquire().await.map_err(io::Error::other)?
            }
        };
        let mut shaking = pin!(hello.into_stream(Arc::clone(&self.config)));
        // What a handshake costs is spent at once. A peer that does not go on keeps nobody from beginning.
        if let Ok(stream) = timeout(COSTLY, &mut shaking).await {
            return stream;
        }
        drop(place);
        shaking.await
    }
}

/// Whether HTTP/2 was agreed on.
pub(super) fn chose_http2(stream: &TlsStream<Socket>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}
