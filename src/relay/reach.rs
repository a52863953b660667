//! What is needed to reach other hosts, read and checked whole before anything is started.

use std::ops::RangeInclusive;

use super::bus::wire::HostId;
use super::bus::{Secret, Settings};
use crate::config::{Bus, Config, ConfigError, Pem};

/// Worker ids of a host begin at its number times this. Node keeps 31 bits of them.
const IDS: u64 = 1 << 16;

/// How this host is called among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// For people.
    pub name: String,
    /// From 1 to 32,767: ids of workers are made from it.
    pub number: u16,
}

impl Name {
    /// The largest number.
    pub const MOST: u16 = 32_767;

    /// The ids of this host's workers.
    pub fn ids(&self) -> RangeInclusive<u64> {
        let first = u64::from(self.number) * IDS;
        first + 1..=first + IDS - 1
    }
}

/// The way to other hosts.
#[derive(Debug)]
pub struct Reach {
    /// How this one is called there.
    pub name: Name,
    pub(super) settings: Settings,
    pub(super) url: String,
    pub(super) channel: String,
}

impl Reach {
    /// Reads what `[relay]` names, if there is a bus.
    ///
    /// # Errors
    /// A file can't be read, or is not what it should be.
    pub fn load(config: &Config) -> Result<Option<Reach>, ConfigError> {
        let Some(bus) = &config.bus else { return Ok(None) };
        let read = |pem: &Pem| {
            let bad = |message: String| config.bad_pem(pem, message);
            let path = pem.path(&config.directory).map_err(bad)?;
            std::fs::read(&path)
                .map_err(|error| bad(format!("{} can't be read: {error}", path.display())))
        };
        let secret = |pem: &Pem| {
            Secret::parse(&read(pem)?).map_err(|error| config.bad_pem(pem, error.to_string()))
        };
        let identity = |(certificate, key): &(Pem, Pem)| Ok((read(certificate)?, read(key)?));
        let settings = Settings {
            url: bus.url.as_ref().clone(),
            prefix: bus.channel.clone(),
            own: HostId(fastrand::u64(1..)),
            secret: bus.secret.as_ref().map(secret).transpose()?,
            ca: bus.ca.as_ref().map(read).transpose()?,
            client: bus.identity.as_ref().map(identity).transpose()?,
            queue: bus.queue,
        };
        settings.check().map_err(|error| config.bad_bus(bus, error.to_string()))?;
        let (url, channel) = (bus.url.as_ref().to_string(), bus.channel.to_string());
        Ok(Some(Reach { name: bus.name.clone(), settings, url, channel }))
    }

    /// Finds out what can be found out by another process than the service: credentials are for
    /// that alone.
    ///
    /// # Errors
    /// As of [`Reach::load`].
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        let mut pems = config.bus.iter().flat_map(Bus::pems);
        if pems.any(|pem| pem.credential().is_some()) {
            return Ok(());
        }
        Reach::load(config).map(drop)
    }
}
