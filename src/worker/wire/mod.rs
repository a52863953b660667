//! Node's IPC wire: two framings, the cluster messages, and the sticky messages of Socket.IO.
//!
//! Pure: bytes in, values out. Facts were captured from Node 18 to 26; the frames in the tests
//! are real ones.

pub mod action;
pub mod advanced;
pub mod cluster;
mod framing;
pub mod hook;
mod json;
pub mod message;
mod value;

pub use framing::{Decoder, FrameError, Framing, MAX_FRAME};
pub use message::{Incoming, Packet, classify, look};
pub use value::{Scalar, Value};
