//! The front-end: from a client's connection to the worker that has to serve it.
//!
//! ```text
//! arrive: accept ─▶ admission ─▶ peek (head) ─┬─▶ handoff  WebSocket, TLS, or by `deliver`: ─┬─▶ worker
//!                                             │            the connection goes (given)      │
//!                                             ├─▶ plain    requests without a body, as bytes ─┤
//!                                             └─▶ proxy    each other by its own session ───┘
//!                                                          (choose, table)
//!         `[tls]`: tls, ahead (head) ─▶ proxy
//!      session of another host: forward ─▶ its proxy
//! worker is drained: take_back, disconnect
//! front-end is followed by another: succession
//! ```

mod access_log;
mod admission;
pub mod affinity;
mod ahead;
mod arrive;
mod at_once;
mod check;
mod choose;
mod cookies;
mod counts;
mod disconnect;
mod download;
mod fields;
mod forward;
pub mod front;
mod given;
mod half_close;
mod handoff;
pub mod head;
mod idle;
mod methods;
mod notes;
mod pair;
mod peek;
mod peer;
mod plain;
mod proxy;
pub mod proxy_protocol;
mod sent;
mod serve;
mod stall;
mod succession;
pub mod table;
mod take_back;
mod through;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod tunnel;
mod upgrade;
mod upload;
mod upstream;
pub mod websocket;

pub use counts::{Counts, SlotCounts};
pub use front::Front;
pub use given::HandedOver;
pub use notes::Notes;
pub use succession::Noted;
pub use tls::Tls;
pub use upstream::{Doors, ListenerId, Upstream};
