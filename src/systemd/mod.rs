//! Talking to systemd, and to the system bus.

pub mod dbus;
pub mod events;
pub mod fd_store;
pub mod journal;
mod notify;
pub mod post_stop;
pub mod unit_file;

pub use notify::Notifier;

/// Whether systemd has started this process as a service's, and listens to it.
pub fn is_manager() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}
