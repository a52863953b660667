//! `cohortd run`: how it ends, what it says, and that it leaves nothing behind.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

use crate::app::{Spec, kill, until};

/// Runs cohortd to its end on a configuration of this text.
fn run(name: &str, toml: &str) -> Output {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    std::fs::write(folder.path().join(name), toml).expect("written");
    Command::new(env!("CARGO_BIN_EXE_cohortd"))
        .args(["run", name])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("cohortd starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The body of an answer to a plain request, or what went wrong.
fn get(address: &str, target: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect(address)?;
        write!(connection, "GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_else(|e| e.to_string())
}

#[test]
fn a_wrong_configuration_ends_it_with_78() {
    let output = run("shop.toml", "exec = [\"node\", \"x.js\"]\nlisten = [\"8080\"]\nwokers = 4\n");
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        said(&output),
        "error: shop.toml:3:1: unknown key `wokers`; did you mean `workers`?\n  |\n3 | wokers = 4\n  | ^^^^^^\n"
    );
}

#[test]
fn a_port_that_is_taken_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("has one").to_string();
    let output =
        run("shop.toml", &format!("exec = [\"node\", \"x.js\"]\nlisten = [\"{address}\"]\n"));
    assert_eq!(output.status.code(), Some(1));
    let want =
        format!("error: can't listen on {address}: Address already in use (os error 98) (another");
    assert!(said(&output).starts_with(&want), "{}", said(&output));
}

#[test]
fn a_program_that_is_not_there_is_said() {
    let port = crate::app::free_port();
    let output = run(
        "shop.toml",
        &format!("exec = [\"nodee\", \"x.js\"]\nlisten = [\"{port}\"]\nworkers = 1\n"),
    );
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    let want = "error: no worker became ready. can't start \"nodee\": No such file or directory";
    assert!(text.contains(want), "{text}");
}

#[test]
fn an_app_that_throws_ends_it_and_its_words_are_shown() {
    let mut app = Spec::new("sio.js").env("STICKY", "nonesuch").start_only();
    assert_eq!(app.wait(), Some(1));
    let log = app.log();
    assert!(log.contains("w0 |") && log.contains("Cannot find module 'nonesuch'"), "{log}");
    assert!(log.contains("error: no worker became ready. A worker exited (exit code 1)"), "{log}");
}

/// There is no timer without systemd. It is said once, and the app runs.
#[test]
fn a_schedule_without_systemd_is_warned_of() {
    let app = Spec::new("children.js").more("[reload]\nschedule = \"*:*:*\"").start();
    assert_eq!(app.log().matches("[reload] schedule needs systemd's timer").count(), 1);
}

#[test]
fn a_worker_s_own_children_end_with_it() {
    let mut app = Spec::new("children.js").start();
    app.wait_for_times("child ", 2);
    let log = app.log();
    let children: Vec<i32> =
        log.lines().filter_map(|line| line.split_once("child ")?.1.trim().parse().ok()).collect();
    let lives = |pid: &i32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(children.len() == 2 && children.iter().all(lives), "{log}");
    let first = app.workers()[&0];
    kill("KILL", first);
    assert!(until(|| children.iter().filter(|pid| lives(pid)).count() == 1), "one is left");
    app.signal("TERM");
    assert_eq!(app.wait(), Some(0));
    assert!(until(|| !children.iter().any(lives)), "none is left");
}

/// After 64 KiB whoever writes to a pipe that is not read is held up: that is to be the worker.
#[test]
fn output_that_nobody_reads_does_not_hold_up_cohortd() {
    let (unread, pipe) = std::io::pipe().expect("a pipe");
    let app = Spec::new("children.js").workers(1).start_with_stdout(pipe);
    assert!(get(app.address(), "/").ends_with("hello"), "{}", app.log());
    let flooding = TcpStream::connect(app.address()).expect("connects");
    write!(&flooding, "GET /flood HTTP/1.1\r\nHost: t\r\n\r\n").expect("written");
    let full = || rustix::io::ioctl_fionread(&unread).is_ok_and(|bytes| bytes > 60_000);
    assert!(until(full), "the pipe is full: nothing more can be printed");
    for _ in 0..20 {
        let answer = get(app.address(), "\0");
        assert!(answer.starts_with("HTTP/1.1 400"), "cohortd still answers: {answer}");
    }
    drop(unread);
}
