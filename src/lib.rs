//! PM2's cluster mode, done by systemd.
//!
//! One cohortd process an app stands between the socket that systemd hands over and N worker
//! processes of the app, which need not know: it is the primary of Node's own cluster protocol.
//!
//! # The map
//! Reading order is the order in which data flows.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | the TOML file, read whole and checked whole |
//! | [`listen`] | sockets that systemd handed over, by name, or our own |
//! | [`keeper`] | the process that keeps clients' connections when cohortd is killed |
//! | [`route`] | a client's connection: its head, its session, its worker; proxied or handed over |
//! | [`worker`] | a worker process: how it is started, and its IPC channel, down to the wire |
//! | [`relay`] | packets of the Socket.IO cluster adapter, from each worker to the others, also to those of other hosts |
//! | [`metrics`] | what monitoring systems are told, and the HTTP by which they ask |
//! | [`supervisor`] | which workers there should be, and the loop that joins everything |
//! | [`systemd`] | what systemd, its journal and the system bus are told |
//! | [`places`] | where a running app keeps its sockets and files |
//! | [`program`], [`succession`] | how another program goes on in this process |
//! | `sync`, `fnv` | how what is shared is locked; a hash that never changes |
//! | [`sys`] | all that is `unsafe` |
//! | [`control`] | the socket by which a running app is spoken to |
//! | [`ctl`] | `cohortctl`, one file a command |
//! | [`man`] | the man pages of both programs |
//!
//! What decides is pure (`config::Template`, `route::{affinity, head, table, websocket}`,
//! `route::plain::{field, request, response}`, `worker::wire`,
//! `supervisor::fleet`, `relay::{fanout, envelope}`, `relay::bus::{hosts, parts, queue, wire}`,
//! `metrics::{text, prom_client}`): no clock, no runtime, no system call; a test sees to it. The
//! others do what was decided.

pub mod config;
pub mod control;
pub mod ctl;
pub mod exit;
mod fnv;
pub mod keeper;
pub mod listen;
pub mod log;
pub mod man;
pub mod metrics;
pub mod places;
pub mod program;
pub mod relay;
pub mod route;
pub mod succession;
pub mod supervisor;
mod sync;
pub mod sys;
pub mod systemd;
pub mod worker;
