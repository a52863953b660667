//! The supervisor of one app: the fleet, the servers that workers open, and the loop that joins
//! them to processes, the front-end, the relay and systemd.

mod commands;
mod counts;
mod ends;
pub mod estate;
pub mod fleet;
mod handle;
mod health;
mod leave;
mod node;
mod output;
mod page;
mod phase;
mod process;
mod prom_client;
mod reap;
mod release;
mod requests;
mod resume;
mod run;
mod scrape;
mod servers;
mod tasks;

pub use handle::{
    Answer, Asked, Differences, Handle, Reached, Refusal, Reloaded, Reply, Request, Restarted,
    Scale, Status, Succession, Trigger, Triggered, WorkerStatus,
};
pub use leave::Heritage;
pub use output::Output;
pub use run::{Means, RunError, run};
