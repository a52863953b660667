//! What happens to an app and its workers, as the journal knows it: each event has a `MESSAGE_ID`,
//! which is the name of its line in the code, and an explanation in `packaging/cohortd.catalog`
//! (`journalctl -x`).

/// A worker was started.
pub const WORKER_STARTED: &str = "fe59b4abfb5a4c189387bc735056d1aa";
/// A worker could not be started.
pub const WORKER_NOT_STARTED: &str = "e6f2abc794454b458b13ef18c2237514";
/// A worker is ready.
pub const WORKER_READY: &str = "8c1ad8aa4cfa4da1929a47d6949f96f6";
/// A worker has exited as it was to.
pub const WORKER_EXITED: &str = "afdc3b6f8b5848bfb9dc2b691c9aeefb";
/// A worker has ended though nobody wanted it to.
pub const WORKER_CRASHED: &str = "6ddc1486294d47dcaf18f2b195d50291";
/// A worker hangs or fails its checks.
pub const WORKER_HUNG: &str = "d7040914c31d48f7b507c51576158b58";
/// A worker was killed: not ready in time, not stopped in time, or not needed any more.
pub const WORKER_KILLED: &str = "46013e2c3be74b75895a5c112d4b769a";
/// A worker uses too much memory, and another takes its place.
pub const WORKER_RECYCLED: &str = "71218c384684426dabafed7991aa41d6";
/// A reload has begun.
pub const RELOAD_BEGUN: &str = "46677b0802114a95844a33ef3fc72939";
/// A reload has ended, and its generation serves.
pub const RELOAD_SUCCEEDED: &str = "e8e357f9c5cf4883ab1059a3f36eab8e";
/// A reload has failed, and the generation before serves on.
pub const RELOAD_FAILED: &str = "db5220f124344a5887b5bf9a391fb8b1";
/// The app is up.
pub const APP_UP: &str = "c522475b528c485ca9fd1fad3639ec5b";
/// The app is being stopped.
pub const APP_STOPPING: &str = "9405590289aa444ebcf9303bf082ea63";

/// Another program goes on with the app, in the same process.
pub const SUCCEEDED: &str = "3f1d2f0b6a2c4d6d9b0e6a7c58e1f442";
/// The installed program can't, and this one goes on.
pub const NOT_SUCCEEDED: &str = "a9c64b6f3a0b4e0f8d0f3b1c7d2e9a51";
/// A predecessor's workers are gone on with.
pub const RESUMED: &str = "5b8e7d0c9f3a4b5e8a6d1c2f0e9b7a63";
/// Another host is there.
pub const HOST_CAME: &str = "6c1f0a6c4b5d4a0f9e0f4a3d5b7c8e21";
/// Another host is not heard any more.
pub const HOST_GONE: &str = "d2a4f7b1c3e94d58a7b60c9e1f2d3a47";
/// Two hosts can't be told apart.
pub const HOSTS_CLASH: &str = "8e5b2c7d9a1f4e36b0d4f6a8c1e3b579";

/// All of them.
pub const ALL: [&str; 19] = [
    WORKER_STARTED,
    WORKER_NOT_STARTED,
    WORKER_READY,
    WORKER_EXITED,
    WORKER_CRASHED,
    WORKER_HUNG,
    WORKER_KILLED,
    WORKER_RECYCLED,
    RELOAD_BEGUN,
    RELOAD_SUCCEEDED,
    RELOAD_FAILED,
    APP_UP,
    APP_STOPPING,
    SUCCEEDED,
    NOT_SUCCEEDED,
    RESUMED,
    HOST_CAME,
    HOST_GONE,
    HOSTS_CLASH,
];
