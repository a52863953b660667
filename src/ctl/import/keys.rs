//! Every key that PM2 knows: what else it is called, and which have the same fate whatever they say.
//!
//! The names are those of PM2 7.0.4's schema, 65 with `env_*`.

use super::report::Class::{self, Dropped, Replaced};

/// A key of PM2's.
#[derive(Debug)]
pub(super) struct Key {
    /// As the schema has it.
    pub(super) name: &'static str,
    /// What PM2 takes as well, beside the same words in camelCase.
    pub(super) aliases: &'static [&'static str],
    /// What always becomes of it; `None`: that depends on the value.
    pub(super) fate: Option<(Class, &'static str)>,
}

const fn read(name: &'static str, aliases: &'static [&'static str]) -> Key {
    Key { name, aliases, fate: None }
}

const fn replaced(name: &'static str, aliases: &'static [&'static str], by: &'static str) -> Key {
    Key { name, aliases, fate: Some((Replaced, by)) }
}

const fn dropped(name: &'static str, why: &'static str) -> Key {
    Key { name, aliases: &[], fate: Some((Dropped, why)) }
}

/// Stands for every `env_NAME`.
pub(super) const PROFILES: &str = "env_*";

const JOURNAL: &str = "the journal, with everything in order: journalctl -u NAME";
const STAMPS: &str = "the journal's own time stamps: journalctl -o short-iso-precise";
const SAAS: &str = "nothing is loaded into the app for a service of PM2's";

/// In the order of a report.
pub(super) static KEYS: [Key; 65] = [
    read("name", &[]),
    read("script", &["exec", "cmd", "command"]),
    read("cwd", &[]),
    read("args", &[]),
    read("exec_interpreter", &["interpreter"]),
    read("node_args", &["interpreterArgs", "interpreter_args"]),
    read("source_map_support", &[]),
    replaced("disable_source_map_support", &[], "nothing: they are off unless exec turns them on"),
    read("exec_mode", &[]),
    read("execute_command", &[]),
    read("instances", &[]),
    read("port", &[]),
    read("env", &[]),
    read(PROFILES, &[]),
    read("append_env_to_name", &[]),
    replaced("filter_env", &[], "a service's clean environment: nothing is inherited"),
    read("increment_var", &[]),
    read("instance_var", &[]),
    read("wait_ready", &[]),
    read("listen_timeout", &[]),
    read("kill_timeout", &[]),
    replaced("kill_retry_time", &[], "the kernel, which tells when a worker has ended"),
    read("shutdown_with_message", &[]),
    read("treekill", &[]),
    read("cron_restart", &["cron"]),
    read("autorestart", &[]),
    read("stop_exit_codes", &[]),
    read("restart_delay", &[]),
    read("exp_backoff_restart_delay", &[]),
    replaced("min_uptime", &[], "[restart] backoff: pauses between restarts grow"),
    replaced("max_restarts", &[], "[restart] backoff: pauses grow, and nothing is given up"),
    read("max_memory_restart", &[]),
    read("watch", &[]),
    read("watch_delay", &[]),
    read("ignore_watch", &[]),
    read("watch_options", &[]),
    read("uid", &["user"]),
    read("gid", &[]),
    read("namespace", &[]),
    read("autostart", &[]),
    replaced("username", &[], "User= of the unit"),
    replaced("out_file", &["out", "output", "out_log"], JOURNAL),
    replaced("error_file", &["error", "err", "err_file", "err_log"], JOURNAL),
    replaced("log_file", &["log"], JOURNAL),
    replaced("merge_logs", &["combine_logs"], JOURNAL),
    replaced("disable_logs", &[], "the journal, which systemd keeps small (SystemMaxUse=)"),
    replaced("log_type", &[], "the journal: journalctl -o json"),
    replaced("log_date_format", &[], STAMPS),
    replaced("time", &[], STAMPS),
    replaced("pid_file", &["pid"], "systemctl show -P MainPID NAME"),
    dropped("name_prefix", "an app has the name of its file"),
    dropped("force", "an app runs once; for more of it there is workers"),
    dropped("install_url", "there are no modules"),
    dropped("post_update", "deploying is done by what deploys"),
    dropped("vizion", "nothing is read from version control"),
    dropped("trace", SAAS),
    dropped("disable_trace", SAAS),
    dropped("v8", SAAS),
    dropped("event_loop_inspector", SAAS),
    dropped("deep_monitoring", SAAS),
    dropped("io", SAAS),
    dropped("pmx", SAAS),
    dropped("automation", SAAS),
    dropped("windowsHide", "this is not Windows"),
    dropped("write", "it is an option of PM2's own command line"),
];

/// What `pm2 save` calls some of them.
const SAVED: [(&str, &str); 6] = [
    ("pm_exec_path", "script"),
    ("pm_cwd", "cwd"),
    ("pm_out_log_path", "out_file"),
    ("pm_err_log_path", "error_file"),
    ("pm_log_path", "log_file"),
    ("pm_pid_path", "pid_file"),
];

/// The key that a word stands for; `None` when PM2 knows no such word.
pub(super) fn key(word: &str) -> Option<&'static Key> {
    let is_named = |key: &&Key, word: &str| key.name == word || key.aliases.contains(&word);
    let of_profile = |word: &str| word.strip_prefix("env_").is_some_and(|name| !name.is_empty());
    let saved = SAVED.iter().find(|(saved, _)| *saved == word).map(|(_, name)| *name);
    let word = saved.unwrap_or(word);
    let snake = snake(word);
    KEYS.iter()
        .find(|key| is_named(key, word))
        .or_else(|| KEYS.iter().find(|key| is_named(key, &snake)))
        .or_else(|| KEYS.iter().find(|key| key.name == PROFILES && of_profile(word)))
}

/// `maxMemoryRestart` as `max_memory_restart`.
fn snake(word: &str) -> String {
    let mut out = String::with_capacity(word.len() + 4);
    for c in word.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_word_stands_for_one_key() {
        let words = KEYS.iter().flat_map(|key| key.aliases.iter().chain([&key.name]));
        let words: Vec<&str> = words.copied().collect();
        assert_eq!(
            words.iter().collect::<BTreeSet<_>>().len(),
            words.len(),
            "no word stands twice"
        );
        assert_eq!(KEYS.iter().map(|key| key.aliases.len()).sum::<usize>(), 18);
        for (word, name) in [
            ("cmd", "script"),
            ("maxMemoryRestart", "max_memory_restart"),
            ("interpreterArgs", "node_args"),
            ("nodeArgs", "node_args"),
            ("windowsHide", "windowsHide"),
            ("errFile", "error_file"),
            ("execInterpreter", "exec_interpreter"),
            ("env_production", PROFILES),
            ("pm_exec_path", "script"),
            ("env_", ""),
            ("env", "env"),
            ("max_memory_restat", ""),
        ] {
            assert_eq!(key(word).map_or("", |key| key.name), name, "{word}");
        }
    }
}
