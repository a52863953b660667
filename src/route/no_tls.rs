//! What stands for TLS in a build without it: `[tls]` is refused, and there is nothing else to do.

use std::io;
use std::time::Duration;

use tokio_util::either::Either;

use crate::config::{Config, ConfigError};
use crate::listen::{Client, Place};

/// There is none.
#[derive(Debug, Clone)]
pub enum Tls {}

impl Tls {
    /// Refuses `[tls]`.
    ///
    /// # Errors
    /// There is such a table.
    pub fn load(config: &Config) -> Result<Option<Tls>, ConfigError> {
        match &config.tls {
            Some(tls) => Err(config.bad_pem(
                &tls.certificate,
                "this cohortd is built without TLS: build it with `cargo build --release --features \
                 tls`, or let a proxy in front of it speak TLS",
            )),
            None => Ok(None),
        }
    }

    /// As [`Tls::load`].
    ///
    /// # Errors
    /// There is such a table.
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        Tls::load(config).map(drop)
    }

    pub(super) fn is_spoken_at(&self, _: &Place) -> bool {
        match *self {}
    }

    pub(super) async fn accept(
        &self,
        _: Client,
        _: Duration,
    ) -> io::Result<Either<Client, Client>> {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_tls_says_so() {
        let text = "exec = ['node']\nlisten = ['8443']\n[tls]\ncertificate = 'a'\nkey = 'b'\n";
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let file = folder.path().join("shop.toml");
        std::fs::write(&file, text).expect("written");
        let config = Config::load(&file).expect("right in another build");
        let said = Tls::load(&config).expect_err("there is no TLS").to_string();
        assert!(said.contains("shop.toml:4:15: this cohortd is built without TLS"), "{said}");
        assert!(Tls::check(&config).is_err());
    }
}
