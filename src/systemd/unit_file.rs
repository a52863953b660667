//! The files that `cohortctl add` writes: where units are, and how all are known.

use std::path::Path;

use crate::config::Config;

/// Where an administrator's units live. A generator's could not be enabled.
pub const FOLDER: &str = "/etc/systemd/system";

/// How every file of ours begins, in a unit and in XML: what does not begin so is not overwritten or
/// removed.
const MARKS: [&str; 2] = ["# Written by cohortctl add ", "<!-- Written by cohortctl add "];

/// The text of a file, if it is one of ours.
pub fn read(path: &Path) -> Option<String> {
    let ours = |text: &String| MARKS.iter().any(|mark| text.starts_with(mark));
    std::fs::read_to_string(path).ok().filter(ours)
}

/// Warns when the app's timer does not do what `[reload] schedule` says: only `cohortctl add`
/// writes it.
pub fn compare_schedule(config: &Config) {
    let timer = read(&Path::new(FOLDER).join(format!("{}-reload.timer", config.app)));
    let timer = timer.iter().flat_map(|text| text.lines());
    let timer = timer.filter_map(|line| line.strip_prefix("OnCalendar=")).next();
    let schedule = config.reload.schedule();
    if timer != schedule {
        tracing::warn!(
            schedule = schedule.unwrap_or("none"),
            timer = timer.unwrap_or("none"),
            "[reload] schedule is not what the timer does: run `cohortctl add {}`",
            config.app
        );
    }
}
