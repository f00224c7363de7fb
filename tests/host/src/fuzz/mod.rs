//! A host that calls bouncer at random: what it does next, from a seed.
//!
//! Pure garbage is refused at the first check, so most calls here are nearly
//! right: they take VMs through their lives with what earlier calls taught
//! ([`World`]), and one argument is bent now and then. The rest is garbage. On
//! several CPUs the world is shared, and so each CPU pulls the rug from under
//! the others.
//!
//! Everything is a function of the seed, the CPU and the answers, so that on
//! one CPU a run can be repeated call by call. This host may name any frame
//! but those it lives in itself: [`Arena`] says which are its playground.

mod arguments;
mod generator;
mod mix;
mod program;
// The generator of the native tests; the crate around it needs `std`.
#[path = "../../../../hyp/src/sim/random.rs"]
mod random;
mod world;

#[cfg(test)]
mod tests;

pub use generator::{Generator, Step, Touch};
pub use mix::Mix;
pub use program::{PAGES as CODE_PAGES, SECRET, code};
pub use random::Random;
pub use world::{Arena, World};
