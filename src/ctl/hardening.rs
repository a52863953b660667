//! What of the machine's files an app sees and may write: the lines of its unit that follow from what
//! its configuration names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::config::{Config, Listen};
use crate::places;

/// What is in there is each user's own.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// Everybody's.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Before the cgroup of a unit by one of these names systemd puts `_`, for files there are called so.
const CGROUP_FILES: [&str; 9] =
    ["blkio", "cgroup", "cpu", "cpuacct", "cpuset", "devices", "io", "memory", "pids"];

/// What an app may write to, beside folders of its own that systemd makes.
///
/// Behind a symbolic link the next release is another folder, and what a running service may write to
/// stays as it is: so it is the folder of the link, and that of what it leads to. One in the root is
/// the machine's way to place things, and leads to no release.
pub(super) fn writable(config: &Config) -> BTreeSet<PathBuf> {
    let directory = std::path::absolute(&config.directory).unwrap_or(config.directory.clone());
    let is_release = |path: &&Path| {
        path.is_symlink() && path.parent().is_some_and(|folder| folder != Path::new("/"))
    };
    let links = directory.ancestors().filter(is_release);
    let mut folders: BTreeSet<PathBuf> = links
        .flat_map(|link| [Some(link.to_owned()), fs::canonicalize(link).ok()])
        .flatten()
        .filter_map(|path| fs::canonicalize(path.parent()?).ok())
        .collect();
    folders.insert(fs::canonicalize(&directory).unwrap_or(directory));
    if let Some(Listen::Path(socket)) = &config.metrics.listen
        && !socket.starts_with(places::SYSTEM)
    {
        folders.extend(socket.parent().map(Path::to_owned));
    }
    let all = folders.clone();
    folders.retain(|folder| can_be_said(folder));
    folders.retain(|folder| !folder.ancestors().skip(1).any(|above| all.contains(above)));
    folders
}

/// The lines of the service.
pub(super) fn lines(config: &Config) -> Vec<String> {
    let named = named(config);
    let is_below = |folders: &[&str]| {
        folders.iter().any(|folder| named.iter().any(|path| path.starts_with(folder)))
    };
    let mut writable = writable(config);
    let mut lines = Vec::new();
    let homes: BTreeSet<PathBuf> = named.iter().filter_map(|path| home(path)).collect();
    if homes.is_empty() {
        lines.push("ProtectHome=yes".to_owned());
    } else {
        lines.push("# of all homes the one that the configuration names something in".to_owned());
        lines.push("ProtectHome=tmpfs".to_owned());
        for home in homes {
            let setting = if writable.remove(&home) { "BindPaths" } else { "BindReadOnlyPaths" };
            lines.push(format!("{setting}=-{}", quoted(&home)));
        }
    }
    if is_below(&TEMPORARY) {
        lines.push("# the configuration names something in there".to_owned());
        lines.push(format!("ReadWritePaths={}", TEMPORARY.join(" ")));
    } else {
        let own = places::temporary_of(&config.app);
        let own = own.display();
        lines.push(
            "# of its own, and not where systemd makes it: that ends before the workers do".into(),
        );
        lines.push("PrivateTmp=yes".to_owned());
        lines.push(format!("CacheDirectory=cohortd/{}", config.app));
        lines.push("CacheDirectoryMode=0700".to_owned());
        lines.extend(TEMPORARY.map(|folder| format!("BindPaths={own}:{folder}")));
    }
    lines.extend(writable.iter().map(|folder| format!("ReadWritePaths=-{}", quoted(folder))));
    lines
}

/// The cgroup of an app in this slice, as a path that need not be there.
pub(super) fn cgroup(slice: &str, app: &str) -> String {
    let before = if CGROUP_FILES.contains(&app) { "_" } else { "" };
    format!("-/sys/fs/cgroup/{slice}/{before}{app}.service")
}

/// Every path in a configuration, also within words and variables (`PATH`). What `env_file` says does
/// not count: the app may be able to write it.
fn named(config: &Config) -> Vec<PathBuf> {
    let words = config.exec.iter().chain(config.own_env.values());
    let words = words.flat_map(|text| text.split([':', '=', ',', ' '])).map(PathBuf::from);
    let directory = std::path::absolute(&config.directory).ok();
    let real = fs::canonicalize(&config.directory).ok();
    let files = config.env_files.iter().map(|file| file.path(&config.directory));
    let pems = config.pems().filter(|pem| pem.credential().is_none());
    let pems = pems.filter_map(|pem| pem.path(&config.directory).ok());
    let metrics = match &config.metrics.listen {
        Some(Listen::Path(path)) => Some(path.clone()),
        _ => None,
    };
    let all = words.chain(directory).chain(real).chain(files).chain(pems).chain(metrics);
    all.filter(|path| path.is_absolute() && can_be_said(path)).collect()
}

/// Whether a path can stand in a unit: a line's end would begin another setting.
fn can_be_said(path: &Path) -> bool {
    !path.to_string_lossy().contains(char::is_control)
}

/// The home that a path is in.
fn home(path: &Path) -> Option<PathBuf> {
    let homes = HOMES.iter().map(Path::new).find(|homes| path.starts_with(homes))?;
    let whose = path.strip_prefix(homes).ok()?.components().next();
    match whose {
        Some(Component::Normal(name)) if homes != Path::new("/root") => Some(homes.join(name)),
        _ => Some(homes.to_owned()),
    }
}

/// A path as a word of a setting that takes several.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    let path = path.replace('%', "%%");
    if path.contains([' ', '\\', '\'']) { format!("\"{path}\"") } else { path }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn config(toml: &str) -> Config {
        let source = format!("exec = [\"node\", \"x.js\"]\nlisten = [\"8080\"]\n{toml}");
        Config::parse(Path::new("/etc/cohortd/shop.toml"), &source).expect("right")
    }

    fn in_directory(directory: &Path) -> Config {
        config(&format!("directory = {directory:?}"))
    }

    #[test]
    fn a_home_is_seen_that_something_is_in() {
        let homes = |toml: &str| -> Vec<String> {
            let lines = lines(&config(toml));
            let binds = lines.iter().filter_map(|line| line.split_once("=-"));
            binds
                .filter(|(setting, _)| setting.starts_with("Bind"))
                .map(|(setting, path)| format!("{setting} {path}"))
                .collect()
        };
        for (toml, want) in [
            ("directory = \"/srv/shop\"", &[][..]),
            ("directory = \"/home/ann/shop\"", &["BindReadOnlyPaths /home/ann"]),
            ("directory = \"/home/ann\"", &["BindPaths /home/ann"]),
            ("directory = \"/root/shop\"", &["BindReadOnlyPaths /root"]),
            ("env.PATH = \"/home/ann/.nvm/bin:/bin\"", &["BindReadOnlyPaths /home/ann"]),
            ("env.NODE_OPTIONS = \"--require=/home/ann/x.js\"", &["BindReadOnlyPaths /home/ann"]),
            ("env_file = \"/home/ann/.env\"", &["BindReadOnlyPaths /home/ann"]),
            ("directory = \"/homes/ann\"", &[]),
            ("env.A = \"/home/a\\nUser\"", &[]),
        ] {
            assert_eq!(homes(toml), want, "{toml}");
            let hidden = lines(&config(toml)).contains(&"ProtectHome=yes".to_owned());
            assert_eq!(hidden, want.is_empty(), "{toml}");
        }
    }

    #[test]
    fn tmp_is_the_app_s_own_unless_something_in_there_is_meant() {
        let own = |toml: &str| lines(&config(toml)).contains(&"PrivateTmp=yes".to_owned());
        assert!(own("directory = \"/srv/tmp\""));
        for toml in [
            "directory = \"/tmp/shop\"",
            "env.DB = \"postgres:///shop?host=/tmp\"",
            "[metrics]\nlisten = \"/var/tmp/metrics.sock\"",
        ] {
            assert!(!own(toml), "{toml}");
        }
    }

    #[test]
    fn what_a_link_can_lead_to_is_written_to() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let root = fs::canonicalize(folder.path()).expect("it is there");
        for path in ["shop/releases/1/server", "shop/shared", "data/2"] {
            fs::create_dir_all(root.join(path)).expect("made");
        }
        symlink("releases/1", root.join("shop/current")).expect("made");
        symlink(root.join("data/2"), root.join("shop/moved")).expect("made");
        for (directory, want) in [
            ("shop", &["shop"][..]),
            ("shop/releases/1", &["shop/releases/1"]),
            ("shop/current", &["shop"]),
            ("shop/current/server", &["shop"]),
            ("shop/moved", &["data", "shop"]),
            ("shop/none", &["shop/none"]),
        ] {
            let want: BTreeSet<PathBuf> = want.iter().map(|path| root.join(path)).collect();
            assert_eq!(writable(&in_directory(&root.join(directory))), want, "{directory}");
        }
    }

    #[test]
    fn paths_are_words() {
        for (path, want) in [
            ("/srv/shop", "/srv/shop"),
            ("/srv/50%", "/srv/50%%"),
            ("/srv/my shop", "\"/srv/my shop\""),
            ("/srv/a\"b\\c", "\"/srv/a\\\"b\\\\c\""),
        ] {
            assert_eq!(quoted(Path::new(path)), want);
        }
        assert_eq!(cgroup("a.slice", "shop"), "-/sys/fs/cgroup/a.slice/shop.service");
        assert_eq!(cgroup("a.slice", "memory"), "-/sys/fs/cgroup/a.slice/_memory.service");
    }
}
