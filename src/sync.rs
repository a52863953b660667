//! What is shared between tasks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. Nothing that is done under a lock here can leave its data half-changed, so a panic
/// elsewhere does not matter.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
