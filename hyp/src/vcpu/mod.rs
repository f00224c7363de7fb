//! A guest's virtual CPU: its registers, its traps, its life.

pub mod state;
