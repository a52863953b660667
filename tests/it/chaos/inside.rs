//! The same with the app as a service: the test itself runs inside a machine with a systemd, where
//! processes, cgroups, sockets and systemctl are at hand.

use std::fs;
use std::io::{self, BufRead, BufReader};

use super::rounds;
use super::service::Service;
use super::{Chaos, any_seed, environment, log_file};
use crate::app::{INSIDE, js};
use crate::machine::{Machine, Suite};
use crate::sdbox::{self, Sdbox};
use crate::systemd::{JS, installed};

const PROGRAM: &str = "/usr/bin/it";

/// Seconds, for an ordinary run of the tests.
const SHORT: u64 = 20;

/// Rounds, for the same.
const FEW: u64 = 5;

/// For the names of files.
const CHAOS: &str = "service";
const ROUNDS: &str = "rounds";

/// Runs a test of this module in a machine.
fn inside(suite: Suite, test: &str, kind: &str, seed: u64, more: String) {
    if !sdbox::require() {
        return;
    }
    eprintln!("--- {suite:?}");
    let (js, this) = (js(), std::env::current_exe().expect("it runs"));
    let mut binds = installed(&js).to_vec();
    binds.push((&this, PROGRAM));
    let machine = Sdbox::boot(suite, &binds);

    let environment = [format!("{INSIDE}={JS}"), format!("CHAOS_SEED={seed}"), more];
    let mut line = vec!["env"];
    line.extend(environment.iter().map(String::as_str));
    let test = format!("chaos::inside::{test}");
    line.extend([PROGRAM, &test, "--exact", "--ignored", "--nocapture"]);
    let (said, says) = io::pipe().expect("a pipe");
    let mut run = machine.command(&line);
    run.stdout(says.try_clone().expect("another end")).stderr(says);
    let mut run_inside = run.spawn().expect("tests/rig/sdbox starts");
    drop(run); // and with it this end of the pipe
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        eprintln!("{line}");
    }
    let status = run_inside.wait().expect("our own child");
    let log = log_file(seed, kind);
    let text = machine.run(&["cat", &log.to_string_lossy()]).stdout;
    fs::write(log, text).expect("written");
    assert!(status.success(), "{suite:?}: it was not");
}

/// The seed chooses the systemd as well: 252 if it is even.
#[test]
fn chaos_is_survived_as_a_service() {
    let Chaos { seed, seconds } = Chaos::from_environment(SHORT);
    let suite = Suite::ALL[seed as usize % Suite::ALL.len()];
    inside(suite, "the_chaos_itself", CHAOS, seed, format!("CHAOS_SECONDS={seconds}"));
}

#[test]
#[ignore = "for chaos_is_survived_as_a_service, which runs it inside a machine"]
fn the_chaos_itself() {
    if std::env::var_os(INSIDE).is_some() {
        let chaos = Chaos::from_environment(SHORT);
        chaos.survive(|spec, begun| Box::new(Service::start(CHAOS, spec, begun)));
    }
}

fn rounds_inside(suite: Suite, seed: u64) {
    let seed = environment("CHAOS_SEED").unwrap_or(seed);
    let rounds = environment("CHAOS_ROUNDS").unwrap_or(FEW);
    inside(suite, "the_rounds_themselves", ROUNDS, seed, format!("CHAOS_ROUNDS={rounds}"));
}

#[test]
fn chaos_is_survived_by_the_workers_on_252() {
    rounds_inside(Suite::Bookworm, 1);
}

#[test]
fn chaos_is_survived_by_the_workers_on_257() {
    rounds_inside(Suite::Trixie, 2);
}

#[test]
#[ignore = "for chaos_is_survived_by_the_workers, which runs it inside a machine"]
fn the_rounds_themselves() {
    if std::env::var_os(INSIDE).is_some() {
        rounds::survive(any_seed(), |spec, begun| Box::new(Service::start(ROUNDS, spec, begun)));
    }
}
