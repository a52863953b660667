//! What is loaded into a Node worker before the app, so that the app sees its clients' own
//! addresses, and how Node is told to load it.
//!
//! A file, because nothing else can be loaded by every version of Node. It has to stay as long as
//! a worker lives: each of its threads loads it again.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use memchr::memmem;
use rustix::rand::{GetRandomFlags, getrandom};

use super::lane::Ends;
use super::spawn::Plan;
use crate::places;

const SOURCE: &[u8] = include_bytes!("hook.cjs");

/// Another version's is another file.
const NAME: &str = concat!("hook-", env!("CARGO_PKG_VERSION"), ".cjs");

/// The variable by which a worker hears how our header can be told from a client's.
const TOKEN: &str = "COHORTD_PEER_TOKEN";

/// The variable by which a worker hears which descriptor its lane is.
const LANE: &str = "COHORTD_LANE_FD";

/// Node's options in the environment.
const OPTIONS: &str = "NODE_OPTIONS";

/// A worker's program, which has this environment, will load it, before whatever else the user lets
/// Node load.
///
/// # Errors
/// There is no place for the file, or Node would no longer see options of the user's.
pub fn load_into(
    command: &mut Command,
    plan: &Plan,
    env: &BTreeMap<OsString, OsString>,
    directory: &Path,
) -> io::Result<()> {
    let options = env.get(OsStr::new(OPTIONS));
    if options.is_none() && env_file_has_options(&plan.exec, directory) {
        return Err(io::Error::other("NODE_OPTIONS in a file for --env-file would not be read"));
    }
    let in_place = |folder: io::Result<PathBuf>| provide(&folder?);
    let file = in_place(places::for_workers(&plan.app)).or_else(|first| {
        in_place(places::temporary()).map_err(|e| io::Error::other(format!("{first}, and {e}")))
    })?;
    command.env(OPTIONS, before(&file, options)?).env(TOKEN, token()?);
    Ok(())
}

/// A lane for a worker's program that will load it; the worker's end is added to the descriptors
/// that it is `given`. `None`: it goes without.
pub fn add_lane(command: &mut Command, given: &mut Vec<OwnedFd>) -> Option<Ends> {
    let open = || -> io::Result<(Ends, OwnedFd)> {
        let ends = Ends::new()?;
        let copy = ends.theirs.try_clone()?;
        Ok((ends, copy))
    };
    let (ends, copy) = open().ok()?;
    command.env(LANE, copy.as_raw_fd().to_string());
    given.push(copy);
    Some(ends)
}

/// Whether a file that Node is told to read variables from has options for it. Node takes those
/// only where the environment has none.
fn env_file_has_options(exec: &[String], directory: &Path) -> bool {
    let file = |(n, word): (usize, &String)| {
        let rest = word.strip_prefix("--env-file")?;
        match rest.strip_prefix("-if-exists").unwrap_or(rest) {
            "" => exec.get(n + 1).cloned(),
            named => named.strip_prefix('=').map(str::to_owned),
        }
    };
    let mut files = exec.iter().enumerate().filter_map(file);
    files.any(|file| {
        let text = fs::read(directory.join(file)).unwrap_or_default();
        memmem::find(&text, OPTIONS.as_bytes()).is_some()
    })
}

/// The file in this folder, written if it is not there as it should be.
fn provide(folder: &Path) -> io::Result<PathBuf> {
    // As Node will name it, so that the hook finds itself in `NODE_OPTIONS`.
    let file = fs::canonicalize(folder)?.join(NAME);
    if fs::read(&file).is_ok_and(|there| there == SOURCE) {
        return Ok(file);
    }
    let new = file.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&new);
    let mut writer = File::create_new(&new)?;
    writer.write_all(SOURCE)?;
    // The sticky bit says to those who clean up such folders that it is in use.
    writer.set_permissions(Permissions::from_mode(0o1444))?;
    fs::rename(&new, &file)?;
    Ok(file)
}

/// `NODE_OPTIONS` with ours first. Only a space parts options, and quotes keep it from doing so.
fn before(file: &Path, options: Option<&OsString>) -> io::Result<OsString> {
    let path = file.to_str().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidFilename, "the runtime folder's path is not UTF-8")
    })?;
    let quoted = path.replace('\\', "\\\\").replace('"', "\\\"");
    let mut all = OsString::from(format!("--require=\"{quoted}\""));
    if let Some(options) = options.filter(|options| !options.is_empty()) {
        all.push(" ");
        all.push(options);
    }
    Ok(all)
}

fn token() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_comes_before_the_user_s() {
        let before = |path: &str, options: Option<&str>| {
            before(Path::new(path), options.map(OsString::from).as_ref()).expect("UTF-8")
        };
        assert_eq!(before("/run/a/hook.cjs", None), "--require=\"/run/a/hook.cjs\"");
        assert_eq!(before("/a/b.cjs", Some("")), "--require=\"/a/b.cjs\"");
        assert_eq!(
            before("/run/a b\\\"/hook.cjs", Some("--max-old-space-size=200 -r x")),
            "--require=\"/run/a b\\\\\\\"/hook.cjs\" --max-old-space-size=200 -r x"
        );
    }

    #[test]
    fn the_file_is_written_once_and_mended() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let file = provide(folder.path()).expect("written");
        let first = fs::metadata(&file).expect("is there");
        assert_eq!(first.permissions().mode() & 0o7777, 0o1444);
        let changed = || fs::metadata(provide(folder.path()).expect("there")).expect("is there");
        assert_eq!(changed().modified().ok(), first.modified().ok(), "not written again");
        fs::remove_file(&file).expect("ours");
        fs::write(&file, "half of i").expect("written");
        provide(folder.path()).expect("written");
        assert_eq!(fs::read(&file).expect("there"), SOURCE);
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1, "nothing is left");
    }

    #[test]
    fn options_in_an_env_file_are_found() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        fs::write(folder.path().join(".env"), "A=1\nNODE_OPTIONS=--no-warnings\n")
            .expect("written");
        fs::write(folder.path().join("plain"), "A=1\n").expect("written");
        let has = |exec: &[&str]| {
            let exec: Vec<String> = exec.iter().map(ToString::to_string).collect();
            env_file_has_options(&exec, folder.path())
        };
        assert!(
            has(&["node", "--env-file=.env", "x"]) && has(&["node", "--env-file", ".env", "x"])
        );
        assert!(has(&["node", "--env-file=plain", "--env-file-if-exists=.env", "x"]));
        assert!(
            !has(&["node", "--env-file=plain", "x", ".env"]) && !has(&["node", "--env-file=no"])
        );
    }

    #[test]
    fn tokens_differ() {
        let (one, other) = (token().expect("random"), token().expect("random"));
        assert!(one != other && one.len() == 32, "{one} {other}");
    }
}
