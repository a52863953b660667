//! A worker's own `NOTIFY_SOCKET`, by which it says that it is ready (sd_notify(3)).
//!
//! Each worker has one of its own, so that what comes in needs no proof of who sent it, and a
//! process that the worker has started may speak for it (`systemd-notify --ready`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use tokio::net::UnixDatagram;

use crate::listen::OwnPath;

/// Longer messages are cut. systemd itself takes 4096.
const MAX_MESSAGE: usize = 4096;

/// What a worker says of itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// `READY=1`.
    Ready,
    /// `STOPPING=1`.
    Stopping,
    /// `WATCHDOG=1`.
    Alive,
    /// `STATUS=`: in its own words.
    Status(String),
}

/// The receiving end.
#[derive(Debug)]
pub struct NotifySocket(UnixDatagram);

impl NotifySocket {
    /// Opens it; its path is removed with what comes along.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind(path: PathBuf) -> io::Result<(NotifySocket, OwnPath)> {
        // One of a cohortd that was killed may be left here.
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        Ok((NotifySocket(socket), OwnPath::new(path)))
    }

    /// One that a predecessor has opened.
    ///
    /// # Errors
    /// It is none.
    pub fn of(socket: OwnedFd) -> io::Result<NotifySocket> {
        let socket = std::os::unix::net::UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(NotifySocket(UnixDatagram::from_std(socket)?))
    }

    /// Hands on what is said, for ever. Descriptors that come along (`BARRIER=1`, `FDSTORE=1`) are
    /// closed by the kernel, which is all that a barrier waits for.
    pub async fn hear(&self, mut on: impl FnMut(Notice)) {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            match self.0.recv(&mut buffer).await {
                Ok(length) => notices(&buffer[..length]).for_each(&mut on),
                Err(error) => return tracing::warn!(%error, "a NOTIFY_SOCKET can't be read"),
            }
        }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn notices(message: &[u8]) -> impl Iterator<Item = Notice> {
    message.split(|byte| *byte == b'\n').filter_map(|line| match line {
        b"READY=1" => Some(Notice::Ready),
        b"STOPPING=1" => Some(Notice::Stopping),
        b"WATCHDOG=1" => Some(Notice::Alive),
        _ => {
            let status = std::str::from_utf8(line.strip_prefix(b"STATUS=")?).ok()?;
            // It is shown on terminals.
            Some(Notice::Status(status.chars().filter(|c| !c.is_control()).collect()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &[u8]) -> Vec<Notice> {
        notices(message).collect()
    }

    #[test]
    fn what_is_understood_is_taken_and_the_rest_is_let_pass() {
        assert_eq!(said(b"READY=1"), [Notice::Ready]);
        let status = Notice::Status("warm \u{e9}".into());
        assert_eq!(
            said("MAINPID=1\nSTATUS=warm \u{e9}\x1b\nREADY=1\n".as_bytes()),
            [status, Notice::Ready]
        );
        assert_eq!(said(b"WATCHDOG=1\nSTOPPING=1"), [Notice::Alive, Notice::Stopping]);
        assert_eq!(said(b"READY=0\nREADY=11\nready=1\nSTATUS=\xff\n\n"), []);
    }
}
