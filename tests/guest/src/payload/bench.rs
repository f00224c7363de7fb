//! What the hypervisor costs a guest, in ticks of the virtual counter. Under
//! QEMU's instruction counting a tick is a fixed number of instructions.

#![allow(unsafe_code)]

use hyp::abi::guest as id;
use hyp::layout;
use rt::smccc::hvc;
use rt::{mmio, println, timer};

use super::{Machine, pkvm};

/// Repetitions: enough that the counter's granularity does not matter.
const TIMES: u64 = 2000;
/// Pages of a range call.
const PAGES: u64 = 256;

/// Measures and prints; false if a call failed.
pub(super) fn measure(machine: &Machine) -> bool {
    let page = machine.spare.start as u64;
    // First touch: the host gives the memory now, not while it is measured.
    for offset in 0..PAGES {
        // SAFETY: spare RAM, which nothing else uses.
        unsafe { mmio::write64((page + offset * 4096) as usize, 0) }
    }
    let mut passed = true;
    repeat("guest_loop", TIMES, || ());
    repeat("guest_null_hypercall", TIMES, || {
        hvc(id::FEATURES.into(), [0; 7]);
    });
    repeat("guest_share_unshare_page", TIMES, || {
        passed &= pkvm::mem_share(page, 1).0 == 0 && pkvm::mem_unshare(page, 1).0 == 0;
    });
    range("guest_share_page_of_range", || pkvm::mem_share(page, PAGES) == (0, PAGES), &mut passed);
    let unshare = || pkvm::mem_unshare(page, PAGES) == (0, PAGES);
    range("guest_unshare_page_of_range", unshare, &mut passed);
    repeat("guest_mmio_el2", TIMES, || {
        // SAFETY: GICD_CTLR; reading has no side effect.
        unsafe { mmio::read32(layout::GICD as usize) };
    });
    repeat("guest_mmio_host", TIMES, || {
        // SAFETY: the UART's flag register; reading has no side effect.
        unsafe { mmio::read32(layout::UART as usize + 0x18) };
    });
    passed
}

fn repeat(name: &str, times: u64, mut act: impl FnMut()) {
    let start = timer::now();
    (0..times).for_each(|_| act());
    report(name, timer::now() - start, times);
}

/// One call for many pages, reported per page.
fn range(name: &str, act: impl FnOnce() -> bool, passed: &mut bool) {
    let start = timer::now();
    *passed &= act();
    report(name, timer::now() - start, PAGES);
}

fn report(name: &str, ticks: u64, count: u64) {
    println!(
        "@guest bench name={name} ticks={ticks} count={count} frequency={}",
        timer::frequency()
    );
}
