//! `[tls]`: which connections are encrypted up to us, and where the certificate and its key are.
//! They are read elsewhere: here is only what the file says.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::check::{Check, Checked};
use super::error::ConfigError;
use super::file::{self, Text};
use super::value::Listen;
use super::{Config, Kind};

/// How a PEM file is named.
const PEM: &str = "a file (\"/etc/ssl/myapp.pem\") or \"credential:NAME\"";

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `certificate`: the server's, and what else of its chain clients need, in PEM.
    pub certificate: Pem,
    /// `key`: the certificate's, in PEM.
    pub key: Pem,
    /// `listen`: the entries whose connections are encrypted. Default: all ports.
    pub listen: Option<Vec<Listen>>,
}

/// A PEM file, with its place in the configuration: what is wrong with it is found out when it is
/// read. Two are equal if they are named alike, wherever that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pem(Spanned<Source>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// A path; a relative one begins in `directory`.
    File(PathBuf),
    /// `"credential:NAME"`: what systemd has read for the service (`LoadCredential=`).
    Credential(String),
}

impl Pem {
    /// The credential's name, if it is one.
    pub fn credential(&self) -> Option<&str> {
        match self.0.as_ref() {
            Source::Credential(name) => Some(name),
            Source::File(_) => None,
        }
    }

    /// Where it is, in an app with this directory.
    ///
    /// # Errors
    /// There are no credentials here.
    pub fn path(&self, directory: &Path) -> Result<PathBuf, String> {
        match self.0.as_ref() {
            Source::File(path) => Ok(directory.join(path)),
            Source::Credential(name) => match env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => Ok(Path::new(&folder).join(name)),
                None => Err("systemd has given this process no credentials: run `cohortctl add`, \
                             which writes LoadCredential= into the unit, or name a file"
                    .to_owned()),
            },
        }
    }
}

/// As in the file.
impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_ref() {
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}

impl Config {
    /// Something is wrong with a PEM file that the configuration names.
    pub(crate) fn bad_pem(&self, pem: &Pem, message: impl Into<String>) -> ConfigError {
        self.at(pem.0.span(), message)
    }
}

impl Check<'_> {
    pub(super) fn tls(
        &self,
        raw: &Option<Spanned<file::Tls>>,
        listen: &[Listen],
        kind: Kind,
    ) -> Checked<Option<Tls>> {
        let Some(raw) = raw else { return Ok(None) };
        if kind == Kind::Job {
            let message = "[tls] means nothing to workers of this kind: a job has no socket";
            return self.error(raw.span(), message);
        }
        let tls = raw.as_ref();
        let pem = |name: &str, key: &Option<Text>| match key {
            Some(text) => self.pem(text),
            None => self.error(raw.span(), format!("{name} is missing: {PEM}")),
        };
        Ok(Some(Tls {
            certificate: pem("tls.certificate", &tls.certificate)?,
            key: pem("tls.key", &tls.key)?,
            listen: self.encrypted(raw, listen)?,
        }))
    }

    pub(super) fn pem(&self, text: &Text) -> Checked<Pem> {
        let word = text.as_ref().as_str();
        let source = match word.strip_prefix("credential:") {
            Some(name) if is_credential(name) => Source::Credential(name.to_owned()),
            None if !word.is_empty() && !word.contains('\0') => Source::File(word.into()),
            _ => return self.error(text.span(), format!("expected {PEM}, found {word:?}")),
        };
        Ok(Pem(Spanned::new(text.span(), source)))
    }

    /// The entries of `listen` whose connections are encrypted.
    fn encrypted(
        &self,
        raw: &Spanned<file::Tls>,
        listen: &[Listen],
    ) -> Checked<Option<Vec<Listen>>> {
        let Some(named) = &raw.as_ref().listen else {
            if listen.iter().all(|on| on.port().is_none()) {
                let message = "listen has only paths: name those that speak TLS in tls.listen";
                return self.error(raw.span(), message);
            }
            return Ok(None);
        };
        if named.as_ref().is_empty() {
            return self.error(named.span(), "expected entries of listen, found none");
        }
        let one = |text: &Text| match Listen::parse(text.as_ref()) {
            Ok(entry) if listen.contains(&entry) => Ok(entry),
            Ok(entry) => {
                let known: Vec<String> = listen.iter().map(|on| format!("\"{on}\"")).collect();
                let message = format!("expected {}, found \"{entry}\"", known.join(" or "));
                self.error(text.span(), message)
            }
            Err(message) => self.error(text.span(), message),
        };
        named.as_ref().iter().map(one).collect::<Checked<_>>().map(Some)
    }
}

/// A name that can stand in a unit: a file's, as systemd demands (systemd.exec(5)).
fn is_credential(name: &str) -> bool {
    let is_its = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !matches!(name, "" | "." | "..") && name.len() <= 255 && name.chars().all(is_its)
}
