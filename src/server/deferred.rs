//! Connections that the kernel defers (`TCP_DEFER_ACCEPT`): complete for the client, and in no accept queue yet.
//!
//! A listener that is closed resets them. With the option off, the kernel queues each of them when the client sends
//! something, or when it has acknowledged the SYN-ACK that the kernel sends again: after a second at first (RFC 6298
//! §2.1), later each time after as long again. Until then they are request sockets, of which a listener has no count
//! that it tells. `/proc/net/tcp` lists them, also in a container and under the restrictions of the systemd unit.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

/// How long the kernel is left alone between two readings, at least. A reading takes some 10 ms, and a second with
/// 100 000 connections, so it has a thread of its own, and the pause is no shorter than it.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long the kernel's timer, and an acknowledgment by the client, may take beyond the time that is waited for them.
const SLACK: Duration = Duration::from_millis(250);

/// Waits until no connection to these ports is deferred any more, for which `TCP_DEFER_ACCEPT`, which was `deferred`,
/// must be off by now. Returns after `deferred` at the latest: then the kernel has sent every SYN-ACK again, and
/// clients that have not acknowledged it are gone.
pub(super) async fn all_queued(ports: Arc<[u16]>, deferred: Duration) {
    let end = Instant::now() + deferred + SLACK;
    while !ports.is_empty() {
        let (began, ports) = (Instant::now(), Arc::clone(&ports));
        let pending = spawn_blocking(move || any_pending(&ports));
        let Ok(pending) = tokio::time::timeout_at(end, pending).await else { return };
        match pending.unwrap_or_else(|error| Err(error.into())) {
            Ok(false) => return,
            Ok(true) => {
                tracing::debug!("waiting for connections that the kernel defers");
                let now = Instant::now();
                if now >= end {
                    return;
                }
                sleep(INTERVAL.max(now - began).min(end - now)).await;
            }
            Err(error) => {
                tracing::debug!(%error, "connections that wait in the kernel can't be listed");
                return sleep_until(end).await;
            }
        }
    }
}

/// Whether some connection to these ports is not complete, or deferred.
fn any_pending(ports: &[u16]) -> io::Result<bool> {
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match File::open(table) {
            Ok(file) => {
                for line in BufReader::new(file).lines() {
                    if is_pending(&line?, ports) {
                        return Ok(true);
                    }
                }
            }
            // A kernel without IPv6 has no table for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether a line of the table (proc_pid_net(5)) is that of a request socket on one of these ports: `number:
/// local-address:port remote-address:port state …`, in hexadecimal. The address is not compared, because a listener on
/// a wildcard has connections to any.
fn is_pending(line: &str, ports: &[u16]) -> bool {
    const SYN_RECEIVED: &str = "03";
    let mut fields = line.split_ascii_whitespace().skip(1);
    let port = fields.next().and_then(|local| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok());
    port.is_some_and(|port| ports.contains(&port)) && fields.nth(1) == Some(SYN_RECEIVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_request_sockets_by_state_and_local_port() {
        let line = |local: &str, remote: &str, state: &str| {
            format!(
                "   1: {local} {remote} {state} 00000000:00000000 01:00000057 00000000     0        0 0 1"
            )
        };
        let v6 = "0000000000000000FFFF00000100007F";
        for (line, expected) in [
            (line("0100007F:1F90", "0100007F:9C40", "03"), true),
            (line(&format!("{v6}:1F90"), &format!("{v6}:9C40"), "03"), true),
            (line("0100007F:1F90", "0100007F:9C40", "01"), false),
            (line("0100007F:1F90", "00000000:0000", "0A"), false),
            (line("0100007F:9C40", "0100007F:1F90", "03"), false),
            ("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_pending(&line, &[443, 8080]), expected, "{line}");
        }
    }
}
