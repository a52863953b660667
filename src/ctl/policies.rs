//! What the system bus and polkit have to know of an app: their policy files, from the templates in
//! `packaging/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Access, access};

use super::units::Unit;
use super::{CtlError, booted, systemctl};
use crate::systemd::{dbus, unit_file};

/// Where an administrator's policies for the bus are.
const BUS_FOLDER: &str = "/etc/dbus-1/system.d";

/// Where polkit's actions are: the first that is there and can be written. The second is for a
/// `/usr` that can't, and polkit 122 does not know it; without polkit there is none.
const POLKIT_FOLDERS: [&str; 2] = ["/usr/share/polkit-1/actions", "/etc/polkit-1/actions"];

/// The policy files of an app that runs as this user.
pub(super) fn render(app: &str, user: &str) -> Vec<Unit> {
    let values = [
        ("@NAME@", dbus::bus_name(app)),
        ("@ACTION@", dbus::action(app)),
        ("@APP@", app.to_owned()),
        ("@USER@", escaped(user)),
    ];
    let fill = |template: &str| {
        values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
    };
    let bus = fill(include_str!("../../packaging/dbus/org.cohortd.App.conf.in"));
    let polkit = fill(include_str!("../../packaging/polkit/org.cohortd.App.policy.in"));
    let folder = POLKIT_FOLDERS.iter().find(|folder| access(**folder, Access::WRITE_OK).is_ok());
    let polkit = folder.map(|folder| Unit::new(polkit_file(folder, app), &polkit));
    std::iter::once(Unit::new(bus_file(app), &bus)).chain(polkit).collect()
}

/// The policy files that an app has.
pub(super) fn of_app(app: &str) -> Vec<PathBuf> {
    let polkit = POLKIT_FOLDERS.iter().map(|folder| polkit_file(folder, app));
    let files = std::iter::once(bus_file(app)).chain(polkit);
    files.filter(|path| unit_file::read(path).is_some()).collect()
}

fn bus_file(app: &str) -> PathBuf {
    Path::new(BUS_FOLDER).join(format!("{}.conf", dbus::bus_name(app)))
}

fn polkit_file(folder: &str, app: &str) -> PathBuf {
    Path::new(folder).join(format!("{}.policy", dbus::bus_name(app)))
}

/// Has the bus read its policies anew, if there is one. polkit sees changes by itself.
pub(super) fn reload_bus() -> Result<(), CtlError> {
    let running =
        || Command::new("systemctl").args(["is-active", "--quiet", "dbus.service"]).status();
    if booted() && running().is_ok_and(|status| status.success()) {
        systemctl(&["reload", "dbus.service"])?;
    }
    Ok(())
}

/// A text as XML has it, also in quotes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A comment of XML's can't have two hyphens in it, and a name can.
    #[test]
    fn names_stand_where_any_name_may() {
        for policy in render("my--app_1", "a&\"<") {
            let comments = policy.text.split("<!--").skip(1);
            let mut comments = comments.filter_map(|rest| rest.split_once("-->"));
            assert!(comments.all(|(comment, _)| !comment.contains("--")), "{}", policy.text);
            assert!(policy.text.contains("a&amp;&quot;&lt;"), "{}", policy.text);
            assert!(policy.text.contains("my--app_1"), "{}", policy.text);
            assert!(!policy.text.contains('@'), "{}", policy.text);
        }
    }
}
