//! Is anyone there? A request that Node's HTTP server answers by itself.
//!
//! `Expect:` with a value nobody knows is answered 417 by Node's `http` before any code of the app
//! runs, on any path. That proves that the server reads what it is given, and leaves no trace in
//! the app: no session, no log line.

use std::io;

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
