//! A real HAProxy, to be understood or to be compared with.

use std::io::read_to_string;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use crate::harness::{Answer, Connection, settings_file, skipped, wait_until};

/// A real HAProxy. It is ended when this is dropped.
pub struct Haproxy {
    child: Child,
    /// Where its first socket listens.
    pub address: SocketAddr,
}

impl Haproxy {
    /// Starts it with two sockets that it takes for `fd@0` and `fd@1`, so that no port is guessed; `None` where
    /// there is none to start. `config` is made with the address of the second.
    pub fn start(config: impl FnOnce(SocketAddr) -> String) -> Option<Self> {
        const DEFAULTS: &str =
            "defaults\n mode tcp\n timeout connect 30s\n timeout client 30s\n timeout server 30s\n";
        let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = first.local_addr().unwrap();
        let config = settings_file(&format!("{DEFAULTS}{}\n", config(second.local_addr().unwrap())));
        let [stdin, stdout] = [first, second].map(|socket| Stdio::from(OwnedFd::from(socket)));
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(config.path()).stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        let Ok(child) = command.spawn() else {
            skipped("haproxy is missing; `apt-get install haproxy` has it");
            return None;
        };
        let mut started = Self { child, address };
        wait_until("haproxy answers", || {
            if started.child.try_wait().unwrap().is_some() {
                panic!("haproxy ended: {}", read_to_string(started.child.stderr.take().unwrap()).unwrap());
            }
            let mut connection = Connection::to(address);
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            connection.read_answer().is_some()
        });
        Some(started)
    }

    /// Visits through it from an address of this machine.
    pub fn visit(&self, source: &str) -> Answer {
        let mut connection = Connection::from_to(source.parse::<IpAddr>().unwrap(), self.address);
        connection.request("GET", "/", &[])
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
