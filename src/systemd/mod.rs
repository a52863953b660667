//! Talking to systemd, and to the system bus.

pub mod dbus;
pub mod events;
pub mod fd_store;
pub mod journal;
mod notify;
pub mod post_stop;
pub mod unit_file;

pub use notify::Notifier;
