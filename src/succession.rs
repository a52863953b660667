//! Another program goes on in this process: the one that is installed now, which may be a newer one.
//!
//! It has the same PID, sockets and workers. Connections on which something is under way can't move to
//! another program, so a child of this one stays until they have come to a pause, and passes each on
//! then.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::runtime::Runtime;

use crate::listen::FD_NAME;
use crate::supervisor::Heritage;
use crate::supervisor::estate::PREDECESSOR;
use crate::{exit, program, sys};

/// What is left of the other threads ends by itself within this; none may be in the middle of anything
/// when this process is doubled.
const THREADS: Duration = Duration::from_millis(5);

/// Makes the installed program of this process. Returns when it is the child that has nothing left to
/// do, or when there is no such program.
pub fn hand_on(runtime: &Runtime, heritage: Heritage) -> ExitCode {
    let Heritage { sockets, kept, mut predecessors, front } = heritage;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    std::thread::sleep(THREADS);
    match pair.and_then(|pair| Ok((pair, sys::fork()?))) {
        Ok(((_, to), sys::Forked::Child)) => {
            drop((sockets, kept, predecessors));
            runtime.block_on(async {
                match front.pass_on(to) {
                    Ok(()) => front.passed_on().await,
                    Err(error) => tracing::error!(%error, "connections are cut"),
                }
                front.flush_log().await;
            });
            // What else is in here is its successor's.
            sys::end()
        }
        Ok(((from, _), sys::Forked::Parent)) => predecessors.push(from),
        Err(error) => tracing::error!(%error, "connections in use are cut"),
    }
    let sockets = sockets.into_iter().map(|socket| (FD_NAME.to_owned(), socket));
    let numbered = predecessors.into_iter().enumerate();
    let predecessors = numbered.map(|(n, socket)| (format!("{PREDECESSOR}{n}"), socket));
    let (names, descriptors): (Vec<String>, Vec<OwnedFd>) =
        sockets.chain(kept).chain(predecessors).unzip();
    let mut command = program::again(&[]);
    command
        .env("LISTEN_FDNAMES", names.join(":"))
        .env("LISTEN_FDS", names.len().to_string())
        .env("LISTEN_PID", std::process::id().to_string());
    let error = match program::hand_over(&mut command, descriptors.into_iter()) {
        Ok(()) => program::become_it(command),
        Err(error) => error,
    };
    // systemd starts it again, and that goes on with what systemd keeps.
    exit::failed(&error)
}
