//! The default protected guest.
//!
//! It runs with one to eight vCPUs behind bouncer and does what a small
//! operating system does: asks for protection, starts its CPUs, finds its disk
//! through PCI, and reads and writes it with DMA that touches only memory it
//! chose to share. What it promises a reader is told in `guest:` lines, what
//! it promises a test in `@guest` lines. `scenario=` on its command line says
//! which part of that it plays.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod payload;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("The guest runs on bare metal: build it for aarch64-unknown-none-softfloat.");
}
