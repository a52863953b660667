//! Is anyone there?
//!
//! Node is asked by a request that its HTTP server answers by itself.
//! `Expect:` with a value nobody knows is answered 417 by Node's `http` before any code of the app
//! runs, on any path. That proves that the server reads what it is given, and leaves no trace in
//! the app: no session, no log line. An app without @socket.io/sticky gets a message that it has
//! not asked for, though, so it is not asked lightly.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const OPTIONS: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost: cohortd\r\nConnection: close\r\n\r\n";

const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const ASK_PAUSE: Duration = Duration::from_millis(100);

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: cohortd\r\nExpect: cohortd-probe\r\nConnection: close\r\n\r\n";

/// Asks over a connection whose other end the worker was given, and waits for any HTTP answer.
///
/// # Errors
/// The connection ended, or something other than HTTP came back.
pub async fn ask(connection: TcpStream) -> io::Result<()> {
    ask_by(connection, REQUEST).await
}

/// Asks at a private socket until any HTTP answer comes: then somebody serves it. `OPTIONS *`
/// (RFC 9110, section 9.3.7) is about the server and no page of it.
pub async fn until_answered(path: &Path) {
    let ask = async || ask_by(UnixStream::connect(path).await?, OPTIONS).await;
    // What is not accepted is queued; what is not answered in time is asked again.
    while !matches!(tokio::time::timeout(ANSWER_LIMIT, ask()).await, Ok(Ok(()))) {
        tokio::time::sleep(ASK_PAUSE).await;
    }
}

async fn ask_by(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
) -> io::Result<()> {
    connection.write_all(request).await?;
    let mut answer = [0; 7];
    connection.read_exact(&mut answer).await?;
    if &answer == b"HTTP/1." { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether an app in this directory has a package installed where Node would find it.
pub fn has_package(directory: &Path, name: &str) -> bool {
    let Ok(directory) = std::fs::canonicalize(directory) else { return false };
    directory.ancestors().any(|folder| folder.join("node_modules").join(name).exists())
}
