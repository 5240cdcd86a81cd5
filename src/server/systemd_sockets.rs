//! Sockets that systemd bound before this process was started (`sd_listen_fds`).

use std::io;

use listenfd::ListenFd;

use super::inherited_sockets::Inherited;

/// How many sockets may be passed.
const MOST: usize = 1024;

/// Takes the sockets that systemd has passed; none where `LISTEN_PID` does not name this process. To be called before
/// any descriptor is opened and before any thread is started: descriptors are told apart by their numbers, and the
/// variables are removed so that nobody takes them twice.
///
/// # Errors
/// What was passed is no listening TCP socket, or more than 1024 of them.
pub fn from_systemd() -> io::Result<Inherited> {
    let mut inherited = Inherited::default();
    if std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Ok(inherited);
    }
    let count = std::env::var("LISTEN_FDS").unwrap_or_default();
    if count.parse().is_ok_and(|count: usize| count > MOST) {
        return Err(invalid(format!("LISTEN_FDS is {count}, and takes at most {MOST}")));
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = ListenFd::from_env();
    for at in 0..passed.len() {
        let name = names.next().unwrap_or_default();
        let because = |error| invalid(format!("socket {at} of systemd, named {name:?}: {error}"));
        if let Some(socket) = passed.take_tcp_listener(at).map_err(because)? {
            inherited.add_from_systemd(name, socket).map_err(because)?;
        }
    }
    Ok(inherited)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
