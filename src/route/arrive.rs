//! Accepts clients' connections, looks at how each begins, and serves it or hands it over.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::error::Elapsed;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::affinity::Affinity;
use super::ahead::Ahead;
use super::choose::{affinity_of_head, affinity_of_peer};
use super::counts::Refused;
use super::front::{Front, Settings};
use super::given::{Origin, Speaks};
use super::half_close::FromClient;
use super::head::{self, Opening, Refusal, Session};
use super::peek::peek;
use super::peer::{Ends, Peer};
use super::serve::{self, Standing};
use super::stall::Impatient;
use super::tls::Tls;
use super::upstream::ListenerId;
use super::{handoff, plain, proxy_protocol};
use crate::config::{Deliver, Network, Protocol, Route};
use crate::keeper::Mark;
use crate::listen::{Client, Listener, Place, descriptor, watch};
use crate::worker::WorkerId;

/// How long a client that has been accepted may take to begin when no more are.
const LAST_CALL: Duration = Duration::from_secs(2);

/// After a refusal, how long and how much is still read so that the client gets to see it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// What a client is told that speaks plain HTTP where TLS is spoken.
const NO_TLS: &str = "This port speaks HTTPS: the request came without TLS.\n";

/// Out of descriptors or memory: how long until the next try. The kernel keeps the connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Front {
    /// Accepts connections until [`Front::stop`]; then the socket is closed. Or until
    /// [`Front::close_doors`].
    pub fn accept(self: &Arc<Self>, id: ListenerId, listener: Listener) {
        self.opens(|close| self.accepting.spawn(self.clone().accept_from(id, listener, close)));
    }

    async fn accept_from(
        self: Arc<Self>,
        id: ListenerId,
        listener: Listener,
        close: CancellationToken,
    ) -> Option<(ListenerId, Listener)> {
        let mut settings = self.settings.subscribe();
        settings.mark_changed();
        loop {
            let accepted = tokio::select! {
                accepted = self.next_client(id, &listener) => accepted,
                Ok(()) = settings.changed() => {
                    let protocol = settings.borrow_and_update().route.protocol;
                    listener.clients_speak_first(protocol == Protocol::Http);
                    continue;
                }
                () = self.stop.cancelled() => return None,
                () = close.cancelled() => return Some((id, listener)),
            };
            match accepted {
                Ok((connection, address)) => {
                    self.counts.accept();
                    let from = Origin { listener: id, peer: self.peer(address) };
                    let Err(connection) = self.at_once(from, connection) else { continue };
                    let Ok(client) = watch(connection) else { continue };
                    // Until it is handed over it would end with us: what can be done at once is done
                    // before the next one is accepted.
                    let mut connection = Box::pin(self.clone().connection(from, client, false));
                    if begin(connection.as_mut()).await.is_pending() {
                        self.connections.spawn(connection);
                    }
                }
                Err(e) if is_the_clients(&e) => {}
                Err(error) => {
                    tracing::warn!(%error, "can't accept connections for a moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The next connection. As long as no worker has room for it the kernel keeps it.
    async fn next_client(
        &self,
        id: ListenerId,
        listener: &Listener,
    ) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        loop {
            let accepted = std::future::poll_fn(|context| match self.has_room(id) {
                true => listener.poll_accept(context).map(Some),
                false => Poll::Ready(None),
            });
            match accepted.await {
                Some(accepted) => return accepted,
                None => self.room(id).await,
            }
        }
    }

    /// Whether a connection that is handed over would be on its way at once. Where there is no worker
    /// at all it is accepted, to be told so in time.
    fn has_room(&self, listener: ListenerId) -> bool {
        let settings = self.settings.borrow();
        let Settings { route, tls, .. } = &**settings;
        let hands_over =
            route.protocol == Protocol::Tcp || tls.is_none() && self.hands_over_requests(route);
        let workers = self.workers.borrow();
        let mut takers = workers.iter().filter(|u| u.takes_new(listener)).peekable();
        !hands_over || takers.peek().is_none() || takers.any(|u| u.has_room())
    }

    /// Ends when it may be so again.
    async fn room(&self, listener: ListenerId) {
        let mut workers = self.workers.subscribe();
        let all = workers.borrow_and_update().clone();
        let mut rooms: Vec<_> = all.iter().filter_map(|u| u.room()).map(Box::pin).collect();
        if self.has_room(listener) {
            return; // since it was asked
        }
        let room = std::future::poll_fn(|context| {
            let is_one = rooms.iter_mut().any(|room| room.as_mut().poll(context).is_ready());
            if is_one { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            () = room => {}
            _ = workers.changed() => {}
        }
    }

    /// Ends a moment after the front-end has stopped: a client that was accepted just before then
    /// is about to say what it wants.
    async fn last_call(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(LAST_CALL).await;
    }

    pub(super) fn peer(&self, address: Option<SocketAddr>) -> Peer {
        Peer { address, trusted: self.trusts(address), encrypted: false }
    }

    fn trusts(&self, address: Option<SocketAddr>) -> bool {
        match address {
            Some(address) => self.settings().route.trusted.iter().any(|n| n.contains(address.ip())),
            None => self.settings().route.trusted.contains(&Network::Loopback),
        }
    }

    /// A connection of which nothing has been read, but what its proxy says first if its client is
    /// `introduced`.
    pub(super) async fn connection(
        self: Arc<Self>,
        mut from: Origin,
        mut client: Client,
        introduced: bool,
    ) {
        let settings = self.settings();
        let Settings { route, limits, .. } = &*settings;
        if !introduced {
            let said = self.introduced(&settings, &client, from.peer);
            from.peer = match self.unless_passed_on(said).await {
                Some(Some(peer)) => peer,
                Some(None) => return,
                None => return self.pass_fresh(from, client, false),
            };
        }
        let Origin { listener, peer } = from;
        let spoken = |tls: &&Tls| tls.is_spoken_at(&self.places[listener.0]);
        let tls = settings.tls.as_ref().filter(spoken);
        let Some(_place) = self.admission.admit(limits, one_client(peer)) else {
            self.counts.refused.count(Refused::Limit);
            self.mark(descriptor(&client)).busy();
            // One that expects a handshake would not understand it.
            if route.protocol == Protocol::Http && tls.is_none() {
                refuse(&mut client, "503 Service Unavailable").await;
            }
            return;
        };
        if route.protocol == Protocol::Tcp {
            let affinity = affinity_of_peer(route, peer);
            let whole = (Session::None, affinity, Speaks::Other);
            let given = handoff::hand_over(&self, listener, client, whole, None).await;
            return given.unwrap_or_else(|client| self.pass_fresh(from, client, true));
        }
        if let Some(tls) = tls {
            // Boxed: other connections need no room for it.
            return Box::pin(self.decrypt(&settings, tls, from, client)).await;
        }
        let opening = self.opening(&settings, &client, peer);
        let opening = self.in_time(limits.head_timeout, opening);
        match self.unless_passed_on(opening).await {
            Some(Ok(Ok(opening))) => self.begin(&settings, from, client, opening, None).await,
            Some(Ok(Err(_))) => {} // it went away
            Some(Err(_late)) => {
                self.mark(descriptor(&client)).busy();
                self.refuse(&mut client, Refusal::Late).await;
            }
            None => self.pass_fresh(from, client, true),
        }
    }

    /// Serves a connection that is encrypted. Only we can read it: its requests pass through us.
    async fn decrypt(
        self: &Arc<Self>,
        Settings { limits, .. }: &Settings,
        tls: &Tls,
        Origin { listener, peer }: Origin,
        client: Client,
    ) {
        self.mark(descriptor(&client)).busy();
        let peer = Peer { encrypted: true, ..peer };
        let from = Origin { listener, peer };
        let ends = Ends::of(&client, peer);
        let mut client = match self
            .in_time(limits.head_timeout, tls.accept(client, limits.send_timeout))
            .await
        {
            Ok(Ok(Either::Left(client))) => Ahead::new(client),
            Ok(Ok(Either::Right(mut client))) => {
                self.counts.refused.count(Refused::Tls);
                return refuse_saying(&mut client, "400 Bad Request", NO_TLS).await;
            }
            Ok(Err(error)) => {
                self.counts.refused.count(Refused::Tls);
                // It has been told, if it has said anything.
                return tracing::debug!(client = ?peer.address, %error, "no TLS handshake");
            }
            Err(_late) => return self.counts.refused.count(Refused::Late),
        };
        let read = |bytes: &[u8]| match head::look(bytes, limits.head_size) {
            Opening::Partial => None,
            opening => Some(opening),
        };
        match self.in_time(limits.head_timeout, client.peek(limits.head_size, read)).await {
            Ok(Ok(Opening::Request(_) | Opening::Upgrade(_))) => {
                serve::serve(self.clone(), from, client, ends, limits, Standing::default()).await;
            }
            // HTTP/2, though that was not agreed on, or TLS once more.
            Ok(Ok(Opening::Whole)) => self.refuse(&mut client, Refusal::Malformed).await,
            Ok(Ok(Opening::Refused(refusal))) => self.refuse(&mut client, refusal).await,
            Ok(Ok(Opening::Partial) | Err(_)) => {} // it went away
            Err(_late) => self.refuse(&mut client, Refusal::Late).await,
        }
    }

    /// A connection between two requests, of which nothing has been read.
    pub(super) async fn next_request(self: Arc<Self>, from: Origin, client: Client) {
        let settings = self.settings();
        if_it_may_rest(&settings, self.mark(descriptor(&client))).rests();
        let stopped = self.stop.is_cancelled();
        let limit = if stopped { Duration::ZERO } else { settings.limits.idle };
        let opening = tokio::select! {
            biased;
            () = self.passes_on() => return self.pass_kept(from, client, &[]),
            opening = self.in_time(limit, self.opening(&settings, &client, from.peer)) => opening,
        };
        if let Ok(Ok(opening)) = opening {
            self.begin(&settings, from, client, opening, None).await;
        }
    }

    /// A connection that a worker was sent and does not have, of which nothing has been read. It was
    /// admitted before.
    pub(super) async fn offer_again(
        self: Arc<Self>,
        from: Origin,
        client: Client,
        refused: WorkerId,
    ) {
        let settings = self.settings();
        if settings.route.protocol == Protocol::Tcp {
            let affinity = affinity_of_peer(&settings.route, from.peer);
            let whole = (Session::None, affinity, Speaks::Other);
            let given =
                handoff::hand_over(&self, from.listener, client, whole, Some(refused)).await;
            return given.unwrap_or_else(|client| self.pass_fresh(from, client, true));
        }
        let opening = tokio::select! {
            biased;
            () = self.passes_on() => return self.pass_kept(from, client, &[]),
            opening = self.in_time(settings.limits.head_timeout, self.opening(&settings, &client, from.peer)) =>
                opening,
        };
        if let Ok(Ok(opening)) = opening {
            self.begin(&settings, from, client, opening, Some(refused)).await;
        }
    }

    /// A connection between two requests that a predecessor had, with what that has read ahead. It
    /// was admitted there.
    pub(super) async fn kept(self: Arc<Self>, from: Origin, client: Client, ahead: Vec<u8>) {
        let settings = self.settings();
        let _place = self.admission.admit(&settings.limits, one_client(from.peer));
        if ahead.is_empty() {
            self.clone().next_request(from, client).await;
        } else {
            self.serve(&settings, from, client, &ahead).await;
        }
    }

    /// What a client wants first, and where that belongs.
    async fn opening(
        &self,
        Settings { route, limits, .. }: &Settings,
        client: &Client,
        peer: Peer,
    ) -> io::Result<(Opening, Affinity)> {
        let read = |bytes: &[u8]| match head::look(bytes, limits.head_size) {
            Opening::Partial => None,
            opening => Some((opening, affinity_of_head(route, peer, bytes))),
        };
        peek(client, limits.head_size, read).await
    }

    /// Serves a connection that begins so, or hands it over, if need be to one that has `refused` it.
    async fn begin(
        self: &Arc<Self>,
        settings: &Settings,
        from: Origin,
        mut client: Client,
        (opening, affinity): (Opening, Affinity),
        refused: Option<WorkerId>,
    ) {
        let (session, speaks) = match opening {
            // One that can't be handed over is tunnelled.
            Opening::Upgrade(session) if self.hands_over => (session, Speaks::WebSocket),
            Opening::Whole => (Session::None, Speaks::Other),
            Opening::Request(session) if self.hands_over_requests(&settings.route) => {
                (session, Speaks::Http(Some(Arc::new(from))))
            }
            Opening::Request(_) | Opening::Upgrade(_) => {
                return self.serve(settings, from, client, &[]).await;
            }
            Opening::Refused(refusal) => {
                self.mark(descriptor(&client)).busy();
                return self.refuse(&mut client, refusal).await;
            }
            Opening::Partial => return,
        };
        let host = tokio::select! {
            biased;
            () = self.passes_on() => return self.pass_kept(from, client, &[]),
            host = self.locate(&session, true) => host,
        };
        if host.is_some() {
            return self.serve(settings, from, client, &[]).await;
        }
        let begun = (session, affinity, speaks);
        let given = handoff::hand_over(self, from.listener, client, begun, refused).await;
        given.unwrap_or_else(|client| self.pass_kept(from, client, &[]));
    }

    /// Serves a connection that is not encrypted; `ahead` has been read of it, or a request is there.
    async fn serve(
        self: &Arc<Self>,
        settings: &Settings,
        from: Origin,
        client: Client,
        ahead: &[u8],
    ) {
        let limits = &settings.limits;
        let mark = self.mark(descriptor(&client));
        mark.busy();
        let mark = if_it_may_rest(settings, mark);
        let ends = Ends::of(&client, from.peer);
        let last_word = Arc::default();
        let client = FromClient::new(client, Arc::clone(&last_word));
        let client = Impatient::new(client, limits.send_timeout);
        let is_due = ahead.is_empty();
        let plain = plain::carry(self, from, &ends, client, mark, ahead.to_vec(), is_due);
        match plain.await {
            plain::Left::Ended => {}
            plain::Left::PassedOn(client, ahead) => {
                self.pass_kept(from, client.into_inner().into_inner(), &ahead);
            }
            // Boxed: other connections need no room for it.
            plain::Left::Other(plain::Other { client, ahead, is_due, tried }) => {
                let standing = Standing { last_word: Some(last_word), mark, is_due, tried };
                let client = Ahead::of(&ahead, client);
                Box::pin(serve::serve(self.clone(), from, client, ends, limits, standing)).await;
            }
        }
    }

    /// Refuses a connection for how its first head is.
    async fn refuse(&self, client: &mut (impl AsyncRead + AsyncWrite + Unpin), refusal: Refusal) {
        self.counts.refused.count(refusal.into());
        refuse(client, refusal.status()).await;
    }

    /// Where a connection came from that a worker has accepted itself.
    pub(super) fn origin_of(&self, client: &Client) -> Origin {
        let (address, local) = match client {
            Either::Left(stream) => (stream.peer_addr().ok(), stream.local_addr().ok()),
            Either::Right(_) => (None, None),
        };
        let at = |place: &Place| match (local, place.addr) {
            (Some(local), Some(addr)) => local.port() == addr.port(),
            (None, None) => true,
            _ => false,
        };
        let listener = ListenerId(self.places.iter().position(at).unwrap_or_default());
        Origin { listener, peer: self.peer(address) }
    }

    /// Whether requests go to their worker with their connection. Where @socket.io/sticky takes
    /// connections they don't: its sessions have to be told apart request by request.
    pub(super) fn hands_over_requests(&self, route: &Route) -> bool {
        route.deliver != Deliver::Auto && !self.workers.borrow().iter().any(|u| u.is_sticky())
    }

    /// Who the client is, when a proxy has said it where it has to. `None`: it has not.
    async fn introduced(&self, settings: &Settings, client: &Client, proxy: Peer) -> Option<Peer> {
        static SAID: Once = Once::new();
        if !settings.route.proxy_protocol || !proxy.trusted {
            return Some(proxy);
        }
        match self
            .in_time(
                settings.limits.head_timeout,
                proxy_protocol::take(client, self.mark(descriptor(client))),
            )
            .await
        {
            Ok(Ok(address @ Some(_))) => Some(self.peer(address)),
            Ok(Ok(None)) => Some(proxy),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Other => {
                self.counts.refused.count(Refused::ProxyHeader);
                SAID.call_once(|| {
                    tracing::warn!(proxy = ?proxy.address, "a connection of a trusted proxy was \
                        closed: it has no PROXY header, and [route] proxy_protocol is on (said \
                        once)");
                });
                None
            }
            Ok(Err(_)) | Err(_) => None, // it went away
        }
    }

    /// Waits for something, unless connections are passed on before.
    async fn unless_passed_on<T>(&self, something: impl Future<Output = T>) -> Option<T> {
        if self.turns.is_cancelled() && !self.stop.is_cancelled() {
            return None;
        }
        tokio::select! {
            biased;
            something = something => Some(something),
            () = self.passes_on() => None,
        }
    }

    /// Waits for what a client has to say first, but not for ever.
    pub(super) async fn in_time<T>(
        &self,
        limit: Duration,
        said: impl Future<Output = io::Result<T>>,
    ) -> Result<io::Result<T>, Elapsed> {
        tokio::select! {
            biased; // what is there already takes no timer
            said = tokio::time::timeout(limit, said) => said,
            () = self.last_call() => Ok(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

/// Goes as far as that takes no waiting. Like a task of its own, it ends alone if it panics.
async fn begin(mut connection: Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
    std::future::poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll(context)));
        Poll::Ready(polled.unwrap_or(Poll::Ready(())))
    })
    .await
}

/// How a connection is marked that rests, if it may: what a proxy has said of it first is known to this
/// process only.
fn if_it_may_rest(settings: &Settings, mark: Mark) -> Mark {
    if settings.route.proxy_protocol { Mark::default() } else { mark }
}

/// Whose connections are counted together with this one. A proxy has many clients.
pub(super) fn one_client(peer: Peer) -> Option<IpAddr> {
    peer.address.filter(|_| !peer.trusted).map(|address| address.ip())
}

/// Errors of one connection that was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Says why, and reads on for a moment: closing on unread bytes would take the answer back.
pub(super) async fn refuse(client: &mut (impl AsyncRead + AsyncWrite + Unpin), status: &str) {
    refuse_saying(client, status, "").await;
}

async fn refuse_saying(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    status: &str,
    text: &str,
) {
    let kind = if text.is_empty() { "" } else { "Content-Type: text/plain; charset=utf-8\r\n" };
    let answer = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n{text}",
        text.len()
    );
    let said = async {
        client.write_all(answer.as_bytes()).await?;
        client.shutdown().await?;
        let mut ignored = vec![0; 16 << 10];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match client.read(&mut ignored).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        Ok::<_, io::Error>(())
    };
    let _ = tokio::time::timeout(LINGER, said).await;
}
