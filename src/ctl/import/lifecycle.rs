//! When a worker is ready, how it is stopped, started again and replaced, and as whom it runs.

use serde_json::Value;

use super::app::App;
use super::cron;
use super::values::{duration, is_on, milliseconds, size, text};
use crate::config::Kind;
use crate::ctl::hardening;

/// PM2's own defaults: said or not, they are not carried over.
const KILL_TIMEOUT: u64 = 1600;
const LISTEN_TIMEOUT: u64 = 3000;

/// Where PM2's exponential backoff ends.
const LONGEST_BACKOFF: u64 = 15_000;

/// The least that `[memory]` takes.
const LEAST_MEMORY: &str = "16M";

const A_TIME: &str = "expected milliseconds";

/// `[ready]`.
pub(super) fn ready(app: &mut App, kind: Kind) {
    if let Some(given) = app.take("wait_ready") {
        match (is_on(&given.value), kind) {
            (true, Kind::Node) => {
                app.toml.set("ready", "when", "message");
                app.mapped(&given, "[ready] when = \"message\"");
            }
            (true, _) => app.dropped(
                &given,
                "a job has no IPC channel: process.send is not there; it can send READY=1 to \
                 NOTIFY_SOCKET, with [ready] when = \"notify\"",
            ),
            (false, _) => app.idle(&given, "it is off"),
        }
    }
    if let Some(given) = app.take("listen_timeout") {
        match milliseconds(&given.value) {
            Some(0 | LISTEN_TIMEOUT) => app.replaced(&given, "the default here, 30s"),
            Some(millis) => {
                let time = duration(millis);
                app.toml.set("ready", "timeout", time.as_str());
                app.mapped(&given, &format!("[ready] timeout = \"{time}\""));
                app.notes.push(format!(
                    "a worker that is not ready after {time} has failed here; for PM2 it was \
                     online then"
                ));
            }
            None => app.dropped(&given, A_TIME),
        }
    }
}

/// `[stop]`.
pub(super) fn stop(app: &mut App, kind: Kind) {
    let mut method = "SIGINT";
    if let Some(given) = app.take("shutdown_with_message") {
        match (is_on(&given.value), kind) {
            (true, Kind::Node) => {
                method = "message:shutdown";
                app.mapped(&given, "[stop] method = [\"message:shutdown\"]");
            }
            (true, _) => app.dropped(&given, "a job has no IPC channel: it is sent SIGINT"),
            (false, _) => app.idle(&given, "it is off"),
        }
    }
    app.toml.set("stop", "method", vec![method]);
    if let Some(given) = app.take("kill_timeout") {
        match milliseconds(&given.value) {
            Some(KILL_TIMEOUT) => app.replaced(&given, "the default here, 10s"),
            Some(millis) => {
                let time = duration(millis);
                app.toml.set("stop", "timeout", time.as_str());
                app.mapped(&given, &format!("[stop] timeout = \"{time}\""));
            }
            None => app.dropped(&given, A_TIME),
        }
    }
    if let Some(given) = app.take("treekill") {
        if is_on(&given.value) {
            app.replaced(&given, "the worker's cgroup, which ends with everything in it");
        } else {
            app.dropped(&given, "what a worker has started always ends with it");
        }
    }
}

/// `[reload]`, and what has to do with the clock.
pub(super) fn schedule(app: &mut App, name: &str, once: bool, has_port: bool, kind: Kind) {
    let Some(given) = app.take("cron_restart") else { return };
    if !is_on(&given.value) {
        return app.idle(&given, "it is off");
    }
    let Some(cron) = text(&given.value) else {
        return app.dropped(&given, "expected the five or six fields of cron");
    };
    match cron::calendar(&cron) {
        Ok(calendar) if once => app.dropped(
            &given,
            &format!(
                "work that ends and is started by the clock is for a timer, without cohortd: \
                 systemd-run --unit={name} --on-calendar='{calendar}' …, or a .timer file"
            ),
        ),
        Ok(calendar) => {
            app.toml.set("reload", "schedule", calendar.as_str());
            app.mapped(&given, &format!("[reload] schedule = \"{calendar}\""));
            if kind == Kind::Job && has_port {
                app.notes.push(
                    "the scheduled reload starts the new process beside the old one, and both want \
                     the port: it would fail"
                        .to_owned(),
                );
            }
        }
        Err(why) => app.dropped(&given, &why),
    }
}

/// `[restart]`; whether it is started again at all.
pub(super) fn restart(app: &mut App) -> bool {
    let mut goes_on = true;
    if let Some(given) = app.take("autorestart") {
        goes_on = is_on(&given.value);
        if goes_on {
            app.replaced(&given, "[restart] policy = \"always\", the default");
        } else {
            app.toml.set("restart", "policy", "never");
            app.mapped(&given, "[restart] policy = \"never\"");
        }
    }
    backoff(app);
    if let Some(given) = app.take("stop_exit_codes") {
        let codes: Option<Vec<i64>> = match &given.value {
            Value::Array(items) => items.iter().map(code).collect(),
            one => code(one).map(|code| vec![code]),
        };
        match codes {
            Some(codes) if codes.is_empty() => app.idle(&given, "it names none"),
            Some(codes) => {
                app.mapped(&given, &format!("[restart] stop_on_exit = {codes:?}"));
                app.toml.set("restart", "stop_on_exit", codes);
            }
            None => app.dropped(&given, "expected exit codes from 0 to 255"),
        }
    }
    goes_on
}

/// An exit code.
fn code(value: &Value) -> Option<i64> {
    text(value)?.trim().parse().ok().filter(|code| (0..=255).contains(code))
}

fn backoff(app: &mut App) {
    let grows = app.take("exp_backoff_restart_delay");
    let fixed = app.take("restart_delay");
    let is_growing = grows.as_ref().is_some_and(|given| is_on(&given.value));
    for (given, grows) in [(grows, true), (fixed, false)] {
        let Some(given) = given else { continue };
        match milliseconds(&given.value) {
            _ if !is_on(&given.value) => app.idle(&given, "it is off"),
            None => app.dropped(&given, A_TIME),
            Some(_) if is_growing && !grows => {
                app.idle(&given, "exp_backoff_restart_delay says otherwise");
            }
            Some(millis) => {
                let last = if grows { millis.max(LONGEST_BACKOFF) } else { millis };
                let range = format!("{}..{}", duration(millis), duration(last));
                app.toml.set("restart", "backoff", range.as_str());
                app.mapped(&given, &format!("[restart] backoff = \"{range}\""));
            }
        }
    }
}

/// `[memory]`.
pub(super) fn memory(app: &mut App) {
    let Some(given) = app.take("max_memory_restart") else { return };
    if !is_on(&given.value) {
        return app.idle(&given, "it is off");
    }
    match size(&given.value) {
        Some(size) if bytes(&size) >= bytes(LEAST_MEMORY) => {
            app.toml.set("memory", "recycle_at", size.as_str());
            app.mapped(&given, &format!("[memory] recycle_at = \"{size}\""));
        }
        Some(size) => {
            app.dropped(
                &given,
                &format!("{size} is less than {LEAST_MEMORY}, and nothing runs in it"),
            );
        }
        None => app.dropped(&given, "expected a size such as \"400M\""),
    }
}

/// What [`size`] has written, as a number.
fn bytes(size: &str) -> u64 {
    let unit_at = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let (number, unit) = size.split_at(unit_at);
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => 0,
    };
    number.parse::<u64>().unwrap_or(0) << shift
}

/// Watching files.
pub(super) fn watch(app: &mut App, name: &str) {
    let watch = app.take("watch");
    let is_watched = watch.as_ref().is_some_and(|given| is_on(&given.value));
    if let Some(given) = watch {
        if is_watched {
            app.dropped(
                &given,
                &format!(
                    "no files are watched: say `systemctl reload {name}` after a deploy, or have a \
                     .path unit say it"
                ),
            );
        } else {
            app.idle(&given, "it is off");
        }
    }
    for key in ["watch_delay", "ignore_watch", "watch_options"] {
        if let Some(given) = app.take(key) {
            app.idle(&given, "no files are watched");
        }
    }
}

/// What is the unit's affair; the user, if the source names one.
pub(super) fn unit(app: &mut App, name: &str) -> Option<String> {
    let uid = app.take("uid");
    let user = uid.as_ref().and_then(|given| text(&given.value)).filter(|user| is_word(user));
    if let Some(given) = uid {
        match &user {
            Some(user) => app.unit(&given, &format!("User=: cohortctl add {name} --user {user}")),
            None => app.dropped(&given, "expected a user"),
        }
    }
    if let Some(given) = app.take("gid") {
        match text(&given.value).filter(|group| is_word(group)) {
            Some(group) => {
                app.unit(&given, &format!("Group={group}"));
                app.drop_in.push(("Service", format!("Group={group}")));
            }
            None => app.dropped(&given, "expected a group"),
        }
    }
    if let Some(given) = app.take("namespace") {
        match text(&given.value).as_deref() {
            None | Some("" | "default") => app.idle(&given, "it is the default"),
            Some(space) => {
                // A dash would make it a slice within a slice.
                let is_its = |c: char| c.is_ascii_alphanumeric();
                let slice = space.replace(|c: char| !is_its(c), "_");
                app.unit(&given, &format!("Slice={slice}.slice: systemctl stop {slice}.slice"));
                app.drop_in.push(("Service", format!("Slice={slice}.slice")));
                // It is cohortd's to divide, there too.
                let cgroup = hardening::cgroup(&format!("{slice}.slice"), name);
                app.drop_in.push(("Service", format!("ReadWritePaths={cgroup}")));
            }
        }
    }
    if let Some(given) = app.take("autostart") {
        if is_on(&given.value) {
            app.replaced(&given, "systemctl enable");
        } else {
            app.replaced(&given, "systemctl enable, which is then not said");
        }
    }
    user
}

/// Nothing that means something to a shell or a unit file.
fn is_word(text: &str) -> bool {
    let is_its = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty() && text.chars().all(is_its) && !text.starts_with('-')
}
