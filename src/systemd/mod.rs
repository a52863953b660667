//! Talking to systemd, and to the system bus.

pub mod dbus;
mod notify;
pub mod post_stop;
pub mod unit_file;

pub use notify::Notifier;
