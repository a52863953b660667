//! route
pub mod head;
pub mod table;
