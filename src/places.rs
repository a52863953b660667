//! Where a running app keeps its sockets: below `/run` for root and under systemd (which says
//! where, in `RUNTIME_DIRECTORY`), else below `$XDG_RUNTIME_DIR`.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// An app's folder as the app itself sees it, made if need be; only its user may look into it.
///
/// # Errors
/// There is no place for it.
pub fn folder(app: &str) -> io::Result<PathBuf> {
    let folder = match std::env::var_os("RUNTIME_DIRECTORY") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => candidates(app).into_iter().next(),
    };
    let folder = folder.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "neither root nor XDG_RUNTIME_DIR")
    })?;
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    Ok(folder)
}

/// Where an app's folder may be, as seen by one of its users: their own first.
pub fn candidates(app: &str) -> Vec<PathBuf> {
    let system = PathBuf::from("/run/cohortd").join(app);
    if rustix::process::geteuid().is_root() {
        return vec![system];
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR")
        .map(|folder| PathBuf::from(folder).join("cohortd").join(app));
    own.into_iter().chain([system]).collect()
}
