//! Certificates for tests, and clients that speak TLS.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;

use crate::harness::{Answer, Connection, PATIENCE};
use crate::support::tls::{Pair, accept_any_certificate};

/// A certificate that signed itself, in its files.
pub struct Site {
    pub cert: PathBuf,
    pub key: PathBuf,
    der: CertificateDer<'static>,
}

impl Site {
    /// A pair for these names, in `stem.pem` and `stem.key`.
    pub fn write(dir: &Path, stem: &str, names: &[&str]) -> Self {
        let pem = Pair::of(names, 2999);
        let (cert, key) = (dir.join(format!("{stem}.pem")), dir.join(format!("{stem}.key")));
        std::fs::write(&cert, &pem.cert).unwrap();
        std::fs::write(&key, &pem.key).unwrap();
        Self { cert, key, der: pem.der }
    }

    /// As it stands in a list of certificates.
    pub fn toml(&self) -> String {
        format!("{{ cert = '{}', key = '{}' }}", self.cert.display(), self.key.display())
    }
}

/// A client's side of TLS.
pub type TlsConnection = Connection<StreamOwned<ClientConnection, TcpStream>>;

/// A client that believes these sites and nobody else.
pub fn client(sites: &[&Site], protocols: &[&str]) -> ClientConfig {
    client_with(sites, protocols, rustls::ALL_VERSIONS)
}

/// The same, of these versions.
pub fn client_with(
    sites: &[&Site],
    protocols: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for site in sites {
        roots.add(site.der.clone()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// A client that believes everybody, to see what is shown.
pub fn credulous() -> ClientConfig {
    let mut config = client(&[], &[]);
    accept_any_certificate(&mut config);
    config
}

/// A handshake that is not done yet: the first read or write does it.
pub fn start(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), socket)
}

/// Shakes hands with `address` as `name`.
pub fn connect(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsConnection> {
    let mut stream = start(address, name, config);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Connection::over(stream))
}

/// One request over HTTP/2, on a connection of its own, whose response ends with its head or its body.
pub fn request_over_http2(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let mut request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
    for &(name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let name = ServerName::try_from(request.uri().host().unwrap().to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    let visit = async {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let stream = connector.connect(name, socket).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        let _connection = tokio::spawn(connection);
        let (response, _) = requests.ready().await.unwrap().send_request(request, true).unwrap();
        let (head, mut body) = response.await.unwrap().into_parts();
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let mut answer = Answer { status: head.status.as_u16(), headers, body: Vec::new() };
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            answer.body.extend_from_slice(&data);
        }
        answer
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, visit).await.expect("a response") })
}

/// The certificate that is shown to who asks for `name`.
pub fn shown(address: SocketAddr, name: &str) -> CertificateDer<'static> {
    let mut connection = connect(address, name, &Arc::new(credulous())).unwrap();
    connection.stream().conn.peer_certificates().unwrap()[0].clone().into_owned()
}

impl PartialEq<CertificateDer<'_>> for Site {
    fn eq(&self, other: &CertificateDer<'_>) -> bool {
        self.der == *other
    }
}
