//! cron's language of times, as `OnCalendar=` has it (systemd.time(7)).

/// The months and days of the week by name, as cron takes them.
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What one field allows.
struct Field {
    name: &'static str,
    from: u32,
    to: u32,
    names: &'static [&'static str],
}

const SECOND: Field = Field { name: "the second", from: 0, to: 59, names: &[] };
const MINUTE: Field = Field { name: "the minute", from: 0, to: 59, names: &[] };
const HOUR: Field = Field { name: "the hour", from: 0, to: 23, names: &[] };
const DAY: Field = Field { name: "the day of the month", from: 1, to: 31, names: &[] };
const MONTH: Field = Field { name: "the month", from: 1, to: 12, names: &MONTHS };
/// 7 is Sunday as well.
const WEEKDAY: Field = Field { name: "the day of the week", from: 0, to: 7, names: &DAYS };

/// A calendar expression for a cron expression of five fields, or six with the seconds first.
///
/// # Errors
/// What in it `OnCalendar=` can't say.
pub(super) fn calendar(cron: &str) -> Result<String, String> {
    match cron.trim() {
        "@yearly" | "@annually" => return Ok("*-01-01 00:00:00".into()),
        "@monthly" => return Ok("*-*-01 00:00:00".into()),
        "@weekly" => return Ok("Sun *-*-* 00:00:00".into()),
        "@daily" | "@midnight" => return Ok("*-*-* 00:00:00".into()),
        "@hourly" => return Ok("*-*-* *:00:00".into()),
        _ => {}
    }
    let fields: Vec<&str> = cron.split_whitespace().collect();
    let (second, rest) = match fields.as_slice() {
        [second, rest @ ..] if rest.len() == 5 => (*second, rest),
        rest if rest.len() == 5 => ("0", rest),
        _ => return Err(format!("\"{cron}\" does not have the five or six fields of cron")),
    };
    let [minute, hour, day, month, weekday] = rest else {
        return Err(format!("\"{cron}\" does not have the five or six fields of cron"));
    };
    let (second, minute, hour) = (SECOND.read(second)?, MINUTE.read(minute)?, HOUR.read(hour)?);
    let last_day = day.eq_ignore_ascii_case("l");
    let day = if last_day { Vec::new() } else { DAY.read(day)? };
    let (month, weekdays) = (MONTH.read(month)?, weekdays(weekday)?);
    if weekdays.len() < 7 && (last_day || day.len() < 31) {
        return Err("cron means either of the day of the month and the day of the week, systemd \
                    both: write two timers"
            .into());
    }
    let week = if weekdays.len() == 7 { String::new() } else { week(&weekdays) + " " };
    let day = if last_day { "~01".to_owned() } else { format!("-{}", DAY.write(&day)) };
    Ok(format!(
        "{week}*-{}{day} {}:{}:{}",
        MONTH.write(&month),
        HOUR.write(&hour),
        MINUTE.write(&minute),
        SECOND.write(&second),
    ))
}

/// Days from 0, Sunday, to 6.
fn weekdays(text: &str) -> Result<Vec<u32>, String> {
    let mut days: Vec<u32> = WEEKDAY.read(text)?.into_iter().map(|day| day % 7).collect();
    days.sort_unstable();
    days.dedup();
    Ok(days)
}

/// Days of the week from Monday, those in a row as a range.
fn week(days: &[u32]) -> String {
    let name = |day: u32| ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][day as usize % 7];
    let mut from_monday: Vec<u32> = days.iter().map(|day| (day + 6) % 7).collect();
    from_monday.sort_unstable();
    runs(&from_monday)
        .into_iter()
        .flat_map(|(first, last)| match last - first {
            0 => vec![name(first).to_owned()],
            1 => vec![name(first).to_owned(), name(last).to_owned()],
            _ => vec![format!("{}..{}", name(first), name(last))],
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// The first and last of each row of numbers without a gap.
fn runs(sorted: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &n in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => runs.push((n, n)),
        }
    }
    runs
}

impl Field {
    /// Every value that a field of cron means.
    fn read(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut values = Vec::new();
        for part in text.split(',') {
            values.extend(self.part(part)?);
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    /// One of the parts between commas: `*`, `5`, `1-5`, each perhaps with `/2` behind it.
    fn part(&self, part: &str) -> Result<Vec<u32>, String> {
        let unclear = || format!("{} \"{part}\" has no counterpart in systemd", self.name);
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse().ok().filter(|n| *n > 0)),
            None => (part, Some(1_usize)),
        };
        let step = step.ok_or_else(unclear)?;
        let (from, to) = match range.split_once('-') {
            // 7 is Sunday again: once is enough.
            _ if range == "*" => (self.from, if self.names == DAYS { 6 } else { self.to }),
            Some((from, to)) => {
                let (from, to) = (self.value(from), self.value(to));
                // Fri-Sun
                let to = if self.names == DAYS && to == Some(0) { Some(7) } else { to };
                (from.ok_or_else(unclear)?, to.ok_or_else(unclear)?)
            }
            None => {
                let from = self.value(range).ok_or_else(unclear)?;
                (from, if part.contains('/') { self.to } else { from })
            }
        };
        if from > to { Err(unclear()) } else { Ok((from..=to).step_by(step).collect()) }
    }

    fn value(&self, text: &str) -> Option<u32> {
        let named = self.names.iter().position(|name| text.eq_ignore_ascii_case(name));
        match named {
            Some(n) => Some(n as u32 + if self.names == MONTHS { 1 } else { 0 }),
            None => text.parse().ok().filter(|n| (self.from..=self.to).contains(n)),
        }
    }

    /// As short as systemd takes it.
    fn write(&self, values: &[u32]) -> String {
        if values.len() as u32 == self.to - self.from + 1 {
            return "*".into();
        }
        if let [first, second, .., last] = values {
            let step = second - first;
            let even = values.windows(2).all(|pair| pair[1] - pair[0] == step);
            if even && step > 1 && last + step > self.to {
                return format!("{first:02}/{step}");
            }
        }
        runs(values)
            .into_iter()
            .flat_map(|(first, last)| match last - first {
                0 => vec![format!("{first:02}")],
                1 => vec![format!("{first:02}"), format!("{last:02}")],
                _ => vec![format!("{first:02}..{last:02}")],
            })
            .collect::<Vec<_>>()
            .join(",")
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::calendar;

    const TABLE: [(&str, &str); 22] = [
        ("0 4 * * *", "*-*-* 04:00:00"),
        ("0 0 * * *", "*-*-* 00:00:00"),
        ("* * * * *", "*-*-* *:*:00"),
        ("*/15 * * * *", "*-*-* *:00/15:00"),
        ("*/7 * * * *", "*-*-* *:00/7:00"),
        ("0 */6 * * *", "*-*-* 00/6:00:00"),
        ("30 2 * * 1-5", "Mon..Fri *-*-* 02:30:00"),
        ("30 2 * * mon-fri", "Mon..Fri *-*-* 02:30:00"),
        ("0 3 * * 0", "Sun *-*-* 03:00:00"),
        ("0 3 * * 7", "Sun *-*-* 03:00:00"),
        ("0 3 * * 6,0", "Sat,Sun *-*-* 03:00:00"),
        ("0 3 * * 5-7", "Fri..Sun *-*-* 03:00:00"),
        ("0 3 * * FRI-SUN", "Fri..Sun *-*-* 03:00:00"),
        ("0 3 * * 1,3,5", "Mon,Wed,Fri *-*-* 03:00:00"),
        ("15,45 8-18 * * *", "*-*-* 08..18:15,45:00"),
        ("0 0 1 * *", "*-*-01 00:00:00"),
        ("0 0 1,15 jan,JUL *", "*-01,07-01,15 00:00:00"),
        ("0 0 L * *", "*-*~01 00:00:00"),
        ("0 0 1 */3 *", "*-01/3-01 00:00:00"),
        ("*/10 * * * * *", "*-*-* *:*:00/10"),
        ("0 5/20 * * * *", "*-*-* *:05/20:00"),
        ("@weekly", "Sun *-*-* 00:00:00"),
    ];

    #[test]
    fn times_mean_the_same() {
        for (cron, wanted) in TABLE {
            assert_eq!(calendar(cron), Ok(wanted.to_owned()), "{cron}");
        }
    }

    #[test]
    fn what_systemd_can_t_say_is_refused() {
        for cron in [
            "",
            "@reboot",
            "* * * *",
            "* * * * * * *",
            "60 * * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 32 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "0 0 13 * 5",
            "0 0 L * 5",
            "0 0 15W * *",
            "0 0 * * 5#2",
            "0 0 * * 5L",
            "a * * * *",
            "1- * * * *",
            "? * * * *",
            "-1 * * * *",
            "0 0 * * mon-",
            "1,,2 * * * *",
        ] {
            assert!(calendar(cron).is_err(), "{cron:?}: {:?}", calendar(cron));
        }
    }

    #[test]
    fn the_table_is_what_systemd_understands() {
        for (_, expression) in TABLE {
            match Command::new("systemd-analyze").args(["calendar", expression]).output() {
                Ok(out) => assert!(out.status.success(), "{expression}: {out:?}"),
                Err(error) => eprintln!("SKIPPED: no systemd-analyze here: {error}"),
            }
        }
    }
}
