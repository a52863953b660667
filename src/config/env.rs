//! `[env]`, `[profile.NAME.env]` and `[env_per_worker]`: the workers' variables.

use std::collections::BTreeMap;

use super::check::{Check, Checked};
use super::file::{Env, File, Text};
use super::template::Template;

/// Variables by which Node, systemd and cohortd talk to a worker: not the user's to set.
pub(crate) const RESERVED: [&str; 11] = [
    "NODE_APP_INSTANCE",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "JOURNAL_STREAM",
];

impl Check<'_> {
    pub(super) fn env(&self, raw: &File) -> Checked<BTreeMap<String, String>> {
        let chosen = raw.use_profile.as_ref().and_then(|name| raw.profile.get(name.as_ref()));
        let overlays = raw.profile.values().map(|profile| &profile.env);
        for env in std::iter::once(&raw.env).chain(overlays) {
            self.variables(env)?;
        }
        Ok(std::iter::once(&raw.env)
            .chain(chosen.map(|profile| &profile.env))
            .flatten()
            .map(|(name, value)| (name.as_ref().clone(), value.as_ref().clone()))
            .collect())
    }

    pub(super) fn env_per_worker(&self, env: &Env) -> Checked<BTreeMap<String, Template>> {
        self.variables(env)?;
        let one = |(name, value): (&Text, &Text)| {
            let template = Template::parse(value.as_ref());
            let template = template.or_else(|message| self.error(value.span(), message))?;
            Ok((name.as_ref().clone(), template))
        };
        env.iter().map(one).collect()
    }

    fn variables(&self, env: &Env) -> Checked<()> {
        for (name, value) in env {
            let key = name.as_ref();
            if key.is_empty() || key.contains(['=', '\0']) {
                return self
                    .error(name.span(), "a variable's name can't be empty or contain = or NUL");
            }
            if RESERVED.contains(&key.as_str()) {
                return self.error(name.span(), format!("{key} is set by cohortd for each worker"));
            }
            if value.as_ref().contains('\0') {
                return self.error(value.span(), "a variable's value can't contain NUL");
            }
        }
        Ok(())
    }
}
