//! The bus between hosts: a broker that is there already, and what is said over it.
//!
//! A [`Link`] is one process' connection to it: `queue` is what waits to go out, `parts` what comes
//! in, and `nats` and `redis` are all that knows which broker it is.

// A build without NATS and Redis has no URL to make a link with.
#![cfg_attr(not(any(feature = "nats", feature = "redis")), allow(dead_code))]

mod broker;
pub mod doors;
pub mod hosts;
mod link;
#[cfg(feature = "nats")]
mod nats;
pub mod parts;
pub mod queue;
#[cfg(feature = "redis")]
mod redis;
mod secret;
#[cfg(any(feature = "nats", feature = "redis"))]
mod tls;
mod url;
pub mod wire;

pub use broker::BusError;
pub use link::{Counts, Event, Link, Settings, State};
pub use queue::{About, To, Volume};
pub use secret::{Secret, SecretError};
pub use url::{BusUrl, Engine, Prefix, PrefixError, Server, UrlError};
