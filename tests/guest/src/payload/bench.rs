//! What the hypervisor costs a guest, in ticks of the virtual counter. Under
//! QEMU's instruction counting a tick is a fixed number of instructions.

#![allow(unsafe_code)]

use hyp::abi::guest as id;
use hyp::layout;
use rt::smccc::hvc;
use rt::{mmio, println, timer};
use virtio_drivers::transport::DeviceType;

use super::{Machine, iommu_hal, pci, pkvm, tables};

/// Repetitions: enough that the counter's granularity does not matter.
const TIMES: u64 = 2000;
/// Pages of a range call.
const PAGES: u64 = 256;
/// Pages of a REFRESH: as many as one call looks at.
const REFRESHED: u64 = 512;

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
    if let Some(all_well) = table(machine) {
        passed &= all_well;
    }
    passed
}

/// REFRESH, if there is a disk with an I/O table; `None` if there is none.
fn table(machine: &Machine) -> Option<bool> {
    let (_, functions) = pci::enumerate(&machine.tree)?;
    let disk = functions.iter().find(|function| function.kind == DeviceType::Block)?;
    let device = tables::number(disk);
    let mut spare = tables::Spare::new(machine.spare.clone());
    let mut domain = tables::domain(&mut spare, device)?;
    let page = spare.take(REFRESHED as usize)? as u64;
    let [first, ..] = pkvm::iotable_info(device)?;
    // Makes the table on the way; what is measured is EL2's work.
    domain.table.set(first, 0, false);
    domain.table.clear(first);
    let refresh = |pages| pkvm::refresh(device, first, pages).0 == 0;
    let all = |tables: &mut iommu_hal::GuestDomain, there| {
        for at in (0..REFRESHED).map(|page| page * 4096) {
            match there {
                true => _ = tables.table.set(first + at, page + at, true),
                false => tables.table.clear(first + at),
            }
        }
    };
    // The host gives tables for the window now, not while it is measured.
    all(&mut domain, true);
    let mut passed = refresh(REFRESHED);
    per_page("guest_refresh_same_page_of_range", REFRESHED, || refresh(REFRESHED), &mut passed);
    all(&mut domain, false);
    per_page("guest_refresh_unmap_page_of_range", REFRESHED, || refresh(REFRESHED), &mut passed);
    all(&mut domain, true);
    per_page("guest_refresh_map_page_of_range", REFRESHED, || refresh(REFRESHED), &mut passed);
    all(&mut domain, false);
    passed &= refresh(REFRESHED);
    repeat("guest_refresh_map_unmap_page", TIMES, || {
        domain.table.set(first, page, true);
        passed &= refresh(1);
        domain.table.clear(first);
        passed &= refresh(1);
    });
    Some(passed & iommu_hal::take_away(device))
}

fn repeat(name: &str, times: u64, mut act: impl FnMut()) {
    let start = timer::now();
    (0..times).for_each(|_| act());
    report(name, timer::now() - start, times);
}

/// One call for many pages, reported per page.
fn range(name: &str, act: impl FnOnce() -> bool, passed: &mut bool) {
    per_page(name, PAGES, act, passed);
}

fn per_page(name: &str, pages: u64, act: impl FnOnce() -> bool, passed: &mut bool) {
    let start = timer::now();
    *passed &= act();
    report(name, timer::now() - start, pages);
}

fn report(name: &str, ticks: u64, count: u64) {
    println!(
        "@guest bench name={name} ticks={ticks} count={count} frequency={}",
        timer::frequency()
    );
}
