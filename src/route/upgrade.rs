//! A client's wish to change protocols, and what carries the bytes once its worker has agreed.

use std::pin::Pin;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;

use super::download::Lease;
use super::fields::words;
use super::front::Front;
use super::tunnel;

/// The wish, and the client's connection once it is granted.
pub(super) struct Upgrade {
    pub(super) protocol: HeaderValue,
    connection: hyper::upgrade::OnUpgrade,
}

/// What is left to do when a connection has changed protocols.
pub(super) type Tunnel = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Upgrade {
    pub(super) fn take(request: &mut Request<Incoming>) -> Option<Upgrade> {
        if !wants_websocket(request) {
            return None;
        }
        let protocol = request.headers().get(header::UPGRADE)?.clone();
        Some(Upgrade { protocol, connection: hyper::upgrade::on(request) })
    }

    /// Carries bytes both ways between the client and the worker that both speak something else
    /// now.
    pub(super) fn open_tunnel(
        self,
        front: &Front,
        response: &mut Response<Incoming>,
        lease: Lease,
    ) -> Tunnel {
        let worker = hyper::upgrade::on(response);
        let stop = front.stopping();
        let close = lease.upstream.open_tunnel();
        Box::pin(async move {
            let Ok((client, worker)) = tokio::try_join!(self.connection, worker) else { return };
            tokio::select! {
                () = tunnel::carry(TokioIo::new(client), TokioIo::new(worker), &close) => {}
                // Like a handed-over connection, it ends with its worker, which is stopped after us.
                () = stop.cancelled() => {}
            }
            drop(lease);
        })
    }
}

pub(super) fn wants_websocket(request: &Request<Incoming>) -> bool {
    let lists =
        |name, word| words(request.headers(), name).any(|w: &str| w.eq_ignore_ascii_case(word));
    request.method() == Method::GET
        && lists(header::CONNECTION, "upgrade")
        && lists(header::UPGRADE, "websocket")
}
