//! What each server is told: the nearest to equal that its settings can say.

use std::net::SocketAddr;
use std::path::Path;

use crate::machine::most_connections;
use crate::response::BACKENDS;
use crate::tls::Pair;

/// How a server is set up. Each is a process of its own, since an access log is for all of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Settings {
    /// A random backend for each request.
    Plain,
    /// The same, and the kernel keeps a connection from the server until its request has come.
    Deferred,
    /// A cookie keeps a visitor on its backend.
    Pin,
    /// As `Plain`, and each request is a line in the file `lines`.
    Log,
}

/// What all settings are made of.
pub struct Setup<'a> {
    pub settings: Settings,
    /// A directory of the server's own.
    pub directory: &'a Path,
    pub pair: &'a Pair,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
}

/// A line for each backend, of its id and its URL.
fn each(line: impl Fn(&str, &str) -> String) -> String {
    ["a", "b", "c", "d"].into_iter().zip(BACKENDS).map(|(id, url)| line(id, url) + "\n").collect()
}

impl Setup<'_> {
    /// The word for it, where accept is deferred. Signpost has it in its defaults.
    fn deferred(&self, word: &'static str) -> &'static str {
        if self.settings == Settings::Deferred { word } else { "" }
    }

    pub fn signpost(&self) -> String {
        let Self { plain, tls, pair: Pair { cert, key, .. }, .. } = self;
        let (cert, key) = (cert.display(), key.display());
        let access = self.settings == Settings::Log;
        let backends = each(|id, url| format!("  {{ id = '{id}', url = '{url}' }},"));
        let pin = match self.settings {
            Settings::Pin => "[pools.site.pin]\nsecrets = ['0123456789abcdef0123456789abcdef']\n",
            Settings::Plain | Settings::Deferred | Settings::Log => "",
        };
        format!(
            "
[server]
listen = ['{plain}']
workers = 1
shutdown_grace = '1s'
watch_interval = '0s'

[server.limits]
idle_timeout = '10m'
max_requests_per_connection = 0

[server.tls]
listen = ['{tls}']
certificates = [{{ cert = '{cert}', key = '{key}' }}]

[admin]
listen = '127.0.0.1:0'

[log]
level = 'warn'
access = {access}

[pools.site]
strategy = 'random'
backends = [
{backends}]

[pools.site.health]
kind = 'none'

{pin}"
        )
    }

    pub fn nginx(&self) -> String {
        let Self { plain, tls, pair: Pair { cert, key, .. }, directory, .. } = self;
        let (cert, key, directory) = (cert.display(), key.display(), directory.display());
        let connections = most_connections();
        let log = match self.settings {
            Settings::Log => format!("{directory}/lines combined buffer=64k flush=1s"),
            Settings::Plain | Settings::Deferred | Settings::Pin => "off".to_owned(),
        };
        let deferred = self.deferred(" deferred");
        // A quarter each, of which the last takes what is left. What is hashed differs from request to request,
        // and is cheaper than nginx's random numbers.
        let quarter = |id: &str| if id == "d" { "*" } else { "25%" };
        let split = |name: &str, lines: String| {
            format!("split_clients $connection.$connection_requests {name} {{\n{lines}}}\n")
        };
        let map = |from: &str, to: &str, lines: String| format!("map {from} {to} {{\n{lines}}}\n");
        let (backend, pin) = match self.settings {
            Settings::Pin => (
                [
                    split("$picked", each(|id, _| format!("{} {id};", quarter(id)))),
                    map("$cookie_pin", "$id", each(|id, _| format!("{id} {id};")) + "default $picked;\n"),
                    map("$id", "$backend", each(|id, url| format!("{id} {url};"))),
                    map(
                        "$cookie_pin",
                        "$pin",
                        each(|id, _| format!("{id} '';"))
                            + "default 'pin=$id; HttpOnly; SameSite=Lax; Path=/; Max-Age=3600';\n",
                    ),
                ]
                .concat(),
                "add_header Set-Cookie $pin;",
            ),
            Settings::Plain | Settings::Deferred | Settings::Log => {
                (split("$backend", each(|id, url| format!("{} {url};", quarter(id)))), "")
            }
        };
        format!(
            "
worker_processes 1;
daemon off;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections {connections}; }}
http {{
access_log {log};
keepalive_requests 1000000000;
keepalive_timeout 600s;
client_body_temp_path {directory}/client_body;
proxy_temp_path {directory}/proxy;
fastcgi_temp_path {directory}/fastcgi;
uwsgi_temp_path {directory}/uwsgi;
scgi_temp_path {directory}/scgi;
{backend}
server {{
listen {plain} reuseport backlog=4096{deferred};
listen {tls} ssl http2 reuseport backlog=4096;
ssl_certificate {cert};
ssl_certificate_key {key};
ssl_protocols TLSv1.3;
ssl_session_tickets on;
location / {{
{pin}
return 302 $backend$request_uri;
}}
}}
}}
"
        )
    }

    pub fn haproxy(&self) -> String {
        let Self { plain, tls, pair, .. } = self;
        let both = pair.both.display();
        // It wants two descriptors for each.
        let connections = most_connections();
        let (global, log) = match self.settings {
            Settings::Log => ("log stdout format raw local0 info", "log global\noption httplog"),
            Settings::Plain | Settings::Deferred | Settings::Pin => ("", ""),
        };
        let deferred = self.deferred(" defer-accept");
        let redirect = |url: &str, more: &str| format!("http-request redirect prefix {url} code 302{more}");
        let picked = |id: &str| id.bytes().map(|byte| byte - b'a').sum::<u8>();
        let rules = match self.settings {
            Settings::Pin => {
                let kept = each(|id, url| redirect(url, &format!(" if {{ req.cook(pin) -m str {id} }}")));
                let new = each(|id, url| {
                    redirect(url, &format!(" set-cookie pin={id} if {{ var(txn.n) -m int {} }}", picked(id)))
                });
                format!("{kept}http-request set-var(txn.n) rand(4)\n{new}")
            }
            Settings::Plain | Settings::Deferred | Settings::Log => {
                let new =
                    each(|id, url| redirect(url, &format!(" if {{ var(txn.n) -m int {} }}", picked(id))));
                format!("http-request set-var(txn.n) rand(4)\n{new}")
            }
        };
        format!(
            "
global
nbthread 1
maxconn {connections}
{global}

defaults
mode http
timeout connect 5s
timeout server 5s
timeout client 600s
timeout http-keep-alive 600s

frontend site
bind {plain} backlog 4096{deferred}
bind {tls} backlog 4096 ssl crt {both} alpn h2,http/1.1 ssl-min-ver TLSv1.3
{log}
{rules}"
        )
    }
}
