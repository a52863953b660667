//! Everything that is tested from outside, in one binary: linking is what two cores are slow at.

mod app;
mod cgroup;
mod chaos;
mod cluster;
mod config;
mod drain;
mod examples;
mod foreground;
mod health;
mod hostile;
mod http;
mod languages;
mod layout;
mod machine;
mod manners;
mod memory;
mod peer;
mod raw;
mod reload;
mod sdbox;
mod service;
mod socketio;
mod sticky;
mod systemd;
mod tcp;
mod vmbox;
