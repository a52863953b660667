//! The packets that cohortd writes itself: that a worker is gone, or there, said in its name.
//!
//! Adapter 0.3 has `ADAPTER_CLOSE`, which the official primary never sends for a worker that was
//! killed, so that `fetchSockets()` elsewhere runs into its timeout of 5 s. 0.1 and 0.2 have
//! `WORKER_EXIT`, sent by their primary. `HEARTBEAT` and `WORKER_PING` are what workers themselves
//! answer to one that is new.

use serde::Serialize;

use super::fanout::{Notice, Speaker};

const HEARTBEAT: i64 = 2;
const ADAPTER_CLOSE: i64 = 13;
const WORKER_PING: i64 = 2;
const WORKER_EXIT: i64 = 3;

/// A packet as the adapters read it.
#[derive(Debug, Serialize)]
pub struct Envelope<'a> {
    source: &'static str,
    #[serde(rename = "type")]
    kind: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nsp: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<u64>,
}

impl<'a> From<&'a Notice> for Envelope<'a> {
    fn from(notice: &'a Notice) -> Self {
        let (speaker, [of_adapter, of_worker]) = match notice {
            Notice::There(speaker) => (speaker, [HEARTBEAT, WORKER_PING]),
            Notice::Gone(speaker) => (speaker, [ADAPTER_CLOSE, WORKER_EXIT]),
        };
        let blank = Envelope { source: "_sio_adapter", kind: 0, uid: None, nsp: None, data: None };
        match speaker {
            Speaker::Adapter { uid, nsp } => {
                Envelope { kind: of_adapter, uid: Some(uid), nsp: Some(nsp), ..blank }
            }
            Speaker::Worker(id, nsp) => {
                Envelope { kind: of_worker, nsp: nsp.as_deref(), data: Some(id.0), ..blank }
            }
        }
    }
}
