//! The supervisor of one app: the fleet, the servers that workers open, and the loop that joins
//! them to processes, the front-end, the relay and systemd.

mod counts;
pub mod fleet;
mod handle;
mod health;
mod node;
mod output;
mod page;
mod phase;
mod process;
mod prom_client;
mod release;
mod requests;
mod run;
mod scrape;
mod servers;

pub use handle::{Handle, Refusal, Reloaded, Reply, Request, Scale, Status, WorkerStatus};
pub use output::Output;
pub use run::{RunError, run};
