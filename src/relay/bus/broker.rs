//! What a bus is asked to do, whichever it is, and why it may not work.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;

use super::link::Settings;
use super::queue::To;
use super::secret::SecretError;
use super::url::Server;

/// An engine that carries frames.
pub(super) trait Broker {
    /// Where frames are given to it. A connection ends when both of its ends are dropped.
    type Out: Send;
    /// Where it gives frames.
    type In: Send;

    /// Connects, is let in, and listens to what is for all hosts and for this one.
    async fn open(server: &Server, settings: &Settings) -> Result<(Self::Out, Self::In), BusError>;

    /// Gives frames to it in their order, and waits until it has room for more.
    async fn put(out: &mut Self::Out, frames: Vec<(To, Bytes)>) -> Result<(), BusError>;

    /// The next frame, and whether it was for this host alone. May be dropped while it waits.
    async fn next(input: &mut Self::In) -> Result<(bool, Bytes), BusError>;
}

/// Why the bus can't be used. What is said of it goes into logs: no secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nothing has been tried yet.
    #[error("not connected yet")]
    NotYet,
    /// We have closed it.
    #[error("closed")]
    Closed,
    /// There is no connection.
    #[error("no connection to {server}: {why}")]
    Unreachable {
        /// Where.
        server: Server,
        /// The system's or the server's words.
        why: String,
    },
    /// It took too long.
    #[error("no answer from {server} within {limit:?}")]
    Late {
        /// Where.
        server: Server,
        /// How long was waited.
        limit: Duration,
    },
    /// We are not let in.
    #[error("{server} does not let us in: {why}; {}", if *.with_secret {
        "check the bus' credential: user, password or key"
    } else {
        "it wants a credential, and none is configured for the bus"
    })]
    Refused {
        /// Where.
        server: Server,
        /// The server's words.
        why: String,
        /// Something was shown.
        with_secret: bool,
    },
    /// We are let in, but may not do it.
    #[error(
        "{server} forbids it: {why}; give that user the right to publish and subscribe to {names}"
    )]
    Forbidden {
        /// Where.
        server: Server,
        /// The server's words.
        why: String,
        /// What rights are needed for.
        names: String,
    },
    /// It can't be encrypted.
    #[error("TLS with {server} fails: {why}{}", hint(why))]
    Tls {
        /// Where.
        server: Server,
        /// What rustls says.
        why: String,
    },
    /// A certificate or key can't be used.
    #[error("{what} of the bus can't be used: {why}")]
    Pem {
        /// Which.
        what: &'static str,
        /// What rustls says.
        why: String,
    },
    /// What is shown can't be.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It takes only small messages.
    #[error(
        "{server} takes messages of {takes} bytes at most, {needs} are needed: raise its max_payload"
    )]
    Small {
        /// Where.
        server: Server,
        /// Its limit.
        takes: usize,
        /// Ours.
        needs: usize,
    },
    /// What we say does not come back.
    #[error("{server} is silent: nothing that was said there came back within {limit:?}")]
    Silent {
        /// Where.
        server: Server,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection has ended.
    #[error("the connection to {server} has ended: {why}")]
    Lost {
        /// Where.
        server: Server,
        /// The system's or the server's words.
        why: String,
    },
}

/// What to do about a certificate that is not accepted.
fn hint(why: &str) -> &'static str {
    let is = |word: &str| why.contains(word);
    if ["CertificateRequired", "BadCertificate", "UnknownCA"].into_iter().any(is) {
        "; it wants a client certificate that it trusts"
    } else if is("not valid for name") {
        "; name the server as its certificate does"
    } else if is("invalid peer certificate") && !is("expired") && !is("not valid yet") {
        "; name the certificate of the authority that has signed the server's"
    } else {
        ""
    }
}

/// The words of an error and of what it comes from, without repetitions.
pub(super) fn words(error: &(dyn Error + 'static)) -> String {
    let mut all = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let words = error.to_string();
        if !all.contains(&words) {
            all = format!("{all}: {words}");
        }
        source = error.source();
    }
    all
}

/// What rustls has said, if it comes from there.
#[cfg(any(feature = "nats", feature = "redis"))]
pub(super) fn of_tls(error: &(dyn Error + 'static)) -> Option<String> {
    use std::{io, sync::Arc};
    use tokio_rustls::rustls;
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(error.to_string());
        }
        // The source of these two is that of the error inside.
        let of_io = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        at = match (of_io, error.downcast_ref::<Arc<dyn Error + Send + Sync>>()) {
            (Some(inner), _) => Some(inner),
            (_, Some(inner)) => Some(inner.as_ref()),
            (None, None) => error.source(),
        };
    }
    None
}
