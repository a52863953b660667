//! Redis: PUBLISH and SUBSCRIBE on one connection, which RESP3 allows (Redis 6, Valkey).

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError, ServerErrorKind,
    TlsCertificates, Value,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::broker::{Broker, BusError, of_tls, words};
use super::link::Settings;
use super::queue::To;
use super::secret::{Secret, SecretError};
use super::url::Server;
use super::{Prefix, tls};

pub(super) struct Redis;

pub(super) struct Out {
    connection: MultiplexedConnection,
    prefix: Prefix,
    server: Server,
}

pub(super) struct In {
    /// Not bounded, because the client can't wait: we take all before it can read more than a task
    /// may at once.
    frames: UnboundedReceiver<(bool, Bytes)>,
    server: Server,
}

impl Broker for Redis {
    type Out = Out;
    type In = In;

    async fn open(server: &Server, settings: &Settings) -> Result<(Out, In), BusError> {
        let Settings { prefix, own, .. } = settings;
        let failed = |error| why(&error, server, settings);
        let client = client(server, settings)?;
        let (all, own) = (prefix.all(), prefix.host(*own));
        let (sender, frames) = unbounded_channel();
        let channel = own.clone();
        let push = move |info: PushInfo| match read(info, &channel) {
            Some(frame) => sender.send(frame),
            None => Ok(()),
        };
        // How long anything may take is the link's matter.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(push);
        let mut connection =
            client.get_multiplexed_async_connection_with_config(&config).await.map_err(failed)?;
        connection.subscribe(&[all, own]).await.map_err(failed)?;
        let input = In { frames, server: server.clone() };
        Ok((Out { connection, prefix: prefix.clone(), server: server.clone() }, input))
    }

    async fn put(out: &mut Out, frames: Vec<(To, Bytes)>) -> Result<(), BusError> {
        let mut pipe = redis::pipe();
        for (to, frame) in &frames {
            let channel = match to {
                To::All => out.prefix.all(),
                To::Host(host) => out.prefix.host(*host),
            };
            pipe.cmd("PUBLISH").arg(channel).arg(&frame[..]).ignore();
        }
        drop(frames);
        pipe.exec_async(&mut out.connection).await.map_err(|error| {
            let (server, why) = (out.server.clone(), words(&error));
            if is_about_rights(&error) {
                BusError::Forbidden { server, why, names: names(&out.prefix) }
            } else {
                BusError::Lost { server, why }
            }
        })
    }

    async fn next(input: &mut In) -> Result<(bool, Bytes), BusError> {
        input.frames.recv().await.ok_or_else(|| BusError::Lost {
            server: input.server.clone(),
            why: "it was closed".to_owned(),
        })
    }
}

/// A frame, and whether it came to our own channel.
fn read(info: PushInfo, own: &str) -> Option<(bool, Bytes)> {
    if info.kind != PushKind::Message {
        return None;
    }
    let mut data = info.data.into_iter();
    match (data.next()?, data.next()?) {
        (Value::BulkString(channel), Value::BulkString(frame)) => {
            Some((channel == own.as_bytes(), frame.into()))
        }
        _ => None,
    }
}

pub(super) fn client(server: &Server, settings: &Settings) -> Result<Client, BusError> {
    let mut us = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(settings.url.database.into());
    match &settings.secret {
        None => {}
        Some(Secret::Login { user, password }) => {
            us = us.set_password(password);
            if !user.is_empty() {
                us = us.set_username(user);
            }
        }
        Some(Secret::Token(password)) => us = us.set_password(password),
        Some(Secret::Seed(_) | Secret::Creds { .. }) => return Err(SecretError::OfNats.into()),
    }
    let (host, port) = (server.host.clone(), server.port);
    let address = if settings.url.tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let info = address
        .into_connection_info()
        .map_err(|error| why(&error, server, settings))?
        .set_redis_settings(us)
        .set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
    let client = if settings.url.tls {
        // The crate passes over what it can't read in them.
        if settings.ca.is_some() || settings.client.is_some() {
            tls::client(settings)?;
        }
        let client_tls = settings.client.as_ref().map(|(certificate, key)| ClientTlsConfig {
            client_cert: certificate.clone(),
            client_key: key.clone(),
        });
        Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: settings.ca.clone() })
    } else {
        Client::open(info)
    };
    client.map_err(|error| why(&error, server, settings))
}

fn names(prefix: &Prefix) -> String {
    format!("{prefix}.*")
}

fn is_about_rights(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

fn why(error: &RedisError, server: &Server, settings: &Settings) -> BusError {
    let server = server.clone();
    if let Some(why) = of_tls(error) {
        return BusError::Tls { server, why };
    }
    let why = words(error);
    match error.kind() {
        _ if is_about_rights(error) => {
            BusError::Forbidden { server, why, names: names(&settings.prefix) }
        }
        _ if error.kind() == ErrorKind::AuthenticationFailed
            || ["NOAUTH", "WRONGPASS"].contains(&error.code().unwrap_or_default()) =>
        {
            BusError::Refused { server, why, with_secret: settings.secret.is_some() }
        }
        _ => BusError::Unreachable { server, why },
    }
}
