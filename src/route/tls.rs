//! TLS on clients' connections: the certificate and its key, read and checked whole, and the
//! handshake.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::half_close::FromClient;
use super::head;
use super::peek::peek;
use super::stall::Impatient;
use crate::config::{Config, ConfigError, Listen, Pem, Tls as Settings};
use crate::listen::{Client, Place};

/// What is spoken inside (RFC 7301): a client that asks only for HTTP/2 is told so in the handshake.
const ALPN: &[u8] = b"http/1.1";

/// A certificate that is in force, and where.
#[derive(Debug, Clone)]
pub struct Tls {
    server: Arc<ServerConfig>,
    listen: Option<Vec<Listen>>,
}

impl Tls {
    /// Reads what `[tls]` names, if there is one.
    ///
    /// # Errors
    /// A file can't be read, or is not what it should be.
    pub fn load(config: &Config) -> Result<Option<Tls>, ConfigError> {
        let Some(tls) = &config.tls else { return Ok(None) };
        let Settings { certificate, key, listen } = tls;
        let chain = read(config, certificate, |bytes| {
            CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().and_then(|chain| {
                if chain.is_empty() { Err(PemError::NoItemsFound) } else { Ok(chain) }
            })
        })?;
        let secret = read(config, key, PrivateKeyDer::from_pem_slice)?;
        match server(chain, secret) {
            Ok(server) => Ok(Some(Tls { server: Arc::new(server), listen: listen.clone() })),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(config.bad_pem(key, format!("this is not the key of {certificate}")))
            }
            Err(Error::InvalidCertificate(error)) => Err(config
                .bad_pem(certificate, format!("the certificate in it can't be used: {error}"))),
            Err(error) => Err(config.bad_pem(key, error.to_string())),
        }
    }

    /// Finds out what can be found out by another process than the service: credentials are for
    /// that alone.
    ///
    /// # Errors
    /// As of [`Tls::load`].
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        let pems = config.tls.iter().flat_map(|tls| [&tls.certificate, &tls.key]);
        if pems.filter_map(Pem::credential).next().is_some() {
            return Ok(());
        }
        Tls::load(config).map(drop)
    }

    /// Whether connections to this place are encrypted. Sockets of one port are so all or none,
    /// also those that an admin has put in the place of others.
    pub(super) fn is_spoken_at(&self, place: &Place) -> bool {
        let port = place.addr.map(|addr| addr.port());
        match &self.listen {
            None => port.is_some(),
            Some(entries) => entries.iter().any(|on| match on {
                Listen::Path(path) => place.path.as_ref() == Some(path),
                Listen::Port(_) | Listen::Addr(_) => port == on.port(),
            }),
        }
    }

    /// Shakes hands with a client; gives it back (right) if it speaks something else, of which
    /// nothing has been read then.
    ///
    /// # Errors
    /// The two don't agree, or it goes away.
    pub(super) async fn accept(
        &self,
        client: Client,
        send_timeout: Duration,
    ) -> io::Result<Either<TlsStream<Impatient<FromClient>>, Client>> {
        if !peek(&client, 1, |bytes| Some(head::begins_tls(bytes))).await? {
            return Ok(Either::Right(client));
        }
        // Nobody asks for its last word, which comes encrypted.
        let client = Impatient::new(FromClient::new(client, Arc::default()), send_timeout);
        TlsAcceptor::from(self.server.clone()).accept(client).await.map(Either::Left)
    }
}

fn read<T>(
    config: &Config,
    pem: &Pem,
    parse: impl Fn(&[u8]) -> Result<T, PemError>,
) -> Result<T, ConfigError> {
    let bad = |message: String| config.bad_pem(pem, message);
    let path = pem.path(&config.directory).map_err(bad)?;
    let bytes = std::fs::read(&path)
        .map_err(|error| bad(format!("{} can't be read: {error}", path.display())))?;
    parse(&bytes).map_err(|error| bad(what_is_wrong(&path, &error)))
}

fn what_is_wrong(path: &Path, error: &PemError) -> String {
    match error {
        PemError::NoItemsFound => format!(
            "{} has none in PEM (\"-----BEGIN …\"); a key must not be protected by a password",
            path.display()
        ),
        error => format!("{} is no PEM file: {error}", path.display()),
    }
}

fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Error> {
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    // A client that comes back need not be remembered here.
    server.ticketer = ring::Ticketer::new()?;
    Ok(server)
}
