//! Is anyone there? A request that Node's HTTP server answers by itself.
//!
//! `Expect:` with a value nobody knows is answered 417 by Node's `http` before any code of the app
//! runs, on any path. That proves that the server reads what it is given, and leaves no trace in
//! the app: no session, no log line. An app without @socket.io/sticky gets a message that it has
//! not asked for, though, so it is not asked lightly.

use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: cohortd\r\nExpect: cohortd-probe\r\nConnection: close\r\n\r\n";

/// Asks over a connection whose other end the worker was given, and waits for any HTTP answer.
///
/// # Errors
/// The connection ended, or something other than HTTP came back.
pub async fn ask(mut connection: TcpStream) -> io::Result<()> {
    connection.write_all(REQUEST).await?;
    let mut answer = [0; 7];
    connection.read_exact(&mut answer).await?;
    if &answer == b"HTTP/1." { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether an app in this directory has @socket.io/sticky installed where Node would find it.
pub fn has_sticky_package(directory: &Path) -> bool {
    let Ok(directory) = std::fs::canonicalize(directory) else { return false };
    directory.ancestors().any(|folder| folder.join("node_modules/@socket.io/sticky").exists())
}
