//! The CPU a payload runs on: its index, its interrupts, and starting others.

#![allow(unsafe_code)]

use crate::{MAX_CPUS, psci};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicUsize, Ordering};

global_asm!(include_str!("entry.S"));

/// Bytes of a CPU's stack; `entry.S` knows it as a shift.
const STACK_SIZE: usize = 1 << 16;

#[repr(C, align(4096))]
struct Stacks(core::cell::UnsafeCell<[[u8; STACK_SIZE]; MAX_CPUS]>);

// SAFETY: never accessed as a Rust object; each CPU uses its own part, as its
// stack pointer only.
unsafe impl Sync for Stacks {}

#[unsafe(no_mangle)]
static rt_stacks: Stacks = Stacks(core::cell::UnsafeCell::new([[0; STACK_SIZE]; MAX_CPUS]));

static SECONDARY_MAIN: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// Index of this CPU: 0 is the boot CPU, others as given to [`start`].
pub fn index() -> usize {
    let index: usize;
    // SAFETY: reads a register that only the entry code writes.
    unsafe { asm!("mrs {}, tpidr_el1", out(reg) index, options(nomem, nostack)) };
    index
}

/// Affinity fields of this CPU's MPIDR_EL1, as PSCI and the device tree name it.
pub fn mpidr() -> u64 {
    let mpidr: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) mpidr, options(nomem, nostack)) };
    mpidr & 0xff_00ff_ffff
}

/// Starts the CPU with affinity `mpidr` at `main(index)`, which gets stack
/// number `index` (1 to [`MAX_CPUS`] − 1) and must never be given to two CPUs.
///
/// # Errors
/// The PSCI code, or −2 (INVALID_PARAMETERS) for a bad index.
pub fn start(index: usize, mpidr: u64, main: fn(usize) -> !) -> Result<(), i64> {
    if index == 0 || index >= MAX_CPUS {
        return Err(-2);
    }
    SECONDARY_MAIN[index].store(main as usize, Ordering::Release);
    psci::cpu_on(mpidr, secondary_entry() as u64, index as u64)
}

/// Address of the entry point [`start`] gives to PSCI.
pub fn secondary_entry() -> usize {
    unsafe extern "C" {
        fn rt_secondary_entry();
    }
    rt_secondary_entry as *const () as usize
}

#[unsafe(no_mangle)]
extern "C" fn rt_secondary_main(index: usize) -> ! {
    let main = SECONDARY_MAIN[index].load(Ordering::Acquire);
    // SAFETY: `start` stored a `fn(usize) -> !` there before it asked for this
    // CPU, and nothing else is ever stored.
    let main: fn(usize) -> ! = unsafe { core::mem::transmute(main) };
    main(index)
}

/// First byte of the payload's image and the byte after it, bss and stacks
/// included.
pub fn image() -> core::ops::Range<usize> {
    unsafe extern "C" {
        static __image_start: u8;
        static __image_end: u8;
    }
    &raw const __image_start as usize..&raw const __image_end as usize
}

/// What [`mask_interrupts`] found (DAIF).
#[derive(Clone, Copy)]
pub struct InterruptState(u64);

/// Masks IRQs on this CPU and says how they were.
pub fn mask_interrupts() -> InterruptState {
    let daif: u64;
    // SAFETY: masking interrupts breaks nothing. It is a compiler barrier.
    unsafe { asm!("mrs {}, daif", "msr daifset, #2", out(reg) daif, options(nostack)) };
    InterruptState(daif)
}

/// Puts the mask back.
pub fn restore_interrupts(state: InterruptState) {
    // SAFETY: handlers are installed from the first Rust instruction on.
    unsafe { asm!("msr daif, {}", in(reg) state.0, options(nostack)) };
}

/// Unmasks IRQs on this CPU.
pub fn unmask_interrupts() {
    // SAFETY: as above.
    unsafe { asm!("msr daifclr, #2", options(nostack)) };
}

/// Waits for an interrupt, masked or not.
pub fn wfi() {
    // SAFETY: waiting changes nothing.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) };
}

/// Sleeps until `done` holds; it is asked after each interrupt *of this CPU*,
/// so an interrupt handler here must be what makes it true (another CPU sends
/// an SGI). Interrupts are unmasked while it waits and come back as they were.
pub fn wait_until(mut done: impl FnMut() -> bool) {
    let before = mask_interrupts();
    while !done() {
        // WFI ends for a pending interrupt even if masked, so none is lost
        // between the question and the sleep.
        wfi();
        unmask_interrupts();
        // SAFETY: ISB makes the pending interrupt be taken here.
        unsafe { asm!("isb", options(nostack)) };
        mask_interrupts();
    }
    restore_interrupts(before);
}

/// Sleeps for ever.
pub fn park() -> ! {
    loop {
        wfi();
    }
}

/// The part of the image that nothing writes, in whole pages: code and
/// constants.
pub(crate) fn constants() -> core::ops::Range<usize> {
    unsafe extern "C" {
        static __image_start: u8;
        static __data_start: u8;
    }
    &raw const __image_start as usize..&raw const __data_start as usize
}
