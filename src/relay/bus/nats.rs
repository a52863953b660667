//! NATS: core publish and subscribe, no JetStream.
//!
//! One client is one connection. async-nats would connect again by itself, and hold what it has not
//! sent until then; here a connection that fails is given up whole, and what it has not sent stays
//! in our queue. So its second greeting is answered with an error, which makes it end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use async_nats::{
    Auth, AuthError, Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError,
    Subscriber,
};
use bytes::Bytes;
use futures_core::Stream;
use nkeys::KeyPair;
use tokio_util::sync::CancellationToken;

use super::broker::{Broker, BusError, of_tls, words};
use super::link::{ATTEMPT, Settings};
use super::queue::{PART, To};
use super::secret::{Secret, SecretError};
use super::url::Server;
use super::wire::HEADER;
use super::{Prefix, tls};
use crate::sync::lock;

/// Frames that async-nats holds for us. It reads on when they are too many, and drops them; but we
/// take all of them before it can read again more than a task may at once, which is less than this.
const UNREAD: usize = 1 << 17;

/// Frames that we give to it at once, and a flush.
const UNSENT: usize = 1024;

/// Without an answer to three of its own pings it gives the connection up: so it ends soon, too, when
/// we have given it up and it waits for room to write.
const PING: Duration = Duration::from_secs(1);

pub(super) struct Nats;

pub(super) struct Out {
    client: Client,
    prefix: Prefix,
    server: Server,
}

pub(super) struct In {
    all: Subscriber,
    own: Subscriber,
    told: Arc<Told>,
    server: Server,
    names: String,
}

/// What async-nats has said of the connection.
#[derive(Default)]
struct Told {
    ended: CancellationToken,
    said: Mutex<Option<ServerError>>,
}

impl Broker for Nats {
    type Out = Out;
    type In = In;

    async fn open(server: &Server, settings: &Settings) -> Result<(Out, In), BusError> {
        let told = Arc::new(Told::default());
        let address = address(server)?;
        let client = options(settings, told.clone())?
            .connect(address)
            .await
            .map_err(|error| why(&error, server, settings.secret.is_some()))?;
        let takes = client.server_info().max_payload;
        let needs = PART + HEADER;
        if takes < needs {
            return Err(BusError::Small { server: server.clone(), takes, needs });
        }
        let Settings { prefix, own, .. } = settings;
        let lost = |error| lost(server, &error);
        let all = client.subscribe(prefix.all()).await.map_err(lost)?;
        let own = client.subscribe(prefix.host(*own)).await.map_err(lost)?;
        let input = In { all, own, told, server: server.clone(), names: format!("{prefix}.>") };
        Ok((Out { client, prefix: prefix.clone(), server: server.clone() }, input))
    }

    async fn put(out: &mut Out, frames: Vec<(To, Bytes)>) -> Result<(), BusError> {
        for (to, frame) in frames {
            let subject = match to {
                To::All => out.prefix.all(),
                To::Host(host) => out.prefix.host(host),
            };
            out.client.publish(subject, frame).await.map_err(|e| lost(&out.server, &e))?;
        }
        out.client.flush().await.map_err(|e| lost(&out.server, &e))
    }

    /// What is for all comes before what is for us alone if both are there.
    async fn next(input: &mut In) -> Result<(bool, Bytes), BusError> {
        let message = poll_fn(|cx| {
            for (direct, from) in [(false, &mut input.all), (true, &mut input.own)] {
                if let Poll::Ready(message) = Pin::new(from).poll_next(cx) {
                    return Poll::Ready(message.map(|message| (direct, message.payload)));
                }
            }
            Poll::Pending
        });
        let message = tokio::select! {
            biased;
            () = input.told.ended.cancelled() => None,
            message = message => message,
        };
        message.ok_or_else(|| input.ended())
    }
}

impl In {
    fn ended(&self) -> BusError {
        let server = self.server.clone();
        let why = lock(&self.told.said).as_ref().map(ServerError::to_string);
        match why {
            Some(why) if is_about_rights(&why) => {
                BusError::Forbidden { server, why, names: self.names.clone() }
            }
            why => {
                BusError::Lost { server, why: why.unwrap_or_else(|| "it was closed".to_owned()) }
            }
        }
    }
}

impl Told {
    fn hear(&self, event: Event) {
        match event {
            Event::ServerError(error) => {
                let is_over = is_about_rights(&error.to_string());
                *lock(&self.said) = Some(error);
                if is_over {
                    self.ended.cancel();
                }
            }
            Event::Disconnected | Event::Closed => self.ended.cancel(),
            _ => {}
        }
    }
}

fn is_about_rights(said: &str) -> bool {
    said.to_ascii_lowercase().contains("permissions violation")
}

fn address(server: &Server) -> Result<ServerAddr, BusError> {
    let unreachable =
        |e: std::io::Error| BusError::Unreachable { server: server.clone(), why: e.to_string() };
    format!("nats://{server}").parse().map_err(unreachable)
}

fn options(settings: &Settings, told: Arc<Told>) -> Result<ConnectOptions, BusError> {
    let secret = settings.secret.clone();
    let was_asked = AtomicBool::new(false);
    let auth = move |nonce: Vec<u8>| {
        let auth = match was_asked.swap(true, Ordering::Relaxed) {
            false => show(secret.as_ref(), &nonce).map_err(AuthError::new),
            true => Err(AuthError::new("there is another connection")),
        };
        async move { auth }
    };
    let options = ConnectOptions::with_auth_callback(auth)
        .name("cohortd")
        .connection_timeout(ATTEMPT)
        .reconnect_delay_callback(|_| Duration::ZERO)
        .max_reconnects(1)
        .ignore_discovered_servers()
        .retain_servers_order()
        .ping_interval(PING)
        .client_capacity(UNSENT)
        .subscription_capacity(UNREAD)
        .require_tls(settings.url.tls)
        .event_callback(move |event| {
            told.hear(event);
            async {}
        });
    let has_tls = settings.url.tls || settings.ca.is_some() || settings.client.is_some();
    Ok(if has_tls { options.tls_client_config(tls::client(settings)?) } else { options })
}

/// What answers the server's greeting.
pub(super) fn show(secret: Option<&Secret>, nonce: &[u8]) -> Result<Auth, SecretError> {
    let mut auth = Auth::new();
    let sign = |seed: &str| {
        let pair = KeyPair::from_seed(seed).map_err(|_| SecretError::Seed)?;
        let signature = pair.sign(nonce).map_err(|_| SecretError::Seed)?;
        Ok::<_, SecretError>((pair.public_key(), signature))
    };
    match secret {
        None => {}
        Some(Secret::Login { user, password }) => {
            auth.username = Some(user.clone());
            auth.password = Some(password.clone());
        }
        Some(Secret::Token(token)) => auth.token = Some(token.clone()),
        Some(Secret::Seed(seed)) => {
            let (key, signature) = sign(seed)?;
            auth.nkey = Some(key);
            auth.signature = Some(signature);
        }
        Some(Secret::Creds { jwt, seed }) => {
            auth.signature = Some(sign(seed)?.1);
            auth.jwt = Some(jwt.clone());
        }
    }
    Ok(auth)
}

fn why(error: &async_nats::ConnectError, server: &Server, with_secret: bool) -> BusError {
    let server = server.clone();
    if let Some(why) = of_tls(error) {
        return BusError::Tls { server, why };
    }
    let why = words(error);
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            BusError::Refused { server, why, with_secret }
        }
        ConnectErrorKind::TimedOut => BusError::Late { server, limit: ATTEMPT },
        ConnectErrorKind::Tls => BusError::Tls { server, why },
        _ => BusError::Unreachable { server, why },
    }
}

fn lost(server: &Server, error: &(dyn std::error::Error + 'static)) -> BusError {
    BusError::Lost { server: server.clone(), why: words(error) }
}
