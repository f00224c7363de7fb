//! The measured load.

use rt::println;

use super::super::Machine;

/// Makes requests of every size and depth; true if all were served.
pub(super) fn all(_machine: &Machine, mode: &str) -> bool {
    println!("guest: `{mode}` cannot be measured yet");
    false
}
