//! The same with the app as a service: the test itself runs inside a machine with a systemd, where
//! processes, cgroups, sockets and systemctl are at hand.

use std::fs;
use std::io::{self, BufRead, BufReader};

use super::service::{KIND, Service};
use super::{Chaos, log_file};
use crate::app::{INSIDE, js};
use crate::machine::{Machine, Suite};
use crate::sdbox::{self, Sdbox};
use crate::systemd::{JS, installed};

const PROGRAM: &str = "/usr/bin/it";

/// Seconds, for an ordinary run of the tests.
const SHORT: u64 = 20;

/// The last digit of the seed chooses the systemd: 252 if it is even.
#[test]
fn chaos_is_survived_as_a_service() {
    if !sdbox::require() {
        return;
    }
    let Chaos { seed, seconds } = Chaos::from_environment(SHORT);
    let suite = Suite::ALL[seed as usize % Suite::ALL.len()];
    eprintln!("--- {suite:?}");
    let (js, this) = (js(), std::env::current_exe().expect("it runs"));
    let mut binds = installed(&js).to_vec();
    binds.push((&this, PROGRAM));
    let machine = Sdbox::boot(suite, &binds);

    let environment = [
        format!("{INSIDE}={JS}"),
        format!("CHAOS_SEED={seed}"),
        format!("CHAOS_SECONDS={seconds}"),
    ];
    let mut line = vec!["env"];
    line.extend(environment.iter().map(String::as_str));
    line.extend([PROGRAM, "chaos::inside::the_test_itself", "--exact", "--ignored", "--nocapture"]);
    let (said, says) = io::pipe().expect("a pipe");
    let mut run = machine.command(&line);
    run.stdout(says.try_clone().expect("another end")).stderr(says);
    let mut run_inside = run.spawn().expect("tests/rig/sdbox starts");
    drop(run); // and with it this end of the pipe
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        eprintln!("{line}");
    }
    let status = run_inside.wait().expect("our own child");
    let log = log_file(seed, KIND);
    let text = machine.run(&["cat", &log.to_string_lossy()]).stdout;
    fs::write(log, text).expect("written");
    assert!(status.success(), "{suite:?}: it was not");
}

#[test]
#[ignore = "for chaos_is_survived_as_a_service, which runs it inside a machine"]
fn the_test_itself() {
    if std::env::var_os(INSIDE).is_some() {
        Chaos::from_environment(SHORT).survive(|spec, begun| Box::new(Service::start(spec, begun)));
    }
}
