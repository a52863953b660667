//! What a worker's message is about, from a look at its top-level keys.
//!
//! One look serves every reader: Node's own protocol, @socket.io/sticky's reports and the packets
//! of @socket.io/cluster-adapter. Everything else is the app's.

use serde::Deserialize;

use super::{Framing, Scalar};

/// The top-level keys that anything in cohortd decides by. Absent keys are [`Scalar::None`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Keys<'a> {
    #[serde(borrow)]
    cmd: Scalar<'a>,
    #[serde(borrow)]
    act: Scalar<'a>,
    #[serde(borrow)]
    ack: Scalar<'a>,
    #[serde(borrow)]
    accepted: Scalar<'a>,
    #[serde(borrow, rename = "type")]
    kind: Scalar<'a>,
    #[serde(borrow)]
    data: Scalar<'a>,
    #[serde(borrow)]
    source: Scalar<'a>,
    #[serde(borrow)]
    uid: Scalar<'a>,
    #[serde(borrow)]
    nsp: Scalar<'a>,
    #[serde(borrow, rename = "requesterUid")]
    requester_uid: Scalar<'a>,
}

/// A message from a worker.
#[derive(Debug, PartialEq)]
pub enum Incoming<'a> {
    /// The handle sent before has arrived (`NODE_HANDLE_ACK`).
    HandleArrived,
    /// A handle message came without its descriptor (`NODE_HANDLE_NACK`).
    HandleMissing,
    /// The worker sent a handle of its own; it waits for our acknowledgement.
    Handle,
    /// The answer to the cluster message that we sent with this `seq`.
    Reply {
        /// Our `seq`.
        seq: u64,
        /// `newconn`: whether the worker took the connection.
        accepted: bool,
    },
    /// What we have loaded into it takes clients' addresses that come with this token.
    HearsOfPeers(&'a str),
    /// What we have loaded into it takes connections by its lane.
    TakesLane,
    /// It answers what it was asked, with words.
    FromHook(&'a str),
    /// A request of Node's cluster module; read it with [`super::cluster::Request`].
    Cluster,
    /// @socket.io/sticky: a session has begun in this worker.
    SessionOpened(&'a str),
    /// @socket.io/sticky: a session has ended in this worker.
    SessionClosed(&'a str),
    /// @socket.io/cluster-adapter: a packet for other workers.
    Adapter(Packet<'a>),
    /// PM2's custom actions; read it with [`super::action::Said`].
    Action,
    /// prom-client: the metrics that it was asked for; read it with [`crate::metrics::prom_client`].
    Metrics,
    /// A message of the app's own.
    App,
}

/// The routing part of a cluster adapter's packet, in either published dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Adapter 0.3: adapters have uids, one for each namespace.
    Uid {
        /// The sending adapter.
        uid: &'a str,
        /// Its namespace.
        nsp: &'a str,
        /// Set on every response: the adapter that asked.
        requester: Option<&'a str>,
    },
    /// Adapters 0.1 and 0.2: adapters are known by `cluster.worker.id`.
    Worker {
        /// The event type; its numbering is not that of 0.3.
        kind: i64,
        /// Its namespace; what is about the worker itself has none.
        nsp: Option<&'a str>,
        /// `data.workerId`: the worker that asked.
        requester: Option<u64>,
    },
}

/// `source` of every adapter packet.
const ADAPTER: &str = "_sio_adapter";

/// Looks at a frame's keys.
///
/// # Errors
/// The frame is no object (a bare string, say), or can't be read. It is then nobody's but the
/// app's, and never a reason to stop reading.
pub fn look<'a>(framing: Framing, frame: &'a [u8]) -> Result<Keys<'a>, String> {
    framing.decode(frame)
}

/// Sorts a message by its keys.
pub fn classify<'k>(keys: &'k Keys<'_>) -> Incoming<'k> {
    match keys.cmd.str() {
        Some("NODE_HANDLE_ACK") => return Incoming::HandleArrived,
        Some("NODE_HANDLE_NACK") => return Incoming::HandleMissing,
        Some("NODE_HANDLE") => return Incoming::Handle,
        Some("NODE_CLUSTER") => {
            return match keys.ack.int().map(u64::try_from) {
                Some(Ok(seq)) => Incoming::Reply { seq, accepted: keys.accepted.truthy() },
                _ if keys.act.str().is_some() => Incoming::Cluster,
                _ => Incoming::App,
            };
        }
        Some("COHORTD_PEER") => {
            return keys.data.str().map_or(Incoming::App, Incoming::HearsOfPeers);
        }
        Some("COHORTD_LANE") => return Incoming::TakesLane,
        Some("COHORTD_ANSWER") => {
            return keys.data.str().map_or(Incoming::App, Incoming::FromHook);
        }
        _ => {}
    }
    if keys.source.str() == Some(ADAPTER) {
        return packet(keys).map_or(Incoming::App, Incoming::Adapter);
    }
    match (keys.kind.str(), keys.data.str()) {
        (Some("sticky:connection"), Some(sid)) => Incoming::SessionOpened(sid),
        (Some("sticky:disconnection"), Some(sid)) => Incoming::SessionClosed(sid),
        (Some("axm:action" | "axm:reply"), None) => Incoming::Action,
        (Some("prom-client:getMetricsRes"), _) => Incoming::Metrics,
        _ => Incoming::App,
    }
}

fn packet<'k>(keys: &'k Keys<'_>) -> Option<Packet<'k>> {
    if let Some(uid) = keys.uid.str() {
        let nsp = keys.nsp.str().unwrap_or("/");
        return Some(Packet::Uid { uid, nsp, requester: keys.requester_uid.str() });
    }
    let requester = match keys.data {
        Scalar::Object { worker_id: Some(id) } => u64::try_from(id).ok(),
        _ => None,
    };
    Some(Packet::Worker { kind: keys.kind.int()?, nsp: keys.nsp.str(), requester })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(text: &str) -> String {
        let keys = look(Framing::Json, text.as_bytes()).expect("an object");
        format!("{:?}", classify(&keys))
    }

    #[test]
    fn real_messages_are_sorted() {
        let table = [
            (r#"{"cmd":"NODE_HANDLE_ACK"}"#, "HandleArrived"),
            (r#"{"cmd":"NODE_HANDLE_NACK"}"#, "HandleMissing"),
            (r#"{"cmd":"NODE_HANDLE","type":"net.Server","msg":{"take":"server"}}"#, "Handle"),
            (r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#, "Cluster"),
            (
                r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":true,"seq":3}"#,
                "Reply { seq: 1, accepted: true }",
            ),
            (
                r#"{"cmd":"NODE_CLUSTER","ack":0,"accepted":false,"seq":3}"#,
                "Reply { seq: 0, accepted: false }",
            ),
            (
                r#"{"type":"sticky:connection","data":"lv_VI97HAXpY6yYWAAAC"}"#,
                r#"SessionOpened("lv_VI97HAXpY6yYWAAAC")"#,
            ),
            (
                r#"{"type":"sticky:disconnection","data":"lv_VI97HAXpY6yYWAAAC"}"#,
                r#"SessionClosed("lv_VI97HAXpY6yYWAAAC")"#,
            ),
            (r#"{"cmd":"COHORTD_PEER","data":"0a1b2c"}"#, r#"HearsOfPeers("0a1b2c")"#),
            (r#"{"cmd":"COHORTD_LANE"}"#, "TakesLane"),
            (r#"{"cmd":"COHORTD_ANSWER","data":"20 21"}"#, r#"FromHook("20 21")"#),
            // adapter 0.3
            (
                r#"{"uid":"a1b2","nsp":"/","type":1,"source":"_sio_adapter"}"#,
                r#"Adapter(Uid { uid: "a1b2", nsp: "/", requester: None })"#,
            ),
            (
                r#"{"type":8,"data":{"requestId":"r","sockets":[]},"uid":"a1b2","nsp":"/admin","source":"_sio_adapter","requesterUid":"c3d4"}"#,
                r#"Adapter(Uid { uid: "a1b2", nsp: "/admin", requester: Some("c3d4") })"#,
            ),
            // adapters 0.1 and 0.2
            (
                r#"{"source":"_sio_adapter","type":1,"nsp":"/admin","data":1}"#,
                r#"Adapter(Worker { kind: 1, nsp: Some("/admin"), requester: None })"#,
            ),
            (
                r#"{"source":"_sio_adapter","type":9,"data":{"requestId":"r","workerId":2,"sockets":[{"workerId":7}]}}"#,
                "Adapter(Worker { kind: 9, nsp: None, requester: Some(2) })",
            ),
            (r#"{"type":"axm:action","data":{"action_name":"gc"}}"#, "Action"),
            (r#"{"type":"axm:reply","data":{"action_name":"gc","return":1}}"#, "Action"),
            (r#"{"type":"prom-client:getMetricsRes","requestId":7,"metrics":[[]]}"#, "Metrics"),
            // the app's own, however close they look
            (r#"{"type":"sticky:connection","data":{"a":1}}"#, "App"),
            (r#"{"cmd":"NODE_CLUSTER"}"#, "App"),
            (r#"{"source":"_sio_adapter"}"#, "App"),
            (r#"{"type":"axm:monitor","data":{"x":[1,2,{"cmd":"NODE_HANDLE_ACK"}]}}"#, "App"),
            ("{}", "App"),
        ];
        for (text, want) in table {
            assert_eq!(sorted(text), want, "{text}");
        }
        assert!(look(Framing::Json, br#""ready""#).is_err(), "a bare string has no keys");
    }

    #[test]
    fn both_framings_are_sorted_alike() {
        let message = serde_json::json!({
            "source": "_sio_adapter", "type": 9,
            "data": {"requestId": "r", "workerId": 2, "deep": {"workerId": 9}}
        });
        for framing in [Framing::Json, Framing::Advanced] {
            let frame = framing.encode(&message).expect("encodes");
            let keys = look(framing, &frame).expect("an object");
            assert_eq!(
                classify(&keys),
                Incoming::Adapter(Packet::Worker { kind: 9, nsp: None, requester: Some(2) }),
            );
        }
    }
}
