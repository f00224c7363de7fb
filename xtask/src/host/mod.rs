//! Linux as bouncer's host: `cargo xtask run --host …`.
//!
//! The kernel that a guest would have ([`crate::guest::debian`]), or the
//! user's, takes the place of the host payload: bouncer boots first, keeps EL2,
//! and starts it at EL1 behind stage 2. [`boot`] places it in memory, [`run`]
//! makes an exit status of its end.

pub mod boot;
pub mod options;
pub mod run;
