//! The front-end: from a client's connection to the worker that has to serve it.
//!
//! ```text
//! front: accept ─▶ peek (head) ─┬─▶ handoff  WebSocket or TLS: the connection itself goes
//!                               └─▶ proxy    each request by its own session (table)
//! ```

pub mod affinity;
mod check;
mod disconnect;
pub mod front;
mod given;
mod handoff;
pub mod head;
mod pair;
mod proxy;
pub mod table;
mod tunnel;
mod upload;
mod upstream;
pub mod websocket;

pub use front::Front;
pub use upstream::{ListenerId, Upstream};
