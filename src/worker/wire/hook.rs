//! What is said to what we have loaded into a Node worker, `worker/hook.cjs`: internal messages of
//! Node's IPC, which the app does not see.

use std::borrow::Cow;

use serde::Serialize;

/// One of these messages.
#[derive(Debug, Serialize)]
pub struct ToHook<'a> {
    cmd: &'static str,
    act: &'static str,
    data: Cow<'a, str>,
}

impl<'a> ToHook<'a> {
    fn new(act: &'static str, data: impl Into<Cow<'a, str>>) -> Self {
        ToHook { cmd: "NODE_COHORTD", act, data: data.into() }
    }

    /// Close these sockets of yours, as far as nothing is under way on them. The answer begins with
    /// `seq`.
    pub fn release(seq: u64, descriptors: &[i32]) -> Self {
        let words = std::iter::once(seq.to_string());
        let words = words.chain(descriptors.iter().map(i32::to_string));
        ToHook::new("release", words.collect::<Vec<_>>().join(" "))
    }

    /// Say which connections you have that came in at this port or path. The answer begins with
    /// `seq`.
    pub fn list(seq: u64, at: &str) -> Self {
        ToHook::new("list", format!("{seq} {at}"))
    }

    /// Listen no more at this port or path.
    pub fn leave(at: &'a str) -> Self {
        ToHook::new("leave", at)
    }

    /// Goes with a connection: take it as if it had come in there.
    pub fn take(at: &'a str) -> Self {
        ToHook::new("take", at)
    }
}
