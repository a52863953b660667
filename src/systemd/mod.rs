//! Talking to systemd.

pub mod events;
pub mod journal;
mod notify;
pub mod post_stop;
pub mod unit_file;

pub use notify::Notifier;
