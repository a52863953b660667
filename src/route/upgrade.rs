//! A client's wish to change protocols, and what carries the bytes once its worker has agreed.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::download::{Lease, Server};
use super::fields::words;
use super::front::Front;
use super::tunnel;

/// What is left to do when a connection has changed protocols.
pub(super) struct Tunnel {
    worker: OnUpgrade,
    close: Arc<CancellationToken>,
    stop: CancellationToken,
    _lease: Lease,
}

/// The protocol that a client wishes for.
pub(super) fn wanted(request: &Request<Incoming>) -> Option<HeaderValue> {
    request.headers().get(header::UPGRADE).filter(|_| wants_websocket(request)).cloned()
}

impl Tunnel {
    /// The client and the worker both speak something else now.
    pub(super) fn open(front: &Front, response: &mut Response<Incoming>, lease: Lease) -> Tunnel {
        let worker = hyper::upgrade::on(response);
        let close = match &lease.server {
            Server::Worker { upstream, .. } => upstream.open_tunnel(),
            // That host says when it has to end.
            Server::Host(_) => Arc::default(),
        };
        Tunnel { worker, close, stop: front.stopping(), _lease: lease }
    }

    /// Carries bytes both ways.
    pub(super) async fn carry(self, client: impl AsyncRead + AsyncWrite + Unpin) {
        let Ok(worker) = self.worker.await else { return };
        tokio::select! {
            () = tunnel::carry(client, TokioIo::new(worker), &self.close) => {}
            // Like a handed-over connection, it ends with its worker, which is stopped after us.
            () = self.stop.cancelled() => {}
        }
    }
}

pub(super) fn wants_websocket(request: &Request<Incoming>) -> bool {
    let lists =
        |name, word| words(request.headers(), name).any(|w: &str| w.eq_ignore_ascii_case(word));
    request.method() == Method::GET
        && lists(header::CONNECTION, "upgrade")
        && lists(header::UPGRADE, "websocket")
}
