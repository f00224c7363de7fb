//! The whole policy on the simulated machine: what a host or guest sends as
//! a trap, and what comes of it. Each test is a promise or an attack.

mod contracts;
mod dma;
mod guest_calls;
mod guest_debug;
mod guest_devices;
mod guest_run;
mod guest_timer;
mod guest_undescribed;
mod holds;
mod host_aborts;
mod host_calls;
mod host_power;
mod host_registers;
mod iotable;
#[cfg(feature = "oracle")]
mod oracle;
mod random;
mod realm;
mod realm_attacks;
mod rig;
mod while_out;
