//! workers
pub mod wire;
