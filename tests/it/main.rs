//! Everything that is tested from outside, in one binary: linking is what two cores are slow at.

mod app;
mod balancer;
#[cfg_attr(not(all(feature = "nats", feature = "redis")), allow(dead_code))]
mod broker;
#[cfg(all(feature = "nats", feature = "redis"))]
mod bus;
mod cgroup;
mod chaos;
mod cluster;
mod config;
mod control;
mod dbus;
mod deliver;
mod docs;
mod drain;
mod environment;
mod examples;
mod foreground;
mod half_close;
mod health;
mod hostile;
mod hosts;
mod http;
mod import;
#[path = "../../fuzz/src/lib.rs"]
mod invariants;
mod journal;
mod lane;
mod languages;
mod layout;
mod machine;
mod manners;
mod memory;
mod metrics;
mod package;
mod peer;
mod properties;
mod raw;
mod reload;
mod sdbox;
mod security;
mod service;
mod smuggling;
mod socketio;
mod sticky;
mod survive;
mod systemd;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
mod vmbox;
