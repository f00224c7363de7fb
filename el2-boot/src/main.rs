//! bouncer's EL2 binary.
//!
//! What runs at EL2 and touches hardware: entry and MMU (`entry.S`), the world
//! switch (`vectors.S`, `world`), EL2's own address space (`mmu`) and the
//! implementation of `hyp`'s `Machine` (`machine`). What is decided is decided
//! in `hyp`; what a board looks like is in `platform`.
//!
//! Reading order: `entry.S`, `boot`, `vectors.S`, `world`, `machine`.
//!
//! Built for anything but bare metal this is an empty program, so that the
//! workspace can be checked as a whole.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

macro_rules! bare_metal {
    ($($module:ident),* $(,)?) => { $( #[cfg(target_os = "none")] mod $module; )* };
}

bare_metal! {
    boot, console, cpu, dma, entropy, entry, features, firmware, fixmap, gic, heap, host, layout, machine, mmu,
    panic, percpu, sha256, smmu, stop, sysreg, tlb, trace, world,
}

#[cfg(all(target_os = "none", feature = "profile"))]
mod profile;

#[cfg(not(target_os = "none"))]
fn main() {}
