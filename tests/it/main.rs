//! Everything that is tested from outside, in one binary: linking is what two cores are slow at.

mod app;
mod config;
mod examples;
mod layout;
mod sdbox;
mod socketio;
