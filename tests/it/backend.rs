//! Backends that are really there: they answer, hang, drip or refuse, as told, and say what came.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a backend does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// `200` with a short body.
    Answer,
    /// This status, to wherever the second part leads.
    Redirect(u16, &'static str),
    /// Another status.
    Status(u16),
    /// Accepts and says nothing.
    Hang,
    /// A byte of the head every 20 ms.
    Drip,
    /// A head, and then a byte of the body every 20 ms.
    DripBody,
    /// A body without end.
    Flood,
    /// Interim answers without end.
    Interim,
    /// Bytes that are no HTTP.
    Nonsense,
    /// `200` with these lines of the head, each with its end, and this body.
    Report(&'static str, &'static str),
    /// Says this at once, whatever it is asked, and closes.
    Say(&'static str),
    /// Closes at once.
    Close,
    /// Resets the connection once a request has come.
    Reset,
}

/// A backend on a port of loopback. It is ended when this is dropped.
pub struct Backend {
    pub address: SocketAddr,
    does: Arc<Mutex<Does>>,
    heads: Arc<Mutex<Vec<(Instant, String)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    pub open: Arc<AtomicUsize>,
}

impl Backend {
    pub fn start(does: Does) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), does)
    }

    /// On an address that another one had before.
    pub fn start_on(address: SocketAddr, does: Does) -> Self {
        Self::accept(TcpListener::bind(address).unwrap(), does)
    }

    /// On a socket that may have had connections wait in its queue.
    pub fn accept(listener: TcpListener, does: Does) -> Self {
        let address = listener.local_addr().unwrap();
        let does = Arc::new(Mutex::new(does));
        let heads = Arc::<Mutex<Vec<_>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let open = Arc::<AtomicUsize>::default();
        let (of_thread, log, stopped, opened) =
            (Arc::clone(&does), Arc::clone(&heads), Arc::clone(&stop), Arc::clone(&open));
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(socket) = socket else { continue };
                let (does, log, stopped, opened) =
                    (*of_thread.lock().unwrap(), Arc::clone(&log), Arc::clone(&stopped), Arc::clone(&opened));
                opened.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    serve(socket, does, &log, &stopped);
                    opened.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, does, heads, stop, thread: Some(thread), open }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn now_does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    /// The heads of requests so far, each with when it came.
    pub fn heads(&self) -> Vec<(Instant, String)> {
        self.heads.lock().unwrap().clone()
    }

    /// Closes its port: connections are refused from now on.
    pub fn kill(mut self) -> SocketAddr {
        self.end();
        self.address
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Wakes it, so that it sees that it is to stop.
            let _ = TcpStream::connect(self.address);
            thread.join().unwrap();
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(mut socket: TcpStream, does: Does, log: &Mutex<Vec<(Instant, String)>>, stop: &AtomicBool) {
    if does == Does::Close {
        // What comes is read: a socket that is closed with unread bytes resets the connection. Not every peer sends first.
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let _ = socket.read(&mut [0; 16 << 10]);
        return;
    }
    if let Does::Say(line) = does {
        return drop(socket.write_all(line.as_bytes()));
    }
    let came = Instant::now();
    let mut head = Vec::new();
    let mut byte = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match socket.read(&mut byte) {
            Ok(count) if count > 0 => head.extend_from_slice(&byte[..count]),
            _ => return,
        }
    }
    log.lock().unwrap().push((came, String::from_utf8_lossy(&head).into_owned()));
    let drip = |socket: &mut TcpStream, text: &[u8]| {
        for byte in text.iter().cycle() {
            if stop.load(Ordering::SeqCst) || socket.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    match does {
        Does::Answer => drop(socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")),
        Does::Status(status) => {
            drop(socket.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes()));
        }
        Does::Redirect(status, to) => {
            let answer = format!("HTTP/1.1 {status} X\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            drop(socket.write_all(answer.as_bytes()));
        }
        // Until the prober gives up.
        Does::Hang => drop(socket.read(&mut byte)),
        Does::Drip => drip(&mut socket, b"HTTP/1.1 200 OK\r\nX: "),
        Does::DripBody => {
            drop(socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"));
            drip(&mut socket, b".");
        }
        Does::Flood => {
            drop(socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"));
            while !stop.load(Ordering::SeqCst) && socket.write_all(&[b'.'; 1 << 16]).is_ok() {}
        }
        Does::Interim => {
            let continues = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
            while !stop.load(Ordering::SeqCst) && socket.write_all(&continues).is_ok() {}
        }
        Does::Nonsense => drop(socket.write_all(b"220 mail.example ESMTP\r\n")),
        Does::Report(head, body) => {
            let answer = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len());
            drop(socket.write_all(answer.as_bytes()));
        }
        // Closed with a linger of 0, which the kernel does by RST.
        Does::Reset => socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap(),
        Does::Say(_) | Does::Close => {}
    }
}
