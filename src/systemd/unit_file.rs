//! The files that `cohortctl add` writes: where units are, how all are known, and whether somebody has
//! edited one since.

use std::path::Path;

use crate::config::Config;
use crate::fnv;

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

/// How the last line of every file of ours begins and ends. Between them is the checksum of what stands
/// above.
const SEALS: [(&str, &str); 2] = [
    ("# An upgrade writes this anew while its checksum is ", ""),
    ("<!-- An upgrade writes this anew while its checksum is ", " -->"),
];

/// A text of ours with its last line.
pub fn sealed(text: &str) -> String {
    let (begin, end) = SEALS[usize::from(text.starts_with('<'))];
    format!("{text}{begin}{:016x}{end}\n", fnv::hash(text.as_bytes()))
}

/// Whether a text is as some version has written it: nobody has edited it.
pub fn is_sealed(text: &str) -> bool {
    let body = text.trim_end_matches('\n').rfind('\n').map(|end| &text[..=end]);
    body.is_some_and(|body| sealed(body) == text)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_seen() {
        for text in ["# Written by cohortctl add x\n[Unit]\n", "<!-- Written -->\n<a/>\n"] {
            let whole = sealed(text);
            assert!(whole.starts_with(text) && is_sealed(&whole), "{whole}");
            for edited in [
                text.to_owned(),
                whole.replace('\n', "\n\n"),
                whole.replacen('W', "w", 1),
                format!("{whole}[Service]\n"),
                whole.trim_end().to_owned(),
            ] {
                assert!(!is_sealed(&edited), "{edited}");
            }
        }
        assert!(!is_sealed("") && !is_sealed("\n"));
        // What is in files must be what later versions find.
        assert!(sealed("foobar").contains("85944171f73967e8"));
    }
}
