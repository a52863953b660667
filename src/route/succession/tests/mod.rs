//! Two front-ends in one process, one of which follows the other. Their workers are a server in the
//! test, on a private socket.

mod app;
mod cases;
mod node;
mod stress;
mod talk;
#[cfg(feature = "tls")]
mod tls;
