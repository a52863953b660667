//! cohortd
pub mod worker;
