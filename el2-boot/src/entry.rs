//! The assembly of this binary and the constants it is built with.
#![allow(unsafe_code)]

use crate::{boot, cpu, panic};
use core::arch::global_asm;
use hyp::vcpu::state::Frame;
use platform::{ByteRange, Platform, qemu_virt::QemuVirt};

/// MAIR_EL2: attribute 0 is normal memory, write-back; attribute 1 is device
/// memory, nGnRE (Arm ARM D24.2.109).
const MAIR: u64 = 0x04ff;
/// TCR_EL2 without PS: 39-bit addresses, 4 KiB pages, walks inner shareable
/// and write-back; bits 23 and 31 are RES1.
const TCR: u64 = 1 << 31 | 1 << 23 | 0b11 << 12 | 1 << 10 | 1 << 8 | 25;
/// SCTLR_EL2, its RES1 bits only: MMU and caches off. EIS and EOS (bits 22
/// and 11) are among them; `vectors.S` relies on that.
const SCTLR_OFF: u64 = 0x30c5_0830;
/// MMU, caches, stack alignment check.
const SCTLR_EARLY: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 12;
/// And nothing writable is ever executable (WXN).
pub(crate) const SCTLR_FINAL: u64 = SCTLR_EARLY | 1 << 19;
/// Block of normal memory in the early map: inner shareable, accessed.
pub(crate) const EARLY_NORMAL: u64 = 1 << 10 | 0b11 << 8 | 1 << 6 | 0b01;
/// Block of device memory in the early map: never executable.
const EARLY_DEVICE: u64 = 1 << 54 | 1 << 10 | 1 << 6 | 1 << 2 | 0b01;
/// Stack of the boot CPU until it has its own. Nothing guards it: what boot
/// finds in the tree is passed about by value, and took over 30 of 32 KiB (and more
/// where every edge is counted, `fuzz --on-target`).
const BOOT_STACK: usize = 0x1_0000;

global_asm!(
    include_str!("entry.S"),
    MAIR = const MAIR,
    TCR = const TCR,
    SCTLR_OFF = const SCTLR_OFF,
    SCTLR_EARLY = const SCTLR_EARLY,
    SCTLR_FINAL = const SCTLR_FINAL,
    EARLY_NORMAL = const EARLY_NORMAL,
    EARLY_DEVICE = const EARLY_DEVICE,
    EARLY_UART = const QemuVirt::EARLY_UART,
    BOOT_STACK = const BOOT_STACK,
    boot_main = sym boot::boot_main,
    secondary_main = sym cpu::secondary_main,
);
global_asm!(
    include_str!("vectors.S"),
    exception_in_el2 = sym panic::exception_in_el2,
);

unsafe extern "C" {
    static _image_start: u8;
    static _text_end: u8;
    static _rodata_end: u8;
    static _image_end: u8;
    static mut early_table: [u64; 512];
    static boot_stack_top: u8;
    fn secondary_entry();
    /// Runs the world in `frame` until its next exception to EL2.
    ///
    /// # Safety
    /// Stage 2, traps and EL1 registers in force must be that world's.
    pub(crate) fn enter_world(frame: *mut Frame) -> u64;
}

unsafe extern "C" {
    /// Exchanges the early map for `root`, takes `stack` as the stack, and
    /// calls `next(argument)`.
    ///
    /// # Safety
    /// `root` must map the image, the stack and what `next` uses VA = PA;
    /// nothing on the old stack is used again.
    #[link_name = "switch_map"]
    pub(crate) fn switch_map(
        root: u64,
        stack: u64,
        argument: u64,
        next: extern "C" fn(u64) -> !,
    ) -> !;
}

/// Where the image is, in memory, with its zero-initialised data.
pub(crate) fn image() -> ByteRange {
    ByteRange::between((&raw const _image_start) as u64, (&raw const _image_end) as u64)
}

/// Its executable part.
pub(crate) fn text() -> ByteRange {
    ByteRange::between((&raw const _image_start) as u64, (&raw const _text_end) as u64)
}

/// Its constants.
pub(crate) fn rodata() -> ByteRange {
    ByteRange::between((&raw const _text_end) as u64, (&raw const _rodata_end) as u64)
}

/// Its variables.
pub(crate) fn data() -> ByteRange {
    ByteRange::between((&raw const _rodata_end) as u64, (&raw const _image_end) as u64)
}

/// The stack of the boot CPU until it had its own.
pub(crate) fn boot_stack() -> ByteRange {
    let end = (&raw const boot_stack_top) as u64;
    ByteRange::between(end - BOOT_STACK as u64, end)
}

/// Has the boot stack been used to its last KiB? Below it lies the early map,
/// so a boot that needs more than there is ends in silence.
pub(crate) fn boot_stack_was_full() -> bool {
    let words = boot_stack().start() as *const u64;
    // SAFETY: the stack is bouncer's own, mapped, and nobody's any more; it was
    // zeroed with .bss.
    (0..128).any(|index| unsafe { words.add(index).read_volatile() } != 0)
}

/// Where a CPU that is switched on starts.
pub(crate) fn secondary_entry_address() -> u64 {
    secondary_entry as *const () as u64
}

/// Makes the GiB that contains `address` readable and writable as devices in
/// the early map; says whether it is. What is mapped as memory already stays.
pub(crate) fn map_early_device(address: u64) -> bool {
    let index = (address >> 30) as usize;
    if index >= 512 {
        return false;
    }
    let block = (index as u64) << 30 | EARLY_DEVICE;
    // SAFETY: only the boot CPU runs, and only before it leaves this table; an
    // invalid entry becomes valid, which needs no break.
    let entry = unsafe { (&raw const early_table[index]).read_volatile() };
    if entry == 0 {
        // SAFETY: as above.
        unsafe { (&raw mut early_table[index]).write_volatile(block) }
        crate::sysreg::dsb_ishst();
        crate::sysreg::isb();
    }
    entry == 0 || entry == block
}

/// Takes what [`map_early_device`] has mapped out again, but for GiB 0: RAM may
/// be in the same GiB.
#[allow(clippy::needless_range_loop)] // No reference to a table that is in use.
pub(crate) fn unmap_early_devices() {
    for index in 1..512 {
        let block = (index as u64) << 30 | EARLY_DEVICE;
        // SAFETY: as in `map_early_device`; nobody holds an address in there.
        unsafe {
            if (&raw const early_table[index]).read_volatile() == block {
                (&raw mut early_table[index]).write_volatile(0);
            }
        }
    }
    crate::sysreg::dsb_ishst();
    crate::sysreg::tlbi_alle2();
    crate::sysreg::dsb_ish();
    crate::sysreg::isb();
}

/// Makes the GiB that contains `address` readable and writable in the early
/// map, while that is in use.
pub(crate) fn map_early(address: u64) {
    let index = (address >> 30) as usize;
    // GiB 0 is devices, mapped by entry.S.
    if (1..512).contains(&index) {
        // SAFETY: only the boot CPU runs, and only before it leaves this
        // table; an invalid or identical entry becomes a block of RAM, which
        // needs no break.
        unsafe { (&raw mut early_table[index]).write_volatile((index as u64) << 30 | EARLY_NORMAL) }
    }
    crate::sysreg::dsb_ishst();
    crate::sysreg::isb();
}
