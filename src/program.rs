//! The program that this process was started from, as it is installed now: it may be a newer one.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};

/// The first descriptor that is handed over, as by systemd.
const FIRST: i32 = 3;

/// The command by which this process was started, with more arguments.
pub fn again(more: &[&str]) -> Command {
    let mut words: Vec<OsString> = env::args_os().collect();
    words.extend(more.iter().map(OsString::from));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// The command's program gets these as its first descriptors, in this order.
///
/// # Errors
/// There is no room for them.
pub fn hand_over(
    command: &mut Command,
    descriptors: impl Iterator<Item = OwnedFd>,
) -> io::Result<()> {
    let mapping = |(parent_fd, child_fd)| FdMapping { parent_fd, child_fd };
    let mappings: Vec<FdMapping> = descriptors.zip(FIRST..).map(mapping).collect();
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    Ok(())
}

/// Becomes that program, in this process. Returns why not.
pub fn become_it(mut command: Command) -> io::Error {
    command.exec()
}
