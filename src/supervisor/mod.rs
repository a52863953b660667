//! The supervisor of one app: the fleet, the servers that workers open, and the loop that joins
//! them to processes, the front-end, the relay and systemd.

pub mod fleet;
mod output;
mod process;
mod run;
mod servers;

pub use run::{Output, RunError, run};
