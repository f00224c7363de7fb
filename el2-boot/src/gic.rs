//! The little that EL2 does with the physical GIC. It belongs to the host;
//! EL2 needs three private interrupts to be able to reach it while a guest
//! runs, and marks the timer's active while a list register stands for it.
#![allow(unsafe_code)]

use crate::percpu;
use platform::gicv3::{self, Lpis, SGI_FRAME, sgi};

/// Virtual timer (Arm BSA).
const VIRTUAL_TIMER: u32 = 1 << 27;
/// Maintenance interrupt, EL2's timer and the virtual timer (Arm BSA).
const PPIS: u32 = 1 << 25 | 1 << 26 | VIRTUAL_TIMER;

/// Reads a register of a mapped device; `size` is 1, 2, 4 or 8.
///
/// # Safety
/// `address` must be in a device page that EL2 maps, and `size`-aligned.
pub(crate) unsafe fn read(address: u64, size: u8) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            1 => u64::from((address as *const u8).read_volatile()),
            2 => u64::from((address as *const u16).read_volatile()),
            4 => u64::from((address as *const u32).read_volatile()),
            _ => (address as *const u64).read_volatile(),
        }
    }
}

/// Writes one.
///
/// # Safety
/// As [`read`], and what the write does must be harmless.
pub(crate) unsafe fn write(address: u64, size: u8, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            1 => (address as *mut u8).write_volatile(value as u8),
            2 => (address as *mut u16).write_volatile(value as u16),
            4 => (address as *mut u32).write_volatile(value as u32),
            _ => (address as *mut u64).write_volatile(value),
        }
    }
}

fn write_private(register: u64, value: u32) {
    let frame = percpu::this().redistributor.get();
    // SAFETY: this CPU's SGI frame is mapped; these registers change only
    // which of its private interrupts are enabled or active.
    unsafe { write(frame + SGI_FRAME + register, 4, u64::from(value)) }
}

/// The RD frame of the CPU with this affinity, in a region that is mapped.
pub(crate) fn find_redistributor(
    region: platform::ByteRange,
    stride: Option<u64>,
    mpidr: u64,
) -> Option<u64> {
    // SAFETY: `find_redistributor` stays in the region and reads GICR_TYPER,
    // which has no side effect.
    gicv3::find_redistributor(region, stride, mpidr, |register| unsafe { read(register, 8) })
}

/// Switches the LPIs of the CPU with this RD frame off, before the host runs.
pub(crate) fn disable_lpis(frame: u64) -> Lpis {
    // SAFETY: `frame` is an RD frame that `find_redistributor` gave, and the
    // register decides only whether the GIC goes on using memory.
    let access = |at| unsafe { read(at, 4) as u32 };
    // SAFETY: as above.
    let change = |at, value: u32| unsafe { write(at, 4, value.into()) };
    gicv3::disable_lpis(frame, access, change)
}

/// Puts EL2's private interrupts of this CPU in group 1.
pub(crate) fn initialise() {
    let frame = percpu::this().redistributor.get() + SGI_FRAME + sgi::IGROUPR0;
    // SAFETY: as in `write_private`.
    let groups = unsafe { read(frame, 4) } as u32;
    write_private(sgi::IGROUPR0, groups | PPIS);
}

/// Enables the private interrupts that a guest needs and the host has
/// disabled, for as long as a guest is loaded. Says whether the host itself
/// listens to the virtual timer.
pub(crate) fn lend_private() -> bool {
    let cpu = percpu::this();
    let register = cpu.redistributor.get() + SGI_FRAME + sgi::ISENABLER0;
    // SAFETY: as in `write_private`; reading has no side effect.
    let enabled = unsafe { read(register, 4) } as u32;
    let lent = PPIS & !enabled;
    cpu.lent_ppis.set(lent);
    if lent != 0 {
        write_private(sgi::ISENABLER0, lent);
    }
    lent & VIRTUAL_TIMER == 0
}

/// Gives them back as they were.
pub(crate) fn return_private() {
    let lent = percpu::this().lent_ppis.replace(0);
    if lent != 0 {
        write_private(sgi::ICENABLER0, lent);
    }
}

/// Makes private interrupts active, so that they do not interrupt although
/// their line is up.
pub(crate) fn set_active(ppis: u32) {
    write_private(sgi::ISACTIVER0, ppis);
    crate::sysreg::dsb_sy();
}

/// And inactive again.
pub(crate) fn clear_active(ppis: u32) {
    write_private(sgi::ICACTIVER0, ppis);
    crate::sysreg::dsb_sy();
}
