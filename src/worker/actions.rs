//! What a worker can be asked to do by PM2's custom actions, and who waits for what it answers.

use std::collections::BTreeSet;
use std::sync::Mutex;

use tokio::sync::oneshot;

use super::wire::action::Said;
use crate::sync::lock;

/// More actions than this are no use to people, and names come from the app.
const MAX_KNOWN: usize = 256;

/// One worker's.
#[derive(Debug, Default)]
pub struct Actions {
    known: Mutex<BTreeSet<String>>,
    /// By the action's name; who has asked first is answered first.
    asked: Mutex<Vec<(String, oneshot::Sender<serde_json::Value>)>>,
}

impl Actions {
    /// Of which these names are known already.
    pub(super) fn of(known: Vec<String>) -> Actions {
        Actions { known: Mutex::new(known.into_iter().collect()), ..Actions::default() }
    }

    /// Their names.
    pub fn known(&self) -> Vec<String> {
        lock(&self.known).iter().cloned().collect()
    }

    /// Where the next answer to this action will come; it is to be asked for now. `None`: the worker
    /// has no such action.
    pub(super) fn await_answer(&self, name: &str) -> Option<oneshot::Receiver<serde_json::Value>> {
        if !lock(&self.known).contains(name) {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        let mut asked = lock(&self.asked);
        asked.retain(|(_, asker)| !asker.is_closed());
        asked.push((name.to_owned(), answer));
        Some(answered)
    }

    /// The worker has said something of them.
    pub(super) fn heard(&self, said: Said) {
        match said {
            Said::Has(name) => {
                let mut known = lock(&self.known);
                if known.len() < MAX_KNOWN {
                    known.insert(name);
                }
            }
            Said::Answers { name, value } => {
                let mut asked = lock(&self.asked);
                if let Some(at) = asked.iter().position(|(asked, _)| *asked == name) {
                    let _ = asked.remove(at).1.send(value); // it may have given up
                }
            }
        }
    }

    /// Nothing will be answered any more.
    pub(super) fn hang_up(&self) {
        lock(&self.asked).clear();
    }
}
