//! The guest as attacker: each line is an attempt that must be refused, and
//! survived.

#![allow(unsafe_code)]

use super::pci::Function;
use super::pkvm::{mem_share, mem_unshare};
use super::{Machine, checks, hostile_driver, pci, pkvm, yes};
use hyp::layout;
use rt::{attempt, println, try_mrs};

/// Attempts made so far.
pub(super) struct Attacks {
    pub(super) all_refused: bool,
    /// The row of attempts by the driver of a device.
    pub(super) driver_row: &'static str,
}

impl Attacks {
    pub(super) fn new() -> Self {
        Self { all_refused: true, driver_row: "G3" }
    }

    /// Tells of one attempt.
    pub(super) fn note(&mut self, id: &str, what: &str, refused: bool) {
        let outcome = if refused { "refused" } else { "allowed" };
        println!("@guest attack id={id} what={what} outcome={outcome}");
        self.all_refused &= refused;
    }

    /// An access must end in an external abort.
    fn access<T>(&mut self, what: &str, result: Result<T, attempt::Fault>) {
        let refused = match result {
            Err(fault) if fault.is_external_abort() => true,
            Err(fault) => {
                println!("guest: {what}: ESR {:#x} instead of an external abort", fault.esr);
                false
            }
            Ok(_) => false,
        };
        self.note("G1", what, refused);
    }

    /// A call must give an error code.
    fn call(&mut self, id: &str, what: &str, (code, pages): (i64, u64)) {
        let refused = code < 0;
        if !refused {
            println!("guest: {what}: code {code}, {pages} pages");
        }
        self.note(id, what, refused);
    }
}

/// Makes the attempts and gives whether all were refused.
pub(crate) fn attack(machine: &Machine) -> bool {
    let mut attacks = Attacks::new();
    // First of all: the pages must not have been touched yet.
    attacks.note("G5", "read-fresh-pages", checks::fresh_pages_are_zero(machine));
    beyond_memory(machine, &mut attacks);
    sharing(machine, &mut attacks);
    let mut driver = true;
    if let Some((bus, functions)) = pci::enumerate(&machine.tree) {
        println!("@guest devices={}", functions.len());
        bounce_memory(&functions, &mut attacks);
        driver = hostile_driver::attack(&bus, &functions, &mut attacks).unwrap_or(true);
    }
    system_registers(&mut attacks);
    let relinquished = checks::relinquished_page_is_zero(machine);
    println!("@guest attacks refused={}", yes(attacks.all_refused));
    attacks.all_refused && driver && relinquished
}

/// G1: addresses that are not the guest's.
fn beyond_memory(machine: &Machine, attacks: &mut Attacks) {
    let end = machine.ram.end as u64;
    attacks.access("read-behind-ram", attempt::try_read_u64(end));
    // SAFETY: all these addresses, outside the guest's memory, hold no object of it.
    unsafe {
        attacks.access("write-behind-ram", attempt::try_write_u64(end, 1));
        attacks.access("execute-behind-ram", attempt::try_exec(end));
        attacks.access("atomic-behind-ram", attempt::try_atomic_add(end, 1));
        attacks.access("zva-behind-ram", attempt::try_dc_zva(end));
    }
    // Everything the guest could be confused about lies at its physical
    // address on the machine below.
    attacks.access("read-far-ram", attempt::try_read_u64(end + (256 << 20)));
    attacks.access("read-4g", attempt::try_read_u64(0x1_0000_0000));
    attacks.access("read-flash", attempt::try_read_u32(0));
    attacks.access("read-fw-cfg", attempt::try_read_u32(0x0902_0000));
    attacks.access("read-ungranted-mmio", attempt::try_read_u32(layout::UART + 0x1000));
    // SAFETY: as above.
    unsafe {
        attacks.access("write-fw-cfg-dma", attempt::try_write_u32(0x0902_0010, 0));
        attacks.access("write-virtio-mmio", attempt::try_write_u32(0x0a00_0050, 0));
    }
}

/// G2: shares that make no sense or go too far.
fn sharing(machine: &Machine, attacks: &mut Attacks) {
    let end = machine.ram.end as u64;
    attacks.call("G2", "share-mmio", mem_share(layout::UART, 1));
    attacks.call("G2", "share-gic", mem_share(layout::GICD, 1));
    attacks.call("G2", "share-behind-ram", mem_share(end, 1));
    attacks.call("G2", "share-misaligned", mem_share(machine.ram.start as u64 + 8, 1));
    attacks.call("G2", "share-wrapping", mem_share(!0xfff, 2));
    attacks.call("G2", "share-beyond-39-bits", mem_share(1 << 39, 1));
    attacks.call("G2", "share-huge", mem_share(end - 4096, u64::MAX));
    // A spare page, given something to hold so that it is surely there.
    let page = machine.spare.end as u64 - 4096;
    // SAFETY: spare memory, used by nobody while no device is open.
    if unsafe { attempt::try_write_u64(page, 7) }.is_err() {
        return attacks.note("G2", "touch-own-page", false);
    }
    attacks.call("G2", "unshare-of-unshared", mem_unshare(page, 1));
    let (first, _) = mem_share(page, 1);
    attacks.call("G2", "double-share", mem_share(page, 1));
    attacks.call("G2", "relinquish-of-shared", (pkvm::mem_relinquish(page), 0));
    let (back, _) = mem_unshare(page, 1);
    attacks.call("G2", "double-unshare", mem_unshare(page, 1));
    println!(
        "@guest share code={first} unshare={back} kept={}",
        yes(attempt::try_read_u64(page) == Ok(7))
    );
    attacks.all_refused &= first == 0 && back == 0;
    attacks.call("G2", "relinquish-behind-ram", (pkvm::mem_relinquish(end), 0));
    attacks.call("G2", "relinquish-mmio", (pkvm::mem_relinquish(layout::UART), 0));
}

/// G2: memory that a device brings is the host's, lent; it is not the guest's
/// to give.
fn bounce_memory(functions: &[Function], attacks: &mut Attacks) {
    for function in functions {
        let capabilities = &function.capabilities;
        let brought = capabilities.bounce.or(super::device::device_memory(function));
        let bounce = brought.and_then(|region| function.address(region));
        if let Some(address) = bounce {
            attacks.call("G2", "share-bounce-bar", mem_share(address, 1));
            attacks.call("G2", "unshare-bounce-bar", mem_unshare(address, 1));
            attacks.call("G2", "relinquish-bounce-bar", (pkvm::mem_relinquish(address), 0));
            // SAFETY: bounce memory; no driver is open.
            attacks.access("execute-bounce-bar", unsafe { execute(address) });
            return;
        }
    }
    println!("guest: no device with a bounce BAR, its attempts are left out");
}

/// Jumps into the window. Stage 1 forbids it too, so that is opened first: the
/// question is what stage 2 says.
///
/// # Safety
/// The window must be in use by nobody.
unsafe fn execute(address: u64) -> Result<(), attempt::Fault> {
    // A second view of the first page, executable at stage 1.
    let view = 0x70_0000_0000;
    if rt::mmu::map(view, address & !0xfff, 4096, rt::mmu::Memory::Code).is_err() {
        return Ok(());
    }
    // SAFETY: if it runs, it runs the RET put there.
    unsafe {
        let ret = attempt::try_write_u32(view, 0xd65f_03c0);
        let _ = attempt::try_dc_civac(view);
        let _ = attempt::try_ic_ivau(view);
        ret.and_then(|()| attempt::try_exec(view))
    }
}

/// Registers of EL2 and EL3 are undefined here.
fn system_registers(attacks: &mut Attacks) {
    let results = [
        ("read-hcr", try_mrs!("hcr_el2")),
        ("read-vttbr", try_mrs!("vttbr_el2")),
        ("read-esr-el2", try_mrs!("esr_el2")),
        ("read-ich-hcr", try_mrs!("S3_4_C12_C11_0")),
        ("translate-both-stages", attempt::try_at_s12e1r(layout::RAM)),
    ];
    for (what, result) in results {
        attacks.note("G1", what, result.is_err_and(|fault| fault.is_undefined()));
    }
}
