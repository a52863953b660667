//! Talking to systemd.

mod notify;
pub mod post_stop;

pub use notify::Notifier;
