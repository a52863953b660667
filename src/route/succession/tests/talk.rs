//! A client.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::app::LIMIT;

pub(super) struct Talk<S = TcpStream>(BufReader<S>);

impl Talk {
    pub(super) async fn to(place: SocketAddr) -> Talk {
        let stream = TcpStream::connect(place).await.expect("connected");
        stream.set_nodelay(true).expect("no delay");
        Talk(BufReader::new(stream))
    }

    /// A client whose kernel takes little that it does not read.
    pub(super) async fn narrow(place: SocketAddr) -> Talk {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(16 << 10).expect("set");
        Talk(BufReader::new(socket.connect(place).await.expect("connected")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    #[cfg(feature = "tls")]
    pub(super) fn over(stream: S) -> Talk<S> {
        Talk(BufReader::new(stream))
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = self.0.get_mut().write_all(bytes.as_ref());
        tokio::time::timeout(LIMIT, sent).await.expect("in time").expect("sent");
    }

    /// The answer's body, which has to be that of a 200 on a connection that is kept.
    pub(super) async fn hear(&mut self) -> Vec<u8> {
        self.hear_slowly(None).await
    }

    /// The same, with a pause before each part.
    pub(super) async fn hear_slowly(&mut self, pause: Option<Duration>) -> Vec<u8> {
        let heard = self.answer(pause);
        tokio::time::timeout(LIMIT, heard).await.expect("in time")
    }

    async fn answer(&mut self, pause: Option<Duration>) -> Vec<u8> {
        let (mut length, mut is_chunked) = (None, false);
        assert_eq!(self.line().await, "HTTP/1.1 200 OK");
        loop {
            let line = self.line().await.to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", text)) => length = Some(text.parse().expect("a length")),
                Some(("transfer-encoding", "chunked")) => is_chunked = true,
                Some(("connection", word)) => panic!("connection: {word}"),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = Vec::new();
        if let Some(length) = length {
            self.part(&mut body, length, pause).await;
        }
        while is_chunked {
            let size = usize::from_str_radix(&self.line().await, 16).expect("a chunk's size");
            self.part(&mut body, size, pause).await;
            assert_eq!(self.line().await, "");
            is_chunked = size > 0;
        }
        body
    }

    async fn part(&mut self, body: &mut Vec<u8>, length: usize, pause: Option<Duration>) {
        let mut left = length;
        while left > 0 {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            let from = body.len();
            body.resize(from + left.min(64 << 10), 0);
            let read = self.0.read(&mut body[from..]).await.expect("read");
            assert_ne!(read, 0, "it ends {left} bytes before its end");
            body.truncate(from + read);
            left -= read;
        }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).await.expect("a line");
        assert!(read > 0 && line.ends_with("\r\n"), "it ends with {line:?}");
        line.truncate(line.len() - 2);
        line
    }

    /// So many bytes, whatever they are.
    pub(super) async fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let read = tokio::time::timeout(LIMIT, self.0.read_exact(&mut bytes)).await;
        read.expect("in time").expect("not closed before");
        bytes
    }

    /// All that comes until the connection is closed.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(LIMIT, self.0.read_to_end(&mut rest)).await;
        read.expect("in time").expect("closed properly");
        rest
    }

    /// It says no more.
    pub(super) async fn end(&mut self) {
        self.0.get_mut().shutdown().await.expect("ended");
    }
}

pub(super) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: app\r\n\r\n")
}

/// The same, with a body of no bytes: it is no plain request.
pub(super) fn get_empty(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n")
}

pub(super) fn post(target: &str, length: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: app\r\nContent-Length: {length}\r\n\r\n")
}
