//! cohortd
pub mod config;
pub mod listen;
pub mod relay;
pub mod route;
pub mod worker;
