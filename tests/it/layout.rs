//! The files that decide do nothing else: no runtime, no clock, no system call.

use std::fs;
use std::path::{Path, PathBuf};

/// Files and folders under `src/`.
const PURE: [&str; 26] = [
    "config/template.rs",
    "ctl/import/cron.rs",
    "ctl/import/keys.rs",
    "ctl/import/relaxed.rs",
    "metrics/histogram.rs",
    "metrics/prom_client.rs",
    "metrics/tally.rs",
    "metrics/text.rs",
    "relay/bus/doors.rs",
    "relay/bus/hosts.rs",
    "relay/bus/parts.rs",
    "relay/bus/queue.rs",
    "relay/bus/wire.rs",
    "relay/envelope.rs",
    "relay/fanout.rs",
    "relay/status.rs",
    "route/affinity.rs",
    "route/forward/found.rs",
    "route/head.rs",
    "route/plain/field.rs",
    "route/plain/request.rs",
    "route/plain/response.rs",
    "route/table.rs",
    "route/websocket.rs",
    "supervisor/fleet",
    "worker/wire",
];

/// Where their imports may begin. The libraries are pure themselves.
const ALLOWED: [&str; 17] = [
    "crate::fnv",
    "crate::relay::bus::wire",
    "crate::relay::fanout",
    "crate::relay::status",
    "std::",
    "bytes::",
    "serde::",
    "serde_json::",
    "super::",
    "crate::worker::WorkerId",
    "crate::worker::wire",
    "framing::",
    "message::",
    "value::",
    "policy::",
    "report::",
    "slot::",
];

/// What the standard library has that is not pure, and what libraries are named in full.
const FORBIDDEN: [&str; 12] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "tokio",
    "rustix",
    "hyper",
];

fn files(path: PathBuf) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path];
    }
    let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    entries.flat_map(|entry| files(entry.expect("an entry").path())).collect()
}

#[test]
fn pure_files_are_pure() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    let is_test = |file: &PathBuf| file.ends_with("simulation.rs") || file.ends_with("tests.rs");
    let pure = PURE.iter().flat_map(|name| files(src.join(name))).filter(|file| !is_test(file));
    for file in pure {
        let text = fs::read_to_string(&file).expect("readable");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
            let import = line.strip_prefix("pub use ").or_else(|| line.strip_prefix("use "));
            let allowed = import.is_none_or(|path| {
                ALLOWED.iter().any(|start| path.starts_with(start))
                    || path
                        .trim_end_matches(';')
                        .split("::")
                        .next()
                        .is_some_and(|m| file.with_file_name(format!("{m}.rs")).exists())
            });
            assert!(allowed, "{}: {line}", file.display());
            let found = FORBIDDEN.iter().find(|word| line.contains(*word));
            assert!(found.is_none(), "{}: {line}", file.display());
        }
        seen += 1;
    }
    assert!(seen > 12, "only {seen} files found");
}
