//! What keeps workers from each other and from cohortd, though all of them have one user: each is in a
//! Landlock domain of its own.
//!
//! From within, a process outside can't be sent a signal, and its memory, environment and descriptors
//! can't be looked into, nor can it be traced; where `/proc` shows only what may be traced
//! (`ProtectProc=`), it is not even seen. Files and connections are as ever. cohortd is in no domain,
//! and reaches all workers.

use landlock::{
    CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated, RulesetError, Scope,
};
use rustix::thread::no_new_privs;

/// A domain for one worker. Before Linux 6.12 it keeps nothing out. `None`: programs may get more rights
/// here (sudo), which a domain would not let them.
///
/// # Errors
/// The kernel's.
pub fn new() -> Result<Option<RulesetCreated>, RulesetError> {
    if !no_new_privs().is_ok_and(|given_up| given_up) {
        return Ok(None);
    }
    let rules = Ruleset::default().set_compatibility(CompatLevel::SoftRequirement);
    Ok(Some(rules.scope(Scope::Signal)?.create()?))
}
