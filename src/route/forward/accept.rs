//! Where other hosts bring requests of sessions that are here.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::super::ahead::Ahead;
use super::super::counts::Refused;
use super::super::front::Front;
use super::super::half_close::FromClient;
use super::super::serve;
use super::super::stall::Impatient;
use super::Forwarding;
use super::host::notices_silence;
use crate::listen::tcp;
use crate::relay::bus::hosts::Door;
use crate::relay::{Relay, Sessions};

/// Connections of other hosts that wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long until it is tried again to open the port, or to accept.
const PAUSE: Duration = Duration::from_millis(500);

impl Front {
    /// Passes requests on to the hosts of their sessions from now on, and takes those of other hosts
    /// here, until the doors are closed.
    ///
    /// # Errors
    /// There is no key to be had.
    pub fn forward(self: &Arc<Self>, relay: Arc<Relay>, at: SocketAddr) -> io::Result<()> {
        let forwarding = Arc::new(Forwarding::new(relay)?);
        if self.forwarding.set(forwarding.clone()).is_ok() {
            self.opens(|close| {
                let front = self.clone();
                self.accepting.spawn(async move {
                    front.take_from_hosts(&forwarding, at, close).await;
                    None
                })
            });
        }
        Ok(())
    }

    async fn take_from_hosts(
        self: Arc<Self>,
        forwarding: &Forwarding,
        at: SocketAddr,
        close: CancellationToken,
    ) {
        let taking = async {
            let listener = open(at).await;
            tracing::info!(%at, "other hosts can bring requests of sessions here");
            let door = Door { address: at.to_string(), key: forwarding.identity.key() };
            let sessions: Weak<dyn Sessions> = Arc::<Front>::downgrade(&self);
            forwarding.relay.open_door(door, sessions);
            loop {
                match listener.accept().await {
                    Ok((stream, from)) => {
                        self.connections.spawn(self.clone().of_host(stream, from));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "can't accept another host's connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = taking => {}
            () = close.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Serves a connection of another host, if it is one.
    async fn of_host(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let Some(forwarding) = self.forwarding.get() else { return };
        let settings = self.settings();
        let limits = &settings.limits;
        let Some(_place) = self.admission.admit(limits, None) else {
            return self.counts.refused.count(Refused::Limit);
        };
        if notices_silence(&stream).is_err() {
            return; // it has ended
        }
        let stream = FromClient::new(Either::Left(stream), Arc::default());
        let stream = Impatient::new(stream, limits.send_timeout);
        match self.in_time(limits.head_timeout, forwarding.identity.accept(stream)).await {
            Ok(Ok(stream)) => {
                serve::serve_host(self.clone(), Ahead::new(stream), limits).await;
            }
            Ok(Err(error)) => {
                self.counts.refused.count(Refused::Tls);
                tracing::debug!(%from, %error, "this is none of the hosts on the bus");
            }
            Err(_late) => self.counts.refused.count(Refused::Late),
        }
    }
}

/// Opens the port, whenever that can be done: a predecessor may be about to close it.
async fn open(at: SocketAddr) -> tokio::net::TcpListener {
    let mut said = false;
    loop {
        let opened = tcp(Some(at.ip()), at.port(), true, BACKLOG).and_then(watch);
        match opened {
            Ok(listener) => return listener,
            Err(error) if !said => {
                said = true;
                tracing::error!(
                    %at, %error,
                    "[relay] forward: can't listen there; other hosts can't bring requests of sessions \
                     here until that can be done (it is tried on and on)"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn watch(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(listener)
}
