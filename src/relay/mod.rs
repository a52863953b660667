//! The relay: packets of @socket.io/cluster-adapter from each worker to the others.

pub mod envelope;
pub mod fanout;
mod local;

pub use fanout::Adapters;
pub use local::{Relay, Relayed};
