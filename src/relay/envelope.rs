//! The packets that cohortd writes itself: a dead worker's last words, said in its name.
//!
//! Adapter 0.3 has `ADAPTER_CLOSE`, which the official primary never sends for a worker that was
//! killed, so that `fetchSockets()` elsewhere runs into its timeout of 5 s. 0.1 and 0.2 have
//! `WORKER_EXIT`, sent by their primary.

use serde::Serialize;

use super::fanout::Farewell;

const ADAPTER_CLOSE: i64 = 13;
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

impl<'a> From<&'a Farewell> for Envelope<'a> {
    fn from(farewell: &'a Farewell) -> Self {
        let blank = Envelope { source: "_sio_adapter", kind: 0, uid: None, nsp: None, data: None };
        match farewell {
            Farewell::Adapter { uid, nsp } => {
                Envelope { kind: ADAPTER_CLOSE, uid: Some(uid), nsp: Some(nsp), ..blank }
            }
            Farewell::Worker(id) => Envelope { kind: WORKER_EXIT, data: Some(id.0), ..blank },
        }
    }
}
