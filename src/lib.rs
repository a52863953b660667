//! cohortd
pub mod config;
pub mod listen;
pub mod worker;
