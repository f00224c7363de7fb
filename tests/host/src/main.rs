//! The default host: the untrusted program at EL1 that owns the machine's
//! devices and CPUs, but no guest's memory.
//!
//! It does for guests what a VMM does: builds them, schedules their vCPUs on
//! its CPUs, serves their disks. And it attacks them, because somebody must:
//! `payload::attacks` has one function per way in. It prints for people, and
//! lines that begin with `@` for the tests.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod payload;

#[cfg(target_os = "none")]
rt::entry!(payload::main);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("The host is a payload for the bare machine: build it with `cargo xtask build`.");
    std::process::exit(2);
}
