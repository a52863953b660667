//! The app's variables: plain, by profile, and one value a worker.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Context;
use super::app::{App, Given, NO_VALUE};
use super::report::Class;
use super::text::bare;
use super::values::{is_on, text, variable};
use crate::config::{RESERVED, is_name};

type Variables = BTreeMap<String, String>;

/// Everything that a worker's environment is made of.
#[derive(Debug, Default)]
pub(super) struct Environment {
    plain: Variables,
    profiles: BTreeMap<String, Variables>,
    /// The profile that is used, if the app has it.
    pub(super) profile: Option<String>,
    /// Values with `{slot}` in them.
    per_worker: Variables,
}

impl Environment {
    /// What a worker would see of a variable, but for what differs between workers.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let chosen =
            self.profile.as_ref().and_then(|profile| self.profiles.get(profile)?.get(name));
        chosen.or_else(|| self.plain.get(name)).map(String::as_str)
    }

    /// Whether the workers each have a value of their own for it.
    pub(super) fn differs(&self, name: &str) -> bool {
        self.per_worker.contains_key(name)
    }

    /// Other profiles than the used one that say something else.
    pub(super) fn elsewhere(&self, name: &str) -> Vec<&str> {
        let value = self.get(name);
        let differs = |vars: &Variables| vars.get(name).is_some_and(|v| Some(v.as_str()) != value);
        self.profiles
            .iter()
            .filter(|(_, vars)| differs(vars))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Takes a variable out, everywhere.
    pub(super) fn remove(&mut self, name: &str) {
        self.plain.remove(name);
        self.profiles.values_mut().for_each(|vars| drop(vars.remove(name)));
    }

    /// Names whose value looks like a secret.
    pub(super) fn secrets(&self) -> Vec<String> {
        let all = std::iter::once(&self.plain).chain(self.profiles.values()).flatten();
        let mut names: Vec<String> = all
            .filter(|(name, value)| looks_secret(name, value))
            .map(|(name, _)| name.clone())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Writes its tables.
    pub(super) fn write(&self, app: &mut App) {
        let write = |app: &mut App, table: &str, vars: &Variables| {
            for (key, value) in vars {
                app.toml.set(table, key, value.as_str());
            }
        };
        write(app, "env", &self.plain);
        write(app, "env_per_worker", &self.per_worker);
        for (profile, vars) in &self.profiles {
            let name = format!("profile.{}.env", bare(profile));
            // Also an empty one: use_profile may name it.
            app.toml.table(&name);
            write(app, &name, vars);
        }
    }
}

/// Whether it is better not read by everybody: judged by its name, or a password in a URL.
fn looks_secret(name: &str, value: &str) -> bool {
    const WORDS: [&str; 9] = [
        "SECRET",
        "TOKEN",
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "CREDENTIAL",
        "APIKEY",
        "_KEY",
        "PRIVATE",
    ];
    let upper = name.to_ascii_uppercase();
    let named = WORDS.iter().any(|word| upper.contains(word))
        || ["_PASS", "_PWD", "_PW", "_DSN"].iter().any(|end| upper.ends_with(end))
        || ["KEY", "PASS"].contains(&upper.as_str());
    let in_url = value.split_once("://").is_some_and(|(_, rest)| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        host.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    });
    !value.is_empty() && (named || in_url)
}

/// Reads everything about the environment.
pub(super) fn environment(app: &mut App, context: &Context) -> Environment {
    let mut env = Environment::default();
    if let Some(given) = app.take("env")
        && let Some(vars) = variables(app, &given)
    {
        app.mapped(&given, &format!("[env]: {}", count(&vars)));
        env.plain = vars;
    }
    if let Some(given) = app.take("port") {
        match text(&given.value) {
            Some(port) => {
                app.mapped(&given, &format!("[env] PORT = \"{port}\""));
                env.plain.insert("PORT".to_owned(), port);
            }
            None => app.dropped(&given, "expected a port"),
        }
    }
    for (name, given) in app.take_profiles() {
        if !is_name(&name) {
            app.dropped(&given, "a profile's name is letters, digits, - and _");
            continue;
        }
        let Some(vars) = variables(app, &given) else { continue };
        let is_used = context.profile == Some(name.as_str());
        let used = if is_used { ", which is used" } else { "" };
        app.mapped(&given, &format!("[profile.{}.env]: {}{used}", bare(&name), count(&vars)));
        env.profiles.insert(name, vars);
    }
    if let Some(profile) = context.profile {
        if env.profiles.contains_key(profile) {
            env.profile = Some(profile.to_owned());
        } else {
            app.notes.push(format!("it has no env_{profile}: only what is in env is used"));
        }
    }
    per_worker(app, &mut env);
    env
}

/// Variables that differ between workers.
fn per_worker(app: &mut App, env: &mut Environment) {
    if let Some(given) = app.take("increment_var") {
        match text(&given.value).filter(|name| can_be_set(name)) {
            Some(name) => {
                let first = env.get(&name).and_then(|value| value.trim().parse::<u32>().ok());
                let value = match first {
                    Some(first @ 1..) => format!("{{{first} + slot}}"),
                    _ => "{slot}".to_owned(),
                };
                app.mapped(&given, &format!("[env_per_worker] {} = \"{value}\"", bare(&name)));
                env.remove(&name);
                env.per_worker.insert(name, value);
            }
            None => app.idle(&given, "it names no variable"),
        }
    }
    if let Some(given) = app.take("instance_var") {
        match text(&given.value).as_deref() {
            None | Some("NODE_APP_INSTANCE") => {
                app.replaced(&given, "NODE_APP_INSTANCE, which each worker has");
            }
            Some(name) if !can_be_set(name) => app.dropped(&given, "no variable can be called so"),
            Some(name) => {
                app.mapped(&given, &format!("[env_per_worker] {} = \"{{slot}}\"", bare(name)));
                env.per_worker.insert(name.to_owned(), "{slot}".to_owned());
            }
        }
    }
}

/// Whether a configuration can have a variable of this name.
fn can_be_set(name: &str) -> bool {
    can_be_called(name) && !RESERVED.contains(&name)
}

fn can_be_called(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn count(vars: &Variables) -> String {
    match vars.len() {
        1 => "1 variable".to_owned(),
        n => format!("{n} variables"),
    }
}

/// The variables of an object; those that can't be one are said to be dropped.
fn variables(app: &mut App, given: &Given) -> Option<Variables> {
    let Value::Object(object) = &given.value else {
        app.dropped(given, "expected an object of variables");
        return None;
    };
    let mut vars = Variables::new();
    for (name, value) in object {
        let mut lost = |why: &str| app.variable(given, name, Class::Dropped, why);
        let Some(value) = variable(value) else {
            lost(NO_VALUE);
            continue;
        };
        if !can_be_called(name) || value.contains('\0') {
            lost("no variable can be called so or hold that");
        } else if RESERVED.contains(&name.as_str()) {
            let by = "cohortd, which sets it for each worker";
            app.variable(given, name, Class::Replaced, by);
        } else {
            vars.insert(name.clone(), value);
        }
    }
    Some(vars)
}

/// Whether the app has the name of its profile behind its own.
pub(super) fn named_by_profile(app: &mut App, env: &Environment) -> Option<String> {
    let given = app.take("append_env_to_name")?;
    match &env.profile {
        Some(profile) if is_on(&given.value) => {
            app.mapped(&given, "the name");
            Some(profile.clone())
        }
        _ => {
            app.replaced(&given, "the name of the unit: NAME@PROFILE");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::looks_secret;

    #[test]
    fn secrets_are_known_by_their_name_or_their_url() {
        for (name, value) in [
            ("DB_PASSWORD", "x"),
            ("JWT_SECRET", "x"),
            ("githubToken", "x"),
            ("STRIPE_KEY", "x"),
            ("DATABASE_URL", "postgres://app:hunter2@db/app"),
            ("REDIS", "redis://:hunter2@10.0.0.1:6379/0"),
            ("SENTRY_DSN", "x"),
        ] {
            assert!(looks_secret(name, value), "{name}");
        }
        for (name, value) in [
            ("NODE_ENV", "production"),
            ("PORT", "3000"),
            ("DATABASE_URL", "postgres://db/app"),
            ("API", "https://example.org/a:b@c"),
            ("DB_PASSWORD", ""),
            ("KEYBOARD", "de"),
            ("MONKEY", "x"),
        ] {
            assert!(!looks_secret(name, value), "{name}");
        }
    }
}
