//! `cohortctl scale --save`: the number goes into the app's file, and nothing else in it changes,
//! not a comment and not the end of a line.

use std::ffi::OsString;
use std::fs::{File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, open, openat, renameat, unlinkat};
use toml::de::DeTable;

use super::CtlError;
use crate::config::{Config, app_name};

/// Writes `workers` into the file of an app, at once or not at all. Its owner and mode stay, and a
/// symbolic link stays one.
///
/// # Errors
/// The file is as it was: it is wrong now, can't be written, or is not one of this app.
pub(super) fn workers(app: &str, file: &Path, workers: usize) -> Result<(), CtlError> {
    if app_name(file).as_deref() != Some(app) {
        let other = format!("{} is no configuration of {app}", file.display());
        return Err(CtlError::Refused(other));
    }
    let error = |e| CtlError::file(file, e);
    let place = Place::of(file).map_err(error)?;
    let (text, metadata) = place.read().map_err(error)?;
    let now = Config::parse(file, &text)?;
    let new = with_workers(&text, workers).unwrap_or_default();
    if Config::parse(file, &new).ok() != Some(now.with_workers(workers, &new)) {
        let unclear = format!("{}: no place for workers = {workers} in it", file.display());
        return Err(CtlError::Refused(unclear));
    }
    if new == text { Ok(()) } else { place.replace(&new, &metadata).map_err(error) }
}

/// The text with this number of workers at its top level.
fn with_workers(text: &str, workers: usize) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let table = table.get_ref();
    let mut new = text.to_owned();
    if let Some(value) = table.get("workers") {
        new.replace_range(value.span(), &workers.to_string());
        return Some(new);
    }
    // The place of a table with a head or with dotted keys begins before its key ends.
    let own = table.iter().filter(|(key, value)| key.span().end < value.span().start);
    let last = own.map(|(_, value)| value.span().end).max()?;
    let at = text[last..].find('\n').map_or(text.len(), |end| last + end + 1);
    let newline = if text[..at].ends_with("\r\n") { "\r\n" } else { "\n" };
    let before = if text[..at].ends_with('\n') { "" } else { newline };
    new.insert_str(at, &format!("{before}workers = {workers}{newline}"));
    Some(new)
}

/// A file in its open folder. The app's own user says where the file is, and root may write it: so
/// what is read and what is replaced must be the same, whatever the path leads to meanwhile.
struct Place {
    folder: OwnedFd,
    name: OsString,
}

impl Place {
    /// Where a file really is.
    fn of(file: &Path) -> io::Result<Place> {
        let file = file.canonicalize()?;
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Place { folder: open(folder, flags, Mode::empty())?, name: name.to_owned() })
    }

    /// The text, of a file that could be written too.
    fn read(&self) -> io::Result<(String, Metadata)> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.folder, &self.name, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok((io::read_to_string(file)?, metadata))
    }

    fn replace(&self, text: &str, like: &Metadata) -> io::Result<()> {
        let mut new = OsString::from(".");
        new.push(&self.name);
        new.push(format!(".{}.new", std::process::id()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.folder, &new, flags, Mode::RUSR | Mode::WUSR)?);
        let done = fchown(&file, Some(like.uid()), Some(like.gid()))
            .and_then(|()| file.set_permissions(Permissions::from_mode(like.mode() & 0o7777)))
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(renameat(&self.folder, &new, &self.folder, &self.name)?));
        if done.is_err() {
            let _ = unlinkat(&self.folder, &new, AtFlags::empty());
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_number_changes() {
        for (text, workers) in [
            ("exec = ['a'] # one\n# how many\nworkers = @ # two\nlisten = ['1']\n", "\"auto\""),
            ("exec = ['a']\r\nworkers=@\r\n\r\n[reload]\r\nsurge = 2\r\n", "12"),
            ("\u{feff}listen = ['1']\n\t'workers'  =\t@", "0x10"),
            ("\"workers\" = @\n[env]\nworkers = '9' # not this\n", "'auto-1'"),
            ("reload.surge = 1\nworkers = @\nreload.canary = '1s'\n", "1_0"),
        ] {
            let new = with_workers(&text.replace('@', workers), 6);
            assert_eq!(new, Some(text.replace('@', "6")), "{text:?}");
        }
    }

    /// What stands behind it moves, and is what it was.
    #[test]
    fn a_longer_number_is_as_good() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let file = folder.path().join("shop.toml");
        let text = "exec = ['a']\nlisten = ['443']\nworkers = 2\nenv_file = '-x'\n\
                    [reload]\nschedule = 'daily'\n[tls]\ncertificate = 'c'\nkey = 'credential:k'\n";
        std::fs::write(&file, text).expect("written");
        super::workers("shop", &file, 12).expect("saved");
        let saved = std::fs::read_to_string(&file).expect("readable");
        assert_eq!(saved, text.replace("workers = 2", "workers = 12"));
    }

    #[test]
    fn a_number_that_is_not_there_follows_the_last_key_of_the_top() {
        for (text, newline) in [
            ("exec = ['a']\nlisten = ['1'] # last@\n\n# of the table\n[reload]\nsurge = 2\n", "\n"),
            ("exec = ['a']\r\nlisten = ['1']@\r\n[env]\r\nworkers = '1'\r\n", "\r\n"),
            ("listen = ['1']\nexec = [\n  'a', # one\n  '[b]',\n]@", "\n"),
            ("exec = '''\n[x]\n'''@\n[[x]]\ny = 1\n[z.a]\n[z]\n", "\n"),
            ("exec = ['a']\nready = { timeout = '1s' }@\nreload.surge = 1\n[stop]\n", "\n"),
        ] {
            let line = format!("{newline}workers = 6");
            let mut want = text.replace('@', &line);
            if text.ends_with('@') {
                want += newline;
            }
            assert_eq!(with_workers(&text.replace('@', ""), 6), Some(want), "{text:?}");
        }
        assert_eq!(with_workers("[env]\n", 6), None);
        assert_eq!(with_workers("not toml", 6), None);
    }
}
