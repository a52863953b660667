//! The HTTP by which metrics are fetched: `GET /metrics`, for a few at a time, who are not waited for.

use std::convert::Infallible;
use std::future::poll_fn;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::text::Format;
use crate::config::Listen;
use crate::listen::{Client, ListenError, Listener, Socket, bind, watch};

/// Connections at a time; more wait in the kernel.
const CONNECTIONS: usize = 8;

/// How long one may take for everything: workers may take some of it to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Bytes of a request's head.
const HEAD: usize = 16 << 10;

/// Out of descriptors: how long until the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may connect to a path: the app's user and group.
const MODE: u32 = 0o660;

/// Where metrics are served until it is dropped.
#[derive(Debug)]
pub struct Server {
    _accepting: AbortOnDropHandle<()>,
}

/// Opens the socket. Whoever connects to it waits until it is served.
///
/// # Errors
/// It can't be opened.
pub fn open(at: &Listen) -> Result<Socket, ListenError> {
    let socket = bind(at)?;
    if let Listen::Path(path) = at {
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))
            .map_err(|source| ListenError::Bind { on: at.clone(), source })?;
    }
    Ok(socket)
}

impl Server {
    /// Serves a socket; `scrape` makes the text, unless there is nothing to tell of any more.
    ///
    /// # Errors
    /// The runtime can't watch it.
    pub fn start<F>(
        socket: Socket,
        scrape: impl Fn(Format) -> F + Clone + Send + Sync + 'static,
    ) -> io::Result<Server>
    where
        F: Future<Output = Option<String>> + Send + 'static,
    {
        let listener = Listener::watch(socket)?;
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, scrape)));
        Ok(Server { _accepting: accepting })
    }
}

async fn accept<F>(listener: Listener, scrape: impl Fn(Format) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = Option<String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await.expect("it is never closed");
        match poll_fn(|context| listener.poll_accept(context)).await {
            Ok((connection, _)) => {
                let Ok(client) = watch(connection) else { continue };
                let scrape = scrape.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(LIMIT, converse(client, scrape)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept who asks for metrics for a moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request: who comes again every so many seconds need not keep a connection.
async fn converse<F>(client: Client, scrape: impl Fn(Format) -> F + Sync)
where
    F: Future<Output = Option<String>> + Send,
{
    let scrape = &scrape;
    let service =
        service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, scrape).await) });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIMIT)
        .max_buf_size(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(client), service);
    // What goes wrong is the client's doing, and told to it.
    let _ = served.await;
}

async fn answer<F>(
    request: &Request<Incoming>,
    scrape: impl Fn(Format) -> F,
) -> Response<Full<Bytes>>
where
    F: Future<Output = Option<String>>,
{
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "The metrics are at /metrics.\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD.\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let lines = request.headers().get_all(header::ACCEPT).into_iter();
    let accept: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    let Some(text) = scrape(format).await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "The app is being stopped.\n");
    };
    of_type(StatusCode::OK, format.content_type(), text)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    of_type(status, "text/plain; charset=utf-8", text)
}

fn of_type(
    status: StatusCode,
    kind: &'static str,
    text: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
