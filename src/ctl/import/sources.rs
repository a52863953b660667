//! The forms in which apps are written down for PM2, and where in them the apps are.

use std::path::Path;

use serde_json::{Map, Value};

use super::report::{Class, Entry};
use super::{dump, keys, relaxed, yaml};

/// How a source is read, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A program of Node's that has the apps as its value.
    Script,
    /// JSON, also with comments; `pm2 save` writes it.
    Json,
    /// A package's description, with more in it than apps.
    Package,
    Yaml,
}

/// One app of a source.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) keys: Map<String, Value>,
    /// What is already known not to be carried over.
    pub(super) removed: Vec<Entry>,
    /// What to look at, whatever it says.
    pub(super) note: Option<&'static str>,
}

impl Listed {
    /// As it was written down.
    pub(super) fn plain(keys: Map<String, Value>) -> Listed {
        Listed { keys, removed: Vec::new(), note: None }
    }
}

/// Everything in a source.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) apps: Vec<Listed>,
    /// What stands beside the apps.
    pub(super) beside: Vec<Entry>,
}

/// The form of a file.
///
/// # Errors
/// What the names of such files end in.
pub(super) fn form(file: &Path) -> Result<Form, String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    match file.extension().and_then(|extension| extension.to_str()) {
        _ if name == "package.json" => Ok(Form::Package),
        Some("js" | "cjs" | "mjs") => Ok(Form::Script),
        Some("json" | "json5" | "jsonc" | "pm2" | "bak") => Ok(Form::Json),
        Some("yml" | "yaml") => Ok(Form::Yaml),
        _ => Err("expected a file that ends in .js, .cjs, .mjs, .json, .yml, .yaml or .pm2".into()),
    }
}

/// Reads a text that is no program.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn read(form: Form, text: &str) -> Result<Value, String> {
    match form {
        Form::Yaml => yaml::read(text),
        _ => serde_json::from_str(&relaxed::strict(text)).map_err(|error| {
            format!(
                "{error}. Names and texts have to be in double quotes; what is JavaScript is read \
                 from a file that ends in .config.js"
            )
        }),
    }
}

/// Finds the apps.
///
/// # Errors
/// There are none.
pub(super) fn find(form: Form, value: Value) -> Result<Found, String> {
    let none = || "there are no apps in it: expected apps: [{ script: … }]".to_owned();
    let mut found = Found::default();
    let items = match value {
        Value::Array(items) => items,
        Value::Object(mut map) => {
            let list = map.remove("apps").or_else(|| map.remove("pm2"));
            match list {
                Some(list) => {
                    if form != Form::Package {
                        found.beside = map.into_iter().map(|(key, _)| beside(key)).collect();
                    }
                    let inner = list.get("apps").cloned().unwrap_or(list);
                    if let Value::Array(items) = inner { items } else { vec![inner] }
                }
                None if form != Form::Package && is_app(&map) => vec![Value::Object(map)],
                None => return Err(none()),
            }
        }
        _ => return Err(none()),
    };
    if items.is_empty() {
        return Err(none());
    }
    if items.iter().all(dump::is_process) {
        found.apps = dump::apps(items);
        return Ok(found);
    }
    for item in items {
        match item {
            Value::Object(keys) => found.apps.push(Listed::plain(keys)),
            Value::String(script) => {
                let keys = Map::from_iter([("script".to_owned(), script.into())]);
                found.apps.push(Listed::plain(keys));
            }
            other => return Err(format!("expected an app, found {other}")),
        }
    }
    Ok(found)
}

fn is_app(map: &Map<String, Value>) -> bool {
    map.keys().any(|word| keys::key(word).is_some_and(|key| key.name == "script"))
}

fn beside(key: String) -> Entry {
    if key == "deploy" {
        let note = "deploying is done by what deploys; then systemctl reload NAME".to_owned();
        Entry { key, class: Class::Dropped, note, matters: false }
    } else {
        Entry { key, class: Class::Unknown, note: String::new(), matters: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn apps_are_found_wherever_pm2_finds_them() {
        let app = json!({"script": "a.js"});
        for (form, value) in [
            (Form::Script, json!({"apps": [app]})),
            (Form::Script, json!({"apps": app})),
            (Form::Json, json!([app])),
            (Form::Json, app.clone()),
            (Form::Json, json!({"cmd": "a.js"})),
            (Form::Package, json!({"name": "x", "pm2": [app]})),
            (Form::Package, json!({"name": "x", "pm2": app})),
            (Form::Package, json!({"name": "x", "pm2": {"apps": [app]}})),
            (Form::Package, json!({"name": "x", "apps": [app]})),
        ] {
            let found = find(form, value.clone()).unwrap_or_else(|e| panic!("{value}: {e}"));
            assert_eq!((found.apps.len(), found.beside.len()), (1, 0), "{value}");
        }
        for (form, value) in [
            (Form::Package, json!({"name": "x", "script": "y"})),
            (Form::Json, json!({"name": "x"})),
            (Form::Json, json!({"apps": []})),
            (Form::Json, json!("x")),
            (Form::Json, json!([1])),
        ] {
            assert!(find(form, value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn what_stands_beside_is_told() {
        let value = json!({"apps": [{"script": "a"}], "deploy": {}, "appz": 1});
        let beside = find(Form::Script, value).expect("an app").beside;
        let told: Vec<_> = beside.iter().map(|entry| (entry.key.as_str(), entry.class)).collect();
        assert_eq!(told, [("appz", Class::Unknown), ("deploy", Class::Dropped)]);
    }
}
