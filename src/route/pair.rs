//! Private connections to ourselves: one end is handed to a worker like a client's.
//!
//! A pair of Unix sockets costs half as much as a TCP connection. But only a worker that can be told
//! the client's ends gets one: in others `socket.remoteAddress` would be undefined, and apps stumble
//! over that.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::sync::Mutex;

/// Loopback answers at once; a second means that something is wrong with the machine.
const LIMIT: Duration = Duration::from_secs(1);

/// A pair of Unix sockets: the first end for us, the second for a worker.
///
/// # Errors
/// The kernel's.
pub(super) fn unix() -> io::Result<(UnixStream, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok((UnixStream::from_std(ours.into())?, theirs))
}

/// Makes connected pairs of TCP.
#[derive(Debug)]
pub struct Pairs {
    listener: Mutex<TcpListener>,
    address: SocketAddr,
}

impl Pairs {
    /// Opens the private listener, on any free loopback port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Pairs> {
        let listener = crate::listen::tcp(Some(Ipv4Addr::LOCALHOST.into()), 0, false, 128)?;
        let address = listener.local_addr()?;
        let listener = Mutex::new(TcpListener::from_std(listener)?);
        Ok(Pairs { listener, address })
    }

    /// A connected pair: the first end for us, the second for a worker.
    ///
    /// # Errors
    /// The kernel's, or a time-out.
    pub async fn open(&self) -> io::Result<(TcpStream, OwnedFd)> {
        let listener = self.listener.lock().await;
        let connected = async {
            let ours = TcpSocket::new_v4()?.connect(self.address).await?;
            let name = ours.local_addr()?;
            loop {
                // Anyone on this machine can connect here: only our own is taken.
                let (theirs, peer) = listener.accept().await?;
                if peer == name {
                    return Ok::<_, io::Error>((ours, theirs));
                }
            }
        };
        let (ours, theirs) =
            tokio::time::timeout(LIMIT, connected).await.map_err(|_| io::ErrorKind::TimedOut)??;
        ours.set_nodelay(true)?;
        Ok((ours, theirs.into_std()?.into()))
    }
}
