//! Everything that is tested from outside, in one binary: linking is what two cores are slow at.

mod config;
