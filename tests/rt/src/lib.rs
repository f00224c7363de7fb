//! Runtime of the payloads that run above bouncer.
//!
//! The host payload and the guest payload are bare-metal EL1 programs. What
//! they have in common lives here: the arm64 `Image` entry ([`entry!`]), an
//! identity-mapped stage 1 ([`mmu`]), exception vectors that survive attempted
//! accesses ([`mod@attempt`]), console, GICv3, virtual timer, PSCI, SMCCC, heap,
//! and readers for device trees and cpio archives.
//!
//! A payload's `build.rs` hands `DEP_PAYLOAD_RT_LINK_ARGS` to the linker:
//!
//! ```no_run
//! for argument in std::env::var("DEP_PAYLOAD_RT_LINK_ARGS").unwrap().split(',') {
//!     println!("cargo::rustc-link-arg-bins={argument}");
//! }
//! ```
//!
//! Everything that touches the CPU exists only on the bare-metal target; the
//! readers are ordinary code and are tested natively.

#![no_std]

#[cfg(target_os = "none")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod cpio;
pub mod dt;
pub mod scan;

#[cfg(target_os = "none")]
#[macro_use]
pub mod attempt;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
mod exception;
#[cfg(target_os = "none")]
pub mod gic;
#[cfg(target_os = "none")]
pub mod heap;
#[cfg(target_os = "none")]
pub mod irq;
#[cfg(target_os = "none")]
pub mod lock;
#[cfg(target_os = "none")]
pub mod mmio;
#[cfg(target_os = "none")]
pub mod mmu;
#[cfg(target_os = "none")]
pub mod psci;
#[cfg(target_os = "none")]
pub mod smccc;
#[cfg(target_os = "none")]
pub mod timer;
#[cfg(target_os = "none")]
pub mod user;

pub use fdt;

/// Most CPUs a payload runs on; each has its own stack.
pub const MAX_CPUS: usize = 8;

/// Names the payload's first function, `fn(dtb: usize) -> !`. It runs on the
/// boot CPU with MMU and caches on, interrupts masked, no heap yet.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(export_name = "rt_main")]
        extern "C" fn rt_main(dtb: usize) -> ! {
            let main: fn(usize) -> ! = $main;
            main(dtb)
        }
    };
}
