//! How an app is run: by `cohortd run` in the foreground, or in some other way.

use std::path::Path;
use std::thread::JoinHandle;

use super::answers::{Answer, ask};
use crate::app::App;

/// A worker's number and its process.
pub(super) type Worker = (u64, i32);

pub(super) trait Way {
    /// For the names of files.
    fn kind(&self) -> &'static str;
    fn name(&self) -> &str;
    /// `host:port`.
    fn address(&self) -> &str;
    /// Its configuration.
    fn file(&self) -> &Path;
    /// cohortd's own process.
    fn pid(&self) -> i32;
    /// Whether there is another one when that is killed.
    fn comes_back(&self) -> bool;
    /// cohortd's process, when it is another one than that. It is going to be killed.
    fn next_to_die(&self, last: i32) -> i32;
    /// What cohortd and the workers have written up to now, in the form of the foreground.
    fn log(&self) -> String;
    /// SIGHUP.
    fn hang_up(&self);
    /// Asks for a reload to this release.
    fn reload(&self, release: usize) -> JoinHandle<Answer>;
    /// What only this way has, and is not as it should be while these workers run.
    fn disorder(&self, workers: &[Worker]) -> Vec<String>;
    /// Ends it; what was wrong with that.
    fn end(&mut self) -> Vec<String>;
}

impl Way for App {
    fn kind(&self) -> &'static str {
        "foreground"
    }

    fn name(&self) -> &str {
        self.name()
    }

    fn address(&self) -> &str {
        self.address()
    }

    fn file(&self) -> &Path {
        self.file()
    }

    fn pid(&self) -> i32 {
        self.pid() as i32
    }

    fn comes_back(&self) -> bool {
        false
    }

    fn next_to_die(&self, _: i32) -> i32 {
        panic!("its workers would go with it")
    }

    fn log(&self) -> String {
        self.log()
    }

    fn hang_up(&self) {
        self.signal("HUP");
    }

    fn reload(&self, _: usize) -> JoinHandle<Answer> {
        ask(self.name(), "reload", None)
    }

    fn disorder(&self, _: &[Worker]) -> Vec<String> {
        Vec::new()
    }

    fn end(&mut self) -> Vec<String> {
        self.signal("TERM");
        let code = self.wait();
        if code == Some(0) { Vec::new() } else { vec![format!("cohortd ended with {code:?}")] }
    }
}
