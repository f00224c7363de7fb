//! What happens after a vector: survive an attempted access, serve an
//! interrupt, or report and stop.

#![allow(unsafe_code)]

use crate::{cpu, gic, irq};
use core::arch::global_asm;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

global_asm!(include_str!("vectors.S"));

/// Registers of interrupted code, as `vectors.S` stores them.
#[repr(C)]
struct Frame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
    esr: u64,
    far: u64,
    _pad: u64,
}

/// One instruction that may fault, and where to go on.
#[repr(C)]
struct Fixup {
    instruction: u64,
    resume: u64,
}

/// Where the functions of [`crate::scan`] are; empty if there are none.
static PROBES: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// From now on a refused instruction in this range is stepped over.
pub(crate) fn set_probes(range: Range<usize>) {
    PROBES[0].store(range.start, Ordering::Release);
    PROBES[1].store(range.end, Ordering::Release);
}

fn is_probe(address: u64) -> bool {
    let [start, end] = [0, 1].map(|index| PROBES[index].load(Ordering::Acquire));
    (start..end).contains(&(address as usize))
}

/// ESR_EL1.EC of an instruction abort taken without a change of level.
const EC_INSTRUCTION_ABORT: u64 = 0x21;

/// SPSR_EL1.SS: one instruction is stepped.
const SPSR_SS: u64 = 1 << 21;

fn fixups() -> &'static [Fixup] {
    unsafe extern "C" {
        static __fixups_start: Fixup;
        static __fixups_end: Fixup;
    }
    let start = &raw const __fixups_start;
    let bytes = &raw const __fixups_end as usize - start as usize;
    // SAFETY: the linker script brackets the section with these symbols; it
    // holds pairs of addresses only, relocated at entry, never written again.
    unsafe { core::slice::from_raw_parts(start, bytes / size_of::<Fixup>()) }
}

#[unsafe(no_mangle)]
extern "C" fn rt_sync(frame: &mut Frame) {
    // A jump to forbidden memory faults at its target: the link register
    // names the instruction after the attempt.
    let key = if frame.esr >> 26 == EC_INSTRUCTION_ABORT { frame.x[30] } else { frame.elr };
    if is_probe(frame.elr) {
        frame.x[1] = 1;
        frame.elr += 4;
        return;
    }
    if let Some(fixup) = fixups().iter().find(|fixup| fixup.instruction == key) {
        // The contract with `attempt!`.
        frame.x[1] = 1;
        frame.x[2] = frame.esr;
        frame.x[3] = frame.far;
        frame.x[5] = frame.elr;
        frame.elr = fixup.resume;
        return;
    }
    let exception =
        irq::DebugException { class: frame.esr >> 26, pc: frame.elr, address: frame.far };
    if let Some(step) = irq::dispatch_debug(exception) {
        frame.spsr = frame.spsr & !SPSR_SS | if step { SPSR_SS } else { 0 };
        return;
    }
    rt_unexpected(frame);
}

#[unsafe(no_mangle)]
extern "C" fn rt_irq(_frame: &mut Frame) {
    if let Some(intid) = gic::acknowledge() {
        irq::dispatch(intid);
        gic::end_of_interrupt(intid);
    }
}

#[unsafe(no_mangle)]
#[allow(clippy::panic)]
extern "C" fn rt_unexpected(frame: &Frame) -> ! {
    panic!(
        "unexpected exception on CPU {}: ESR {:#x} FAR {:#x} PC {:#x} (image + {:#x}) LR {:#x} SPSR {:#x}",
        cpu::index(),
        frame.esr,
        frame.far,
        frame.elr,
        frame.elr.wrapping_sub(cpu::image().start as u64),
        frame.x[30],
        frame.spsr
    )
}
