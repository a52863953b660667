//! Where a running app keeps its sockets and files: below `/run` for root and under systemd (which says
//! where, in `RUNTIME_DIRECTORY`), else below `$XDG_RUNTIME_DIR`.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// By which systemd says where a service's runtime folders are.
const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";

/// By which systemd says where a service's caches are.
const CACHE_DIRECTORY: &str = "CACHE_DIRECTORY";

/// What is below it is of one app each.
pub const SYSTEM: &str = "/run/cohortd";

/// Here too, but on a disk.
const CACHES: &str = "/var/cache/cohortd";

/// What an app sees as `/tmp` and `/var/tmp`, made by its service and emptied when that is stopped.
pub fn temporary_of(app: &str) -> PathBuf {
    Path::new(CACHES).join(app)
}

/// An app's folder as the app itself sees it, made if need be; only its user may look into it.
///
/// # Errors
/// There is no place for it.
pub fn folder(app: &str) -> io::Result<PathBuf> {
    let (of_service, _) = of_service();
    let folder = of_service.or_else(|| candidates(app).into_iter().next());
    let folder = folder.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "neither root nor XDG_RUNTIME_DIR")
    })?;
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    Ok(folder)
}

/// The service's other folders (`RuntimeDirectory=` or `CacheDirectory=` of a drop-in), each kind by
/// the variable in which systemd says them.
pub fn others() -> impl Iterator<Item = (&'static str, OsString)> {
    let (_, runtime) = of_service();
    let caches = folders(CACHE_DIRECTORY).filter(|folder| !folder.starts_with(CACHES)).collect();
    let all: [(_, Vec<PathBuf>); 2] = [(RUNTIME_DIRECTORY, runtime), (CACHE_DIRECTORY, caches)];
    let all = all.into_iter().filter(|(_, folders)| !folders.is_empty());
    all.filter_map(|(variable, folders)| Some((variable, env::join_paths(folders).ok()?)))
}

/// Whether a variable says where folders are, some of which may be ours alone.
pub fn says_folders(variable: &str) -> bool {
    [RUNTIME_DIRECTORY, CACHE_DIRECTORY].contains(&variable)
}

/// The service's runtime folders: ours, and the others. systemd says them in any order.
fn of_service() -> (Option<PathBuf>, Vec<PathBuf>) {
    let mut all: Vec<PathBuf> = folders(RUNTIME_DIRECTORY).collect();
    let ours = all.iter().position(|folder| folder.starts_with(SYSTEM)).unwrap_or(0);
    ((ours < all.len()).then(|| all.remove(ours)), all)
}

fn folders(variable: &str) -> impl Iterator<Item = PathBuf> {
    let folders: Vec<PathBuf> =
        env::split_paths(&env::var_os(variable).unwrap_or_default()).collect();
    folders.into_iter().filter(|folder| folder.is_absolute())
}

/// Removes an app's folder in the end, if nothing is in it. What systemd has made it removes itself.
pub fn leave(app: &str) {
    if of_service().0.is_none()
        && let Some(folder) = candidates(app).into_iter().next()
    {
        let _ = fs::remove_dir(folder); // another run of the app may be using it
    }
}

/// Where a file is to be that workers read and nobody else has to find. Root's can be read by every
/// user: a worker may give root up.
///
/// # Errors
/// There is no place for it.
pub fn for_workers(app: &str) -> io::Result<PathBuf> {
    if !geteuid().is_root() {
        return folder(app);
    }
    DirBuilder::new().recursive(true).create(SYSTEM)?;
    fs::set_permissions(SYSTEM, Permissions::from_mode(0o755))?;
    Ok(SYSTEM.into())
}

/// A folder of our user's alone, below the system's for temporary files, made if need be.
///
/// # Errors
/// There is no place for it, or somebody else has taken it.
pub fn temporary() -> io::Result<PathBuf> {
    let user = geteuid().as_raw();
    let folder = env::temp_dir().join(format!("cohortd-{user}"));
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let there = fs::symlink_metadata(&folder)?;
    if there.is_dir() && there.uid() == user && there.mode() & 0o022 == 0 {
        Ok(folder)
    } else {
        let message = format!("{} is not ours alone", folder.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }
}

/// Where an app's folder may be, as seen by one of its users: their own first.
pub fn candidates(app: &str) -> Vec<PathBuf> {
    let system = Path::new(SYSTEM).join(app);
    if geteuid().is_root() {
        return vec![system];
    }
    let own = env::var_os("XDG_RUNTIME_DIR")
        .map(|folder| PathBuf::from(folder).join("cohortd").join(app));
    own.into_iter().chain([system]).collect()
}

/// The apps that have a folder where this user's, or the system's, have theirs.
pub fn apps() -> BTreeSet<String> {
    let folders = candidates("").into_iter();
    let entries = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
