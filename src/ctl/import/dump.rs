//! What `pm2 save` and `pm2 jlist` write: each process with its whole environment, and with PM2's
//! own record of it.

use serde_json::{Map, Value};

use super::keys::key;
use super::report::{Class, Entry};
use super::sources::Listed;

/// PM2's record of a process, beside the keys of its schema.
const RECORD: &[&str] = &[
    "status",
    "pm_id",
    "pm_uptime",
    "created_at",
    "restart_time",
    "unstable_restarts",
    "exit_code",
    "prev_restart_delay",
    "unique_id",
    "km_link",
    "versioning",
    "vizion_running",
    "version",
    "node_version",
    "axm_actions",
    "axm_monitor",
    "axm_options",
    "axm_dynamic",
    "pmx_module",
    "command",
    "_pm2_version",
    "modules",
    "NODE_APP_INSTANCE",
    "current_conf",
    "conf",
    "monit",
    "pid",
    "MODULE_DEBUG",
    "uid_name",
    "started_inside",
    "unstable_restart",
    "windows_hide",
];

/// What a login shell or a service has in its environment anyway.
const BASE: &[&str] = &[
    "_",
    "COLORTERM",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "EDITOR",
    "HISTCONTROL",
    "HISTSIZE",
    "HOME",
    "HOSTNAME",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LANG",
    "LANGUAGE",
    "LESSCLOSE",
    "LESSOPEN",
    "LOGNAME",
    "LS_COLORS",
    "MAIL",
    "MANAGERPID",
    "MOTD_SHOWN",
    "OLDPWD",
    "PATH",
    "PWD",
    "SHELL",
    "SHLVL",
    "SYSTEMD_EXEC_PID",
    "TERM",
    "TMUX",
    "TZ_NAME",
    "USER",
    "VISUAL",
    "WINDOWID",
    "XAUTHORITY",
    "INIT_CWD",
];

/// Beginnings of such names.
const PREFIXES: &[&str] = &[
    "LC_",
    "SSH_",
    "SUDO_",
    "XDG_",
    "NVM_",
    "npm_",
    "GPG_",
    "TMUX_",
    "VSCODE_",
    "TERM_",
    "MEMORY_PRESSURE_",
];

/// Beginnings of PM2's own.
const OWN_PREFIXES: &[&str] = &["PM2_", "pm_", "axm_"];

/// PM2 does not write down where a variable is from.
const INHERITED: &str = "[env] may still have variables of the shell that PM2 was started from: leave \
                         out those that the app does not need";

/// Whether it is one of them.
pub(super) fn is_process(item: &Value) -> bool {
    item.get("pm2_env").is_some() || item.get("pm_exec_path").is_some()
}

/// The apps behind the processes: those of one name and script are the instances of one.
pub(super) fn apps(items: Vec<Value>) -> Vec<Listed> {
    let mut apps: Vec<(Map<String, Value>, usize)> = Vec::new();
    for item in items {
        let Value::Object(mut process) = item else { continue };
        if let Some(Value::Object(env)) = process.remove("pm2_env") {
            process = env;
        }
        let same = |other: &Map<String, Value>| {
            ["name", "pm_exec_path", "namespace"]
                .iter()
                .all(|key| other.get(*key) == process.get(*key))
        };
        match apps.iter_mut().find(|(other, _)| same(other)) {
            Some((_, count)) => *count += 1,
            None => apps.push((process, 1)),
        }
    }
    apps.into_iter().map(|(process, count)| app(process, count)).collect()
}

/// One app, without what PM2 has added to it.
fn app(mut process: Map<String, Value>, count: usize) -> Listed {
    let mut removed = Vec::new();
    let mut tell = |key: String, class: Class, note: &str| {
        removed.push(Entry { key, class, note: note.to_owned(), matters: false });
    };
    let mut env = match process.remove("env") {
        Some(Value::Object(env)) => env,
        _ => Map::new(),
    };
    let name = process.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    // Each variable stands at the top as well.
    let is_copy =
        |word: &String, value: &Value| env.get(word) == Some(value) && key(word).is_none();
    let all = process.len();
    process.retain(|word, value| !is_copy(word, value) || RECORD.contains(&word.as_str()));
    match all - process.len() {
        0 => {}
        copies => tell(format!("({copies} copies of env)"), Class::Replaced, "[env]"),
    }
    process.retain(|word, value| {
        let is_record = RECORD.contains(&word.as_str());
        if is_record {
            tell(word.clone(), Class::Dropped, "it is PM2's record of a process");
        } else if value.is_null() {
            tell(word.clone(), Class::Dropped, "it has no value");
        }
        !is_record && !value.is_null()
    });
    env.retain(|word, value| {
        let begins = |with: &[&str]| with.iter().any(|start| word.starts_with(start));
        let is_base = BASE.contains(&word.as_str()) || begins(PREFIXES);
        let is_known = RECORD.contains(&word.as_str()) || key(word).is_some();
        let is_pm2 = is_known || begins(OWN_PREFIXES) || *word == name;
        // PM2_PORT is where @socket.io/pm2 listens.
        let stays = word == "PM2_PORT" || !is_base && !is_pm2 && !value.is_null();
        if !stays {
            let by = if is_base { "a service's own environment" } else { "nothing: it is PM2's" };
            tell(format!("env.{word}"), Class::Replaced, by);
        }
        stays
    });
    if !env.is_empty() {
        process.insert("env".to_owned(), Value::Object(env));
    }
    if count > 1 {
        process.insert("instances".to_owned(), count.into());
    }
    Listed { keys: process, removed, note: Some(INHERITED) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_app_is_what_was_said_of_it() {
        let process = |id: u64| {
            json!({
                "name": "web", "namespace": "default", "pm_exec_path": "/srv/web/app.js",
                "pm_id": id, "status": "online", "exit_code": null, "NODE_ENV": "production",
                "HOME": "/home/u", "autorestart": true,
                "env": {
                    "NODE_ENV": "production", "HOME": "/home/u", "PATH": "/bin", "LC_ALL": "C",
                    "PM2_HOME": "/home/u/.pm2", "unique_id": "x", "web": {}, "PM2_PORT": "8080"
                }
            })
        };
        let apps =
            apps(vec![process(0), process(1), json!({"name": "other", "pm_exec_path": "/x"})]);
        assert_eq!(apps.len(), 2);
        assert_eq!(
            Value::Object(apps[0].keys.clone()),
            json!({
                "name": "web", "namespace": "default", "pm_exec_path": "/srv/web/app.js",
                "autorestart": true, "instances": 2,
                "env": {"NODE_ENV": "production", "PM2_PORT": "8080"}
            })
        );
        let removed: Vec<&str> = apps[0].removed.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(
            removed,
            [
                "(2 copies of env)",
                "exit_code",
                "pm_id",
                "status",
                "env.HOME",
                "env.LC_ALL",
                "env.PATH",
                "env.PM2_HOME",
                "env.unique_id",
                "env.web"
            ]
        );
    }
}
