//! Another program goes on in this process: the one that is installed now, which may be a newer one.
//!
//! It has the same PID, sockets and workers. Connections on which something is under way can't move to
//! another program, so a child of this one stays until they have come to a pause, and passes each on
//! then.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::runtime::Runtime;

use crate::listen::FD_NAME;
use crate::supervisor::Heritage;
use crate::supervisor::estate::PREDECESSOR;
use crate::{exit, program, sys};

/// How long the other threads may take to come to rest.
const RESTS: Duration = Duration::from_secs(2);

/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(1);

/// Makes the installed program of this process. Returns when it is the child that has nothing left to
/// do, or when there is no such program.
pub fn hand_on(runtime: &Runtime, heritage: Heritage) -> ExitCode {
    let Heritage { sockets, kept, mut predecessors, front } = heritage;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let doubled = until_others_rest().and_then(|()| Ok((pair?, sys::fork()?)));
    match doubled {
        Ok(((from, to), sys::Forked::Child)) => {
            // The other end, too: it would never hear that its successor has ended.
            drop((sockets, kept, predecessors, from));
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

/// Waits until every other thread of this process sleeps: what one has locked that is in the middle of
/// something stays locked in a copy of the process, where that thread is not. Those that stay wait for
/// work (the runtime's, which may be looking at a worker's sockets, and the access log's); the bus's
/// are ending.
fn until_others_rest() -> io::Result<()> {
    let until = Instant::now() + RESTS;
    while !do_others_rest()? {
        if Instant::now() > until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a thread does not come to rest"));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn do_others_rest() -> io::Result<bool> {
    let this = rustix::thread::gettid().as_raw_nonzero().to_string();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        if task.file_name() == *this {
            continue;
        }
        let rests = match fs::read_to_string(task.path().join("stat")) {
            Ok(stat) => rests(&stat),
            // It has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => true,
            Err(error) => return Err(error),
        };
        if !rests {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a thread sleeps, or has ended (proc_pid_stat(5)). One that was woken but does not run yet
/// counts as running.
fn rests(stat: &str) -> bool {
    // Its name may have anything in it.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('S' | 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{TryRecvError, channel};

    use super::*;

    #[test]
    fn a_state_is_found_behind_any_name() {
        assert!(rests("12 (dbus) S 1 12 12 0"));
        assert!(rests("12 (a) R (b) S 1 12 12 0"));
        assert!(rests("12 (over) Z 1 12 12 0"));
        assert!(!rests("12 (S) R 1 12 12 0"));
        assert!(!rests("12 (writer) D 1 12 12 0"));
        assert!(!rests(""));
    }

    #[test]
    fn a_thread_that_works_does_not_rest() {
        let (end, is_over) = channel::<()>();
        let (begin, has_begun) = channel();
        let busy = thread::spawn(move || {
            begin.send(()).expect("awaited");
            while is_over.try_recv() == Err(TryRecvError::Empty) {}
        });
        has_begun.recv().expect("it begins");
        assert!(!do_others_rest().expect("/proc"));
        drop(end);
        busy.join().expect("it ends");
    }
}
