//! Varlink's messages: <https://varlink.org/Method-Call>.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Larger messages are refused: none of ours comes near it.
const MAX_MESSAGE: u64 = 1 << 20;

/// A method call.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) method: String,
    #[serde(default)]
    pub(super) parameters: serde_json::Value,
    /// It may be answered more than once.
    #[serde(default, skip_serializing_if = "is_not")]
    pub(super) more: bool,
    /// It is not to be answered.
    #[serde(default, skip_serializing_if = "is_not")]
    pub(super) oneway: bool,
}

fn is_not(flag: &bool) -> bool {
    !flag
}

/// Its answer: one of the two.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) parameters: serde_json::Value,
    /// There are more to come.
    #[serde(default, skip_serializing_if = "is_not")]
    pub(super) continues: bool,
}

/// Reads a message; `None` at the end of the stream.
pub(super) async fn read<T: for<'a> Deserialize<'a>>(
    from: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<T>> {
    let mut text = Vec::new();
    from.take(MAX_MESSAGE).read_until(0, &mut text).await?;
    match text.pop() {
        None => Ok(None),
        Some(0) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a message without an end")),
    }
}

/// Writes a message.
pub(super) async fn write<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    let mut text = serde_json::to_vec(message)?;
    text.push(0);
    to.write_all(&text).await
}
