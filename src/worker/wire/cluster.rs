//! Node's cluster messages: what a worker asks of its primary, and what a primary says.
//!
//! `ack` echoes the other side's `seq`. Captured from Node 18 to 26; Node's own side of it is
//! `lib/internal/cluster/{primary,child}.js`.

use serde::{Deserialize, Serialize};

use super::{Framing, Scalar, Value};

const CMD: &str = "NODE_CLUSTER";

/// A worker's request.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// The worker has connected; its script has not run yet.
    Online,
    /// A server wants a handle to listen with.
    QueryServer(Query),
    /// A server listens.
    Listening {
        /// The port it was told, 0 for a path.
        port: u16,
    },
    /// A server was closed, or the worker's copy of a shared socket.
    Close {
        /// The key that we gave it.
        key: String,
    },
    /// `worker.disconnect()` or `.kill()`: waits for our answer.
    ExitedAfterDisconnect {
        /// What the answer's `ack` has to be.
        seq: u64,
    },
    /// An act that no version known to us sends.
    Unknown(String),
}

/// What a server asked to listen on.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// What the answer's `ack` has to be.
    pub seq: u64,
    /// Tells servers on port 0 apart; counts from 0 for each address in a worker.
    pub index: i64,
    /// Passed on to all workers that listen on the same: TLS ticket keys.
    pub data: Value,
    /// Where.
    pub on: Endpoint,
    /// `listen()`'s backlog, when the app gave one.
    pub backlog: Option<i32>,
}

/// A place to listen on, as `net` and `dgram` describe it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `listen(port, host)`.
    Tcp {
        /// The host's address; `None` is every address, IPv6 with IPv4 if there is any.
        address: Option<String>,
        /// 0 for any.
        port: u16,
        /// IPv6 only, no IPv4.
        v6only: bool,
    },
    /// `listen("/path")`.
    Path {
        /// The path, as the worker sees it.
        path: String,
        /// Everybody may connect.
        readable_all: bool,
        /// Everybody may connect.
        writable_all: bool,
    },
    /// `listen({fd})`.
    Fd(i32),
    /// `dgram`'s `bind()`.
    Udp {
        /// The address; `None` is every address.
        address: Option<String>,
        /// 0 for any.
        port: u16,
        /// `udp6`, not `udp4`.
        v6: bool,
        /// IPv6 only, no IPv4.
        v6only: bool,
        /// `reuseAddr`: others may bind it as well.
        reuse: bool,
    },
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw<'a> {
    #[serde(borrow)]
    act: Scalar<'a>,
    #[serde(borrow)]
    seq: Scalar<'a>,
    #[serde(borrow)]
    index: Scalar<'a>,
    #[serde(borrow)]
    key: Scalar<'a>,
    data: Value,
    #[serde(borrow)]
    address: Scalar<'a>,
    #[serde(borrow)]
    port: Scalar<'a>,
    #[serde(borrow)]
    address_type: Scalar<'a>,
    #[serde(borrow)]
    backlog: Scalar<'a>,
    #[serde(borrow)]
    fd: Scalar<'a>,
    #[serde(borrow)]
    flags: Scalar<'a>,
    #[serde(borrow)]
    readable_all: Scalar<'a>,
    #[serde(borrow)]
    writable_all: Scalar<'a>,
}

impl Request {
    /// Reads a frame that is known to be a cluster message.
    ///
    /// # Errors
    /// What is missing or of the wrong type.
    pub fn read(framing: Framing, frame: &[u8]) -> Result<Request, String> {
        let raw: Raw<'_> = framing.decode(frame)?;
        let seq = raw.seq.int().and_then(|n| u64::try_from(n).ok());
        Ok(match raw.act.str().ok_or("no act")? {
            "online" => Request::Online,
            "queryServer" => Request::QueryServer(Query {
                seq: seq.ok_or("queryServer without a seq")?,
                index: raw.index.int().unwrap_or(0),
                on: Endpoint::from(&raw)?,
                backlog: raw.backlog.int().and_then(|n| i32::try_from(n).ok()).filter(|n| *n > 0),
                data: raw.data,
            }),
            "listening" => Request::Listening {
                port: raw.port.int().and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
            },
            "close" => {
                Request::Close { key: raw.key.str().ok_or("close without a key")?.to_owned() }
            }
            "exitedAfterDisconnect" => Request::ExitedAfterDisconnect {
                seq: seq.ok_or("exitedAfterDisconnect without a seq")?,
            },
            other => Request::Unknown(other.to_owned()),
        })
    }
}

/// libuv's flags as `net` and `dgram` send them.
const IPV6_ONLY: i64 = 1;
const UDP_REUSE_ADDR: i64 = 4;

impl Endpoint {
    fn from(raw: &Raw<'_>) -> Result<Endpoint, String> {
        if let Some(fd) = raw.fd.int().filter(|fd| *fd >= 0) {
            return Ok(Endpoint::Fd(i32::try_from(fd).map_err(|e| e.to_string())?));
        }
        let flags = raw.flags.int().unwrap_or(0);
        let address = raw.address.str().filter(|a| !a.is_empty()).map(str::to_owned);
        let port = match raw.port.int() {
            Some(n) if n < 0 => {
                return Ok(Endpoint::Path {
                    path: address.ok_or("a path server without a path")?,
                    readable_all: raw.readable_all.truthy(),
                    writable_all: raw.writable_all.truthy(),
                });
            }
            port => u16::try_from(port.unwrap_or(0)).map_err(|_| "a port above 65535")?,
        };
        let v6only = flags & IPV6_ONLY != 0;
        Ok(match raw.address_type.str() {
            Some(udp @ ("udp4" | "udp6")) => Endpoint::Udp {
                address,
                port,
                v6: udp == "udp6",
                v6only,
                reuse: flags & UDP_REUSE_ADDR != 0,
            },
            _ => Endpoint::Tcp { address, port, v6only },
        })
    }
}

/// Where a round-robin server listens, for `server.address()` in the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SockName {
    /// The address.
    pub address: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// The port.
    pub port: u16,
}

/// A message of the primary.
#[derive(Debug, Serialize)]
pub struct Message<'a> {
    cmd: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<Errno>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sockname: Option<&'a SockName>,
    seq: u64,
}

/// `errno` of an answer: Node takes `null` for round robin, 0 for a shared handle, and a negative
/// number for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Errno {
    /// No error, and no handle.
    Null(()),
    /// 0 with a handle, or a negated errno.
    Number(i32),
}

impl<'a> Message<'a> {
    fn new(seq: u64) -> Self {
        Message {
            cmd: CMD,
            act: None,
            ack: None,
            key: None,
            errno: None,
            data: None,
            sockname: None,
            seq,
        }
    }

    /// A connection for the server known by `key`; goes with a handle.
    pub fn newconn(seq: u64, key: &'a str) -> Self {
        Message { act: Some("newconn"), key: Some(key), ..Message::new(seq) }
    }

    /// A bare answer.
    pub fn ack(seq: u64, ack: u64) -> Self {
        Message { ack: Some(ack), ..Message::new(seq) }
    }

    /// `queryServer` succeeded: connections will come by `newconn`.
    pub fn serve(
        seq: u64,
        ack: u64,
        key: &'a str,
        data: &'a Value,
        name: Option<&'a SockName>,
    ) -> Self {
        Message {
            ack: Some(ack),
            key: Some(key),
            errno: Some(Errno::Null(())),
            data: Some(data),
            sockname: name,
            ..Message::new(seq)
        }
    }

    /// `queryServer` succeeded: the socket itself goes with this message.
    pub fn share(seq: u64, ack: u64, key: &'a str, data: &'a Value) -> Self {
        Message {
            ack: Some(ack),
            key: Some(key),
            errno: Some(Errno::Number(0)),
            data: Some(data),
            ..Message::new(seq)
        }
    }

    /// `queryServer` failed; `errno` is positive, as the kernel's.
    pub fn refuse(seq: u64, ack: u64, key: &'a str, errno: i32) -> Self {
        Message {
            ack: Some(ack),
            key: Some(key),
            errno: Some(Errno::Number(-errno)),
            data: Some(&Value::Null),
            ..Message::new(seq)
        }
    }
}

/// The type of a handle, which decides what Node makes of the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum HandleType {
    /// A TCP or Unix stream socket, for the cluster module.
    #[serde(rename = "net.Native")]
    Native,
    /// A UDP socket, for the cluster module.
    #[serde(rename = "dgram.Native")]
    Datagram,
    /// A connection, for `process.on("message", (message, socket) => …)`.
    #[serde(rename = "net.Socket")]
    Socket,
}

/// The wrapping of every message that goes with a descriptor.
#[derive(Debug, Serialize)]
pub struct WithHandle<'a, M> {
    cmd: &'static str,
    #[serde(rename = "type")]
    kind: HandleType,
    msg: M,
    /// For what we have loaded into the worker; Node itself does not look at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
}

impl<'a, M> WithHandle<'a, M> {
    /// Wraps `msg`.
    pub fn new(kind: HandleType, msg: M) -> Self {
        WithHandle { cmd: "NODE_HANDLE", kind, msg, peer: None }
    }

    /// The connection's ends are to be taken for these.
    pub fn of_peer(self, peer: Option<&'a str>) -> Self {
        WithHandle { peer, ..self }
    }
}

/// The answer to a handle that a worker sent.
#[derive(Debug, Serialize)]
pub struct HandleReply {
    cmd: &'static str,
}

impl HandleReply {
    /// `arrived`: the descriptor was there.
    pub fn new(arrived: bool) -> Self {
        HandleReply { cmd: if arrived { "NODE_HANDLE_ACK" } else { "NODE_HANDLE_NACK" } }
    }
}

/// A handle's message without a handle, to which Node's event loop answers `NODE_HANDLE_NACK` and
/// does nothing else (`setupChannel` in Node's `lib/internal/child_process.js`; seen on 18 to 26).
#[derive(Debug, Serialize)]
pub struct Ping {
    cmd: &'static str,
}

impl Ping {
    /// The one message there is.
    pub fn new() -> Self {
        Ping { cmd: "NODE_HANDLE" }
    }
}

impl Default for Ping {
    fn default() -> Self {
        Self::new()
    }
}

/// @socket.io/sticky's injection of a connection; the bytes stay in the kernel, so `data` is empty.
#[derive(Debug, Serialize)]
pub struct StickyConnection {
    #[serde(rename = "type")]
    kind: &'static str,
    data: &'static str,
}

impl StickyConnection {
    /// The one message there is.
    pub fn new() -> Self {
        StickyConnection { kind: "sticky:connection", data: "" }
    }
}

impl Default for StickyConnection {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Request {
        Request::read(Framing::Json, text.as_bytes()).expect("is a request")
    }

    fn query(text: &str) -> Endpoint {
        match read(text) {
            Request::QueryServer(query) => query.on,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn captured_requests_are_read() {
        assert_eq!(read(r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#), Request::Online);
        assert_eq!(
            read(r#"{"cmd":"NODE_CLUSTER","act":"close","key":"k","seq":5}"#),
            Request::Close { key: "k".into() }
        );
        assert_eq!(
            read(r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":4}"#),
            Request::ExitedAfterDisconnect { seq: 4 }
        );
        assert_eq!(
            read(
                r#"{"cmd":"NODE_CLUSTER","act":"listening","index":0,"data":null,"address":null,"port":8000,"addressType":4,"seq":2}"#
            ),
            Request::Listening { port: 8000 }
        );
        assert_eq!(
            read(
                r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":8000,"addressType":4,"backlog":0,"seq":1}"#
            ),
            Request::QueryServer(Query {
                seq: 1,
                index: 0,
                data: Value::Null,
                on: Endpoint::Tcp { address: None, port: 8000, v6only: false },
                backlog: None,
            })
        );
        assert_eq!(
            read(r#"{"cmd":"NODE_CLUSTER","act":"dance","seq":0}"#),
            Request::Unknown("dance".into())
        );
        assert!(
            Request::read(Framing::Json, br#"{"cmd":"NODE_CLUSTER","act":"queryServer"}"#).is_err()
        );
    }

    #[test]
    fn every_kind_of_endpoint_is_told_apart() {
        let q = |rest: &str| query(&format!(r#"{{"act":"queryServer","seq":1,{rest}}}"#));
        assert_eq!(
            q(r#""address":"::","port":80,"addressType":6,"flags":1,"backlog":33"#),
            Endpoint::Tcp { address: Some("::".into()), port: 80, v6only: true }
        );
        assert_eq!(
            q(
                r#""address":"t.sock","port":-1,"addressType":-1,"readableAll":true,"writableAll":false"#
            ),
            Endpoint::Path { path: "t.sock".into(), readable_all: true, writable_all: false }
        );
        assert_eq!(q(r#""address":null,"port":null,"addressType":null,"fd":3"#), Endpoint::Fd(3));
        assert_eq!(
            q(r#""address":"127.0.0.1","port":53,"addressType":"udp4","fd":null,"flags":4"#),
            Endpoint::Udp {
                address: Some("127.0.0.1".into()),
                port: 53,
                v6: false,
                v6only: false,
                reuse: true
            }
        );
        assert!(
            Request::read(Framing::Json, br#"{"act":"queryServer","seq":1,"port":70000}"#).is_err()
        );
    }

    #[test]
    fn answers_look_as_node_writes_them() {
        let text = |m: &Message<'_>| serde_json::to_string(m).expect("encodes");
        let name = SockName { address: "::".into(), family: "IPv6", port: 8000 };
        assert_eq!(
            text(&Message::serve(0, 1, "k", &Value::Null, Some(&name))),
            r#"{"cmd":"NODE_CLUSTER","ack":1,"key":"k","errno":null,"data":null,"sockname":{"address":"::","family":"IPv6","port":8000},"seq":0}"#
        );
        assert_eq!(
            text(&Message::refuse(0, 2, "k", 98)),
            r#"{"cmd":"NODE_CLUSTER","ack":2,"key":"k","errno":-98,"data":null,"seq":0}"#
        );
        assert_eq!(
            serde_json::to_string(&WithHandle::new(HandleType::Native, Message::newconn(1, "k")))
                .expect("encodes"),
            r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","act":"newconn","key":"k","seq":1}}"#
        );
    }
}
