//! The control socket: what `cohortctl` asks of a running app.
//!
//! Varlink's framing: JSON texts that end in a NUL byte, a method and parameters in, parameters or
//! an error out, and the interface describes itself (`varlinkctl introspect`). The socket belongs to the app's user and only that user (and root) can connect.
//! Everything works without a bus.

mod client;
mod server;
mod wire;

pub use client::{Client, ClientError};
pub use server::Control;

/// The interface's name, before the method's.
pub const INTERFACE: &str = "org.cohortd.App";

/// The socket's name in the app's folder.
const SOCKET: &str = "control";
