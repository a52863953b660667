//! What is known of the bus and of other hosts, for whoever asks.

use serde::{Deserialize, Serialize};

use super::bus::Volume;

/// The bus, as this host sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BusStatus {
    /// Where it is.
    pub url: String,
    /// What this app's subjects or channels begin with.
    pub channel: String,
    /// This host's name.
    pub host: String,
    /// Its number.
    pub number: u16,
    /// Whether the bus is reached.
    pub up: bool,
    /// Since when that is so, in seconds.
    pub since: u64,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long a frame last took to the bus and back, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<f64>,
    /// How often it was reached anew.
    pub reconnects: u64,
    /// What was sent.
    pub sent: Volume,
    /// What came from other hosts.
    pub received: Volume,
    /// What was never sent, because too much waited for the bus.
    pub dropped: Volume,
    /// What other hosts have sent that has not come, in frames.
    pub lost: u64,
    /// What came twice, or too late, in frames.
    pub duplicates: u64,
    /// What came from somebody else, in frames.
    pub foreign: u64,
    /// What waits to be sent, in bytes.
    pub queued: u64,
    /// Other hosts that are there, by name.
    pub hosts: Vec<HostStatus>,
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// Its cohortd's version.
    pub version: String,
    /// How long it has been there, in seconds.
    pub uptime: u64,
    /// How long ago it was last heard, in seconds.
    pub silence: f64,
    /// How many workers it has that have spoken.
    pub workers: usize,
    /// What of it has come here.
    pub received: Volume,
    /// Where it takes requests of its sessions that have come to others, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<String>,
    /// What of that was passed on to it from here.
    #[serde(default)]
    pub forwarded: Forwarded,
}

/// Requests that were passed on to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Forwarded {
    /// How many it has answered.
    pub requests: u64,
    /// How many could not be sent to it, or were not answered.
    pub failed: u64,
}
