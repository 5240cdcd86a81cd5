//! Connections that the kernel defers (`TCP_DEFER_ACCEPT`): complete for the client, and in no accept queue yet.
//!
//! A listener that is closed resets them. With the option off, the kernel queues each of them when the client sends
//! something, or when it has acknowledged the SYN-ACK that the kernel sends again: after a second at first (RFC 6298
//! §2.1), later each time after as long again. Until then they are request sockets, of which a listener has no count
//! that it tells. `/proc/net/tcp` lists them, also in a container and under the restrictions of the systemd unit.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

/// How often the kernel is asked. A reading takes some 10 ms, and a second with 100 000 connections.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long the kernel's timer, and an acknowledgment by the client, may take beyond the time that is waited for them.
const SLACK: Duration = Duration::from_millis(250);

/// Waits until no connection to these ports is deferred any more, for which `TCP_DEFER_ACCEPT`, which was `deferred`,
/// must be off by now. Returns after `deferred` at the latest: then the kernel has sent every SYN-ACK again, and
/// clients that have not acknowledged it are gone.
pub(super) async fn all_queued(ports: &[u16], deferred: Duration) {
    let end = Instant::now() + deferred + SLACK;
    while !ports.is_empty() {
        match count(ports) {
            Ok(0) => return,
            Ok(_) if Instant::now() >= end => return,
            Ok(count) => {
                tracing::debug!(count, "waiting for connections that the kernel defers");
                sleep(INTERVAL.min(end - Instant::now())).await;
            }
            Err(error) => {
                tracing::debug!(%error, "connections that wait in the kernel can't be counted");
                return sleep_until(end).await;
            }
        }
    }
}

/// How many connections to these ports are not complete, or deferred.
fn count(ports: &[u16]) -> io::Result<usize> {
    let mut count = 0;
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match std::fs::read_to_string(table) {
            Ok(text) => count += text.lines().filter(|line| is_pending(line, ports)).count(),
            // A kernel without IPv6 has no table for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
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
