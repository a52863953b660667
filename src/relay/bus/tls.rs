//! TLS towards the bus: whom we trust, and who we are.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::broker::BusError;
use super::link::Settings;

/// What the settings say of TLS, ready for use. Without a CA of its own the bus has one that the
/// system trusts.
///
/// # Errors
/// A certificate or key can't be used.
pub(super) fn client(settings: &Settings) -> Result<ClientConfig, BusError> {
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        Some(pem) => {
            for certificate in certificates("the CA's certificate", pem)? {
                roots.add(certificate).map_err(|e| bad("the CA's certificate", e))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("TLS", e))?
        .with_root_certificates(roots);
    let Some((chain, key)) = &settings.client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates("the client certificate", chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| bad("the client's key", e))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| bad("the client certificate", e))
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BusError> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if chain.is_empty() => Err(bad(what, "there is none in it, in PEM")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(bad(what, error)),
    }
}

fn bad(what: &'static str, why: impl ToString) -> BusError {
    BusError::Pem { what, why: why.to_string() }
}
