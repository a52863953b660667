//! The control socket: what `cohortctl` asks of a running app.
//!
//! Varlink's framing: JSON texts that end in a NUL byte, a method and parameters in, parameters or
//! an error out. The socket belongs to the app's user and only that user (and root) can connect.
//! Everything works without a bus.

mod client;
mod server;
mod wire;

use std::path::PathBuf;

pub use client::{Client, ClientError};
pub use server::Control;

/// The interface's name, before the method's.
pub const INTERFACE: &str = "org.cohortd.App";

/// Where an app's control socket is: below `/run` for root and under systemd (which says where, in
/// `RUNTIME_DIRECTORY`), else below `$XDG_RUNTIME_DIR`. `None` when there is no such place.
pub fn path(app: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("RUNTIME_DIRECTORY") {
        return Some(PathBuf::from(folder).join("control"));
    }
    candidates(app).into_iter().next()
}

/// Where a control socket may be, as seen by a user of it: their own first.
fn candidates(app: &str) -> Vec<PathBuf> {
    let system = PathBuf::from("/run/cohortd").join(app).join("control");
    let own = std::env::var_os("XDG_RUNTIME_DIR")
        .map(|folder| PathBuf::from(folder).join("cohortd").join(app).join("control"));
    if rustix::process::geteuid().is_root() {
        return vec![system];
    }
    own.into_iter().chain([system]).collect()
}
