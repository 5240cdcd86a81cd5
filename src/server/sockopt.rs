//! What the kernel offers and no safe function reaches. The only module with `unsafe`, and no more than two calls.
//!
//! What they buy, by `cargo bench --bench comparison` (BENCHMARKS.md): a connection that is answered at once is never
//! made known to epoll, which tokio's own listener does with each, and the settings `tcp_fast_open` and
//! `tcp_defer_accept`, which neither std nor socket2 nor rustix has.
#![expect(
    unsafe_code,
    reason = "two calls into the kernel that have no safe form; each says why it is sound"
)]

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the reactor say when a listener has somebody in its queue. The listener must not block.
///
/// # Errors
/// epoll has no room for it.
pub(super) fn watch(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: a `TcpListener` owns an open descriptor, always returns that one, and closes it when it is dropped, by
    // when `AsyncFd` has taken it back from epoll.
    let watched = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
    Ok(watched?)
}

/// An option of a listening TCP socket whose value is a number.
#[derive(Clone, Copy, Debug)]
pub(super) enum TcpOption {
    /// How many connections may wait whose request came with the SYN (RFC 7413); 0: none.
    FastOpen,
    /// For how many seconds a connection is kept from us while it is silent (tcp(7)); 0: it is not.
    DeferAccept,
}

/// Sets an option of a socket.
///
/// # Errors
/// The kernel lacks it.
pub(super) fn set(socket: impl AsFd, option: TcpOption, value: libc::c_int) -> io::Result<()> {
    let name = match option {
        TcpOption::FastOpen => libc::TCP_FASTOPEN,
        TcpOption::DeferAccept => libc::TCP_DEFER_ACCEPT,
    };
    let (value, length) = (&raw const value, size_of_val(&value) as libc::socklen_t);
    // SAFETY: `value` is valid for `length` bytes during the call, which keeps no pointer, and the descriptor is
    // borrowed and so open.
    match unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, name, value.cast(), length)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
