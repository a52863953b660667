//! Who a host is to another: by a key that it has made for itself and that was announced on the bus.
//!
//! There are no certificates: both ends show a raw public key (RFC 7250) and prove by TLS 1.3 that they
//! have the other half of it. It is made anew at each start, and never leaves the process.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::{collections::HashSet, fmt::Write as _};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use tokio_rustls::rustls::server::AlwaysResolvesServerRawPublicKeys;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::sync::lock;

/// What stands before the 32 bytes of an Ed25519 key (RFC 8410, section 7).
const PKCS8: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// A public key, as it goes over the wire.
type Key = Vec<u8>;

/// This host's key, and whom it lets in.
#[derive(Debug)]
pub(super) struct Identity {
    own: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
    trusted: Arc<Trusted>,
}

/// How to speak to one host, and to no other.
#[derive(Clone)]
pub(super) struct Towards(TlsConnector);

impl std::fmt::Debug for Towards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Towards")
    }
}

/// Keys of those who may come in, or of the only one who may answer.
#[derive(Debug)]
struct Trusted {
    keys: Mutex<HashSet<Key>>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// Makes a new key.
    ///
    /// # Errors
    /// There is no randomness to be had.
    pub(super) fn new() -> io::Result<Identity> {
        let provider = Arc::new(ring::default_provider());
        let mut key = PKCS8.to_vec();
        key.resize(PKCS8.len() + 32, 0);
        let random = provider.secure_random.fill(&mut key[PKCS8.len()..]);
        random.map_err(|_| io::Error::other("no randomness"))?;
        let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(key));
        let key = key.map_err(io::Error::other)?;
        let public = key.public_key().ok_or(io::ErrorKind::Unsupported)?.to_vec();
        let own = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key));
        let trusted = Arc::new(Trusted::new(provider.clone(), []));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(trusted.clone())
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own.clone())));
        // Each connection shows its key.
        server.send_tls13_tickets = 0;
        Ok(Identity { own, server: Arc::new(server), trusted })
    }

    /// The public key, as it is announced.
    pub(super) fn key(&self) -> String {
        let bytes = self.own.cert.first().map_or(&[][..], |key| key.as_ref());
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}"); // a string takes all
            text
        })
    }

    /// These may come in from now on, and no others.
    pub(super) fn trust<'k>(&self, keys: impl Iterator<Item = &'k str>) {
        *lock(&self.trusted.keys) = keys.filter_map(bytes_of).collect();
    }

    /// How to speak to a host with this key.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn towards(&self, key: &str) -> io::Result<Towards> {
        let key = bytes_of(key).ok_or(io::ErrorKind::InvalidInput)?;
        let provider = self.trusted.provider.clone();
        let resolver = AlwaysResolvesClientRawPublicKeys::new(self.own.clone());
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusted::new(provider, [key])))
            .with_client_cert_resolver(Arc::new(resolver));
        client.resumption = Resumption::disabled();
        Ok(Towards(TlsConnector::from(Arc::new(client))))
    }

    /// Shakes hands with a host that has come.
    ///
    /// # Errors
    /// It is none of those, or goes away.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<server::TlsStream<S>> {
        TlsAcceptor::from(self.server.clone()).accept(stream).await
    }
}

impl Towards {
    /// Shakes hands with it.
    ///
    /// # Errors
    /// It is another, does not know us, or goes away.
    pub(super) async fn connect(
        &self,
        at: SocketAddr,
        stream: TcpStream,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        self.0.connect(ServerName::IpAddress(at.ip().into()), stream).await
    }
}

impl Trusted {
    fn new(provider: Arc<CryptoProvider>, keys: impl IntoIterator<Item = Key>) -> Trusted {
        Trusted { keys: Mutex::new(keys.into_iter().collect()), provider }
    }

    fn is_one(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        match lock(&self.keys).contains(key.as_ref()) {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn has_signed(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
    }
}

impl ClientCertVerifier for Trusted {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.is_one(key).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.has_signed(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.is_one(key).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.has_signed(message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn bytes_of(key: &str) -> Option<Key> {
    let digits = key.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What a server hears of a client, or why they don't come together.
    async fn heard(server: &Identity, client: &Identity, expected: &str) -> io::Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        let says = async {
            let stream = TcpStream::connect(at).await?;
            let mut stream = client.towards(expected)?.connect(at, stream).await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await
        };
        let hears = async {
            let (stream, _) = listener.accept().await?;
            let mut stream = server.accept(stream).await?;
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await?;
            Ok::<_, io::Error>(heard)
        };
        let (said, heard) = tokio::join!(says, hears);
        said.and(heard)
    }

    #[tokio::test]
    async fn both_ends_have_to_be_who_was_announced() {
        let [server, client, other] = [(); 3].map(|()| Identity::new().expect("a key"));
        assert_ne!(server.key(), other.key());
        let key = server.key();
        heard(&server, &client, &key).await.expect_err("nobody is known yet");
        server.trust([client.key().as_str(), "no key"].into_iter());
        assert_eq!(heard(&server, &client, &key).await.expect("known"), b"hello");
        heard(&server, &other, &key).await.expect_err("a stranger");
        heard(&server, &client, &other.key()).await.expect_err("another server than was announced");
        server.trust([other.key().as_str()].into_iter());
        heard(&server, &client, &key).await.expect_err("not any more");
        assert!(client.towards("nonsense").is_err());
    }
}
