//! The relay: packets of @socket.io/cluster-adapter from each worker to the others, on this host and
//! on others.

mod abroad;
pub mod bus;
pub mod envelope;
pub mod fanout;
mod local;
mod reach;
mod seek;
mod status;

pub use abroad::{HostKnown, HostsKnown};
pub use bus::Volume;
pub use fanout::Adapters;
pub use local::{Relay, Relayed};
pub use reach::{Name, Reach};
pub use seek::Sessions;
pub use status::{BusStatus, Forwarded, HostStatus};
