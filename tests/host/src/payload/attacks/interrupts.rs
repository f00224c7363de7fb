//! I1: interrupts the host has no right to raise.

use alloc::vec::Vec;

use hyp::abi;
use hyp::error::Error;

use super::{Finding, judge_call};
use crate::payload::calls::BOUNCER;
use crate::payload::vm::Vm;

/// I1: `vm` runs, and no driver has set up its device 0 (it sleeps, or has
/// none). The call names devices and queues only, never an interrupt number;
/// so timers, IPIs and other devices' lines cannot even be asked for.
pub(in crate::payload) fn all(vm: &Vm) -> Vec<Finding> {
    let cases: [(&'static str, &str, u64, u64, &[Error]); 5] = [
        ("I1.early", "of a device before DRIVER_OK", 0, 0, &[Error::Denied]),
        (
            "I1.config",
            "for a configuration change before DRIVER_OK",
            0,
            abi::CAUSE_CONFIG,
            &[Error::Denied],
        ),
        ("I1.queue", "of a queue that is none", 0, 7, &[Error::NotFound, Error::Denied]),
        ("I1.device", "of a device that is none", 3, 0, &[Error::NotFound]),
        (
            "I1.huge",
            "of device 2^64 - 1",
            u64::MAX,
            u64::MAX,
            &[Error::NotFound, Error::InvalidParameter],
        ),
    ];
    cases
        .into_iter()
        .map(|(id, what, device, cause, expected)| {
            let result = BOUNCER.device_interrupt(vm.handle, device, cause);
            judge_call(id, alloc::format!("raise the interrupt {what}"), expected, result)
        })
        .collect()
}
