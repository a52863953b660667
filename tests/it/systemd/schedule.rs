//! `[reload] schedule`: a timer that is there while the app runs, and never when it does not.

use super::*;

const FILE: &str = "/etc/cohortd/myapp.toml";
const UNITS: [&str; 2] = ["myapp-reload.timer", "myapp-reload.service"];

impl Host {
    /// Sets or takes away the schedule of `myapp`, in its file only.
    fn schedule(&self, schedule: Option<&str>) {
        let text = self.ok(&format!("cat {FILE}"));
        let text = text.split("\n[reload]").next().expect("there is a first");
        let line = schedule.map(|on| format!("schedule = \"{on}\"\n")).unwrap_or_default();
        self.write(FILE, &format!("{text}\n[reload]\ncanary = \"200ms\"\n{line}"));
    }

    fn add_again(&self) -> String {
        self.ok("cohortctl add myapp --user myapp")
    }

    /// `myapp` with this schedule, added and not started.
    fn add_scheduled(&self, schedule: &str) {
        self.add_text(WEB);
        self.schedule(Some(schedule));
        let said = self.add_again();
        assert!(said.contains(&format!("myapp-reload.timer reloads it: {schedule}")), "{said}");
    }

    fn timer(&self) -> String {
        self.show("myapp-reload.timer", "ActiveState")
    }

    fn generation(&self) -> u64 {
        let shown = self.ok("cohortctl show myapp --json");
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        shown["generation"].as_u64().expect("a number")
    }

    /// Waits for a moment in which the app is being reloaded.
    fn is_rolling(&self) {
        self.is_soon("a roll", || self.show("myapp", "ActiveState") == "reloading");
    }

    fn failed(&self) -> String {
        self.ok("systemctl list-units --failed --plain --no-legend")
    }

    /// How often the running cohortd has complained about the timer.
    fn warnings(&self) -> usize {
        let pid = self.main_pid();
        let log = self.journal(&format!("-p warning _PID={pid}"));
        log.matches("is not what the timer does: run `cohortctl add myapp`").count()
    }
}

/// By the clock the workers are replaced as by `systemctl reload`: no client notices. The timer
/// comes and goes with the app, whatever ends it, and nothing is failed that was only stopped.
#[test]
fn an_app_is_reloaded_by_the_clock_while_it_runs() {
    on_each(|host| {
        host.add_scheduled("*:*:*");
        host.is_soon("no timer without the app", || host.timer() == "inactive");
        host.ok("systemctl enable --now myapp.socket myapp@cluster");
        assert_eq!(host.timer(), "active");
        let (main, load) = (host.main_pid(), host.load("load"));
        host.is_soon("rolled twice", || host.generation() > 2);
        assert_eq!(host.main_pid(), main);
        let seen = load.stop();
        assert_eq!(seen["failures"], serde_json::json!({}), "{seen}");

        host.is_rolling();
        host.ok("systemctl restart myapp");
        assert_eq!(host.timer(), "active");
        host.is_soon("rolled after a restart", || host.generation() > 1);

        host.ok("systemctl kill -s KILL --kill-who=main myapp");
        assert_eq!(host.timer(), "active");
        host.becomes(ALL_ACTIVE);
        host.is_soon("rolled after a crash", || {
            host.states() == ALL_ACTIVE
                && host.run("cohortctl show myapp").code == 0
                && host.generation() > 1
        });

        host.is_rolling();
        host.ok("systemctl stop myapp");
        host.becomes(ALL_INACTIVE);
        for unit in UNITS {
            host.is_soon("stopped too", || host.show(unit, "ActiveState") == "inactive");
        }
        assert_eq!(host.failed(), "");
        assert_eq!(host.processes(), [""; 0]);

        // Somebody asks for it all the same.
        host.ok("systemctl start myapp-reload.service");
        host.ok("systemctl start myapp-reload.timer");
        host.is_soon("not needed", || host.timer() == "inactive");
        assert_eq!((host.states().as_str(), host.failed().as_str()), (ALL_INACTIVE, ""));

        // An app that ends for good takes it along.
        host.ok("systemctl start myapp@cluster");
        assert_eq!(host.timer(), "active");
        host.write(FILE, "exec = []");
        host.run("systemctl restart myapp");
        host.is_soon("failed", || host.show("myapp", "SubState") == "failed");
        host.is_soon("gone", || host.timer() == "inactive");
    });
}

/// A roll that failed is a failed unit, with its log; the next one that does not fail clears it.
#[test]
fn a_roll_by_the_clock_that_fails_is_seen() {
    on_each(|host| {
        host.add_scheduled("*:*:*");
        host.ok("systemctl start myapp@cluster");
        host.is_soon("rolled", || host.generation() > 1);
        host.write("/srv/myapp/app.js", "throw new Error('a broken release')");
        // The reload that was under way may still have seen the old file.
        let result = || host.show("myapp-reload.service", "Result");
        host.is_soon("failed", || result() == "exit-code");
        let old = host.processes();
        host.logs("-p err", "was given up");
        let log = || host.ok("journalctl --no-pager -u myapp-reload.service");
        host.is_soon("why", || log().contains("Job for myapp.service failed"));
        // Of the last one that ended: the next may just have begun.
        let status = || host.run("systemctl status myapp-reload.service").stdout;
        host.is_soon("its status too", || status().contains("Job for myapp.service failed"));
        let failed = || log().matches("Failed with result 'exit-code'").count();
        host.is_soon("still so at the next one", || failed() > 1);
        assert_eq!(host.states().replace("reloading", "active"), ALL_ACTIVE);
        let serving = host.get("http://127.0.0.1:8080");
        assert!(old.contains(&serving), "{serving} is none of {old:?}");

        host.write("/srv/myapp/app.js", WEB);
        host.is_soon("mended", || result() == "success" && host.failed().is_empty());
    });
}

/// The timer is that of the last `cohortctl add`. A running app whose file says something else
/// says so, whichever way it came to it.
#[test]
fn a_changed_schedule_takes_effect_with_add() {
    on_each(|host| {
        let calendar = || host.show("myapp-reload.timer", "TimersCalendar");
        host.add_text(WEB);
        host.ok("systemctl start myapp@cluster");
        assert_eq!(host.warnings(), 0);

        host.schedule(Some("Mon *-*-* 04:00"));
        host.ok("systemctl reload myapp");
        assert_eq!(host.warnings(), 1);
        host.ok("systemctl restart myapp");
        assert_eq!(host.warnings(), 1, "the new one sees it as well");
        assert_eq!(host.timer(), "inactive");
        host.add_again();
        assert_eq!(host.timer(), "active", "the app runs");
        assert!(calendar().contains("OnCalendar=Mon *-*-* 04:00:00"), "{}", calendar());
        assert_ne!(host.show("myapp-reload.timer", "NextElapseUSecRealtime"), "");
        host.ok("systemctl reload myapp");
        assert_eq!(host.warnings(), 1);

        host.schedule(Some("*:*:*"));
        host.ok("systemctl reload myapp");
        assert_eq!(host.warnings(), 2);
        let before = host.generation();
        host.add_again();
        host.is_soon("rolled by the new one", || host.generation() > before + 1);

        host.schedule(None);
        let main = host.main_pid();
        host.is_soon("a roll by the clock sees it", || host.warnings() > 2);
        host.write("/srv/myapp/app.js", "throw new Error('a broken release')");
        host.is_soon("failed", || host.failed().contains("myapp-reload.service"));
        let said = host.add_again();
        assert!(!said.contains("timer"), "{said}");
        assert_eq!(host.failed(), "", "what is gone can't have failed");
        assert_eq!(host.ok("find /etc/systemd -name *-reload*"), "");
        let left = "systemctl list-units --all --plain --no-legend myapp-reload*";
        host.is_soon("nothing is left", || host.ok(left).is_empty());
        assert_eq!(host.main_pid(), main);
        host.write("/srv/myapp/app.js", WEB);
        // The last one by the clock may still be under way.
        host.is_soon("reloaded", || host.run("systemctl reload myapp").code == 0);
        let warnings = host.warnings();
        host.ok("systemctl reload myapp");
        assert_eq!(host.warnings(), warnings);

        // Nor of one that was never needed.
        host.ok("systemctl stop myapp");
        for schedule in [Some("daily"), None, Some("daily")] {
            host.schedule(schedule);
            host.add_again();
            let units = host.ok("find /etc/systemd -name *-reload*").lines().count();
            assert_eq!(units, if schedule.is_some() { 2 } else { 0 });
        }
        host.ok("cohortctl remove myapp");
        assert_eq!(host.ok("find /etc/systemd -name *myapp*"), "");
        assert_eq!(host.ok("systemctl list-units --all --plain --no-legend myapp*"), "");
    });
}

/// What systemd can't read is refused with its place before anything is written, and no app can
/// have the names of another's timer.
#[test]
fn a_schedule_that_systemd_can_t_read_is_refused() {
    on_each(|host| {
        host.add_scheduled("Mon..Fri 04:00 Europe/Berlin");
        host.ok("cohortctl check myapp");
        let units = || host.ok("cat /etc/systemd/system/myapp-reload.timer");
        let before = units();
        host.schedule(Some("dayly"));
        let wrong = format!("{FILE}:7:12: Failed to parse calendar specification 'dayly'");
        for command in ["cohortctl check myapp", "cohortctl add myapp --user myapp"] {
            let refused = host.run(command);
            assert_eq!(refused.code, 78, "{refused}");
            assert!(refused.stderr.contains(&wrong), "{refused}");
        }
        assert_eq!(units(), before);

        let refused = host.try_add("myapp-reload", "app.js", "8081");
        assert!(refused.code == 1 && refused.stderr.contains("not ending in -reload"), "{refused}");
        assert_eq!(host.run("cohortctl remove myapp-reload").code, 1);
        assert_eq!(units(), before);
    });
}

/// A timer of that name that somebody else has made is none of ours.
#[test]
fn somebody_else_s_timer_is_left_alone() {
    on_each(|host| {
        host.add_text(WEB);
        let path = "/etc/systemd/system/myapp-reload.timer";
        host.write(path, "[Timer]\nOnCalendar=yearly\nUnit=mine.service\n");
        host.write("/etc/systemd/system/mine.service", "[Service]\nExecStart=/bin/true\n");
        host.ok("systemctl daemon-reload");
        host.ok("systemctl start myapp-reload.timer myapp@cluster");
        host.add_again();
        assert_eq!((host.timer().as_str(), host.warnings()), ("active", 0));

        host.schedule(Some("daily"));
        let refused = host.run("cohortctl add myapp --user myapp");
        assert!(refused.code == 1 && refused.stderr.contains(path), "{refused}");
        host.ok("cohortctl remove myapp");
        assert_eq!(host.timer(), "active");
    });
}
