//! What monitoring systems are told: the text that they read, and the HTTP by which they fetch it.
//!
//! What is counted stands near what it counts (`route::counts`, `supervisor::counts`): plain numbers,
//! which are read and written as text only when somebody asks (`supervisor::scrape`).

mod histogram;
pub mod prom_client;
mod server;
mod tally;
pub mod text;

pub use histogram::Histogram;
pub use server::{Server, open};
pub(crate) use tally::cases;
pub use tally::{Cases, Tally};
