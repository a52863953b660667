//! Looks at what a client sends first without taking it: every byte stays in the kernel, for
//! whoever the connection is given to.

use std::io;
use std::os::fd::AsFd;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio_util::either::Either;

use crate::listen::Client;

/// Waits until `look` finds something in the first bytes. It is shown one byte above `limit` at
/// most, and has to make something of that.
///
/// # Errors
/// The client has gone, or sends no more.
pub(super) async fn peek<T>(
    client: &Client,
    limit: usize,
    mut look: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<T> {
    let mut buffer = vec![0; 2048.min(limit + 1)];
    let mut seen = 0;
    // What has come by now is there before the runtime says so.
    let mut peeked = match client {
        Either::Left(stream) => more(stream, &mut buffer, seen, false),
        Either::Right(stream) => more(stream, &mut buffer, seen, false),
    };
    loop {
        match peeked {
            Ok(length) => {
                seen = length;
                if seen == buffer.len() && seen <= limit {
                    buffer.resize((seen * 4).min(limit + 1), 0);
                    // There may be more already; nothing new has to arrive for it.
                    seen -= 1;
                } else if let Some(found) = look(&buffer[..seen]) {
                    return Ok(found);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        peeked = match client {
            Either::Left(stream) => {
                let ready = stream.ready(Interest::READABLE).await?;
                let more = || more(stream, &mut buffer, seen, ready.is_read_closed());
                stream.try_io(Interest::READABLE, more)
            }
            Either::Right(stream) => {
                let ready = stream.ready(Interest::READABLE).await?;
                let more = || more(stream, &mut buffer, seen, ready.is_read_closed());
                stream.try_io(Interest::READABLE, more)
            }
        };
    }
}

/// Takes so many bytes off that have been seen.
///
/// # Errors
/// The kernel's.
pub(super) fn take(client: &Client, length: usize) -> io::Result<()> {
    let mut seen = vec![0; length];
    let (taken, _) = match client {
        Either::Left(stream) => rustix::net::recv(stream, &mut seen, RecvFlags::empty())?,
        Either::Right(stream) => rustix::net::recv(stream, &mut seen, RecvFlags::empty())?,
    };
    if taken == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Looks at what has arrived; `WouldBlock` until it is more than what was `seen`, so that the
/// runtime waits for more instead of asking again and again.
fn more(stream: impl AsFd, buffer: &mut [u8], seen: usize, closed: bool) -> io::Result<usize> {
    let (length, _) = rustix::net::recv(stream, buffer, RecvFlags::PEEK)?;
    if length > seen {
        Ok(length)
    } else if closed || length == 0 {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
