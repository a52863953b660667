//! Talking to systemd.

mod notify;
pub mod post_stop;
pub mod unit_file;

pub use notify::Notifier;
