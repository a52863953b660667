//! Connections that are encrypted can't be passed on: they end, and lose nothing.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::app::{App, LIMIT, filling, succeed, until};
use super::talk::{Talk, get};

fn make_certificate(folder: &TempDir) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder.path())
        .output()
        .expect("openssl starts");
    assert!(made.status.success(), "{made:?}");
}

async fn talk(place: SocketAddr, folder: &TempDir) -> Talk<TlsStream<TcpStream>> {
    let mut trusted = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(folder.path().join("cert.pem"));
    trusted.add(certificate.expect("a certificate")).expect("trusted");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let stream = TcpStream::connect(place).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Talk::over(stream.expect("hands are shaken"))
}

#[tokio::test]
async fn an_encrypted_connection_ends_behind_its_answer() {
    let app = App::start();
    let folder = TempDir::new().expect("a temporary folder");
    make_certificate(&folder);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let lines = format!("kind = 'socket'\n[tls]\ncertificate = '{cert}'\nkey = '{key}'");
    let (first, place) = app.open_with(&lines, false);
    let (mut idle, mut waits) = (talk(place, &folder).await, talk(place, &folder).await);
    let (mut reads, mut shaken) = (talk(place, &folder).await, talk(place, &folder).await);
    idle.send(get("/fill/1/100")).await;
    assert_eq!(idle.hear().await, filling(1, 100));
    waits.send(get("/wait/2")).await;
    reads.send(get("/hold/3/1000")).await;
    until("both are under way", || first.worker.in_flight() == 2).await;
    until("one has begun", || first.worker.requests() == 2).await;
    let second = app.front(&first.front.places[0], &lines, false);
    succeed(&first, &second).await;
    assert!(idle.rest().await.is_empty());
    // It has not asked yet, and its first request is answered in any case.
    shaken.send(get("/fill/4/100")).await;
    app.work.release.notify_waiters();
    let answers = [waits.rest().await, reads.rest().await, shaken.rest().await];
    let says_so = answers.each_ref().map(|answer| {
        String::from_utf8_lossy(answer).to_ascii_lowercase().contains("connection: close")
    });
    assert_eq!(says_so, [true, false, true]);
    assert!(answers[1].ends_with(&filling(3, 1000)) && answers[2].ends_with(&filling(4, 100)));
    tokio::time::timeout(LIMIT, first.front.passed_on()).await.expect("passed on in time");
    assert_eq!((first.worker.requests(), second.worker.requests()), (4, 0));
    let mut next = talk(place, &folder).await;
    next.send(get("/fill/5/100")).await;
    assert_eq!(next.hear().await, filling(5, 100));
}
