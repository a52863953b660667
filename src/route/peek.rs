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
    loop {
        let peeked = match client {
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
        match peeked {
            Ok(length) => seen = length,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        }
        if seen == buffer.len() && seen <= limit {
            buffer.resize((seen * 4).min(limit + 1), 0);
            // There may be more already; nothing new has to arrive for it.
            seen -= 1;
            continue;
        }
        if let Some(found) = look(&buffer[..seen]) {
            return Ok(found);
        }
    }
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
