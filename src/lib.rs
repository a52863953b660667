//! cohortd
pub mod config;
pub mod ctl;
pub mod exit;
pub mod listen;
pub mod log;
pub mod relay;
pub mod route;
pub mod supervisor;
pub mod systemd;
pub mod worker;
