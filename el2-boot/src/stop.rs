//! The end of bouncer: nothing that it knew of a guest outlives it.
//!
//! Two ways lead here. The host stops or resets the machine: the policy has
//! wiped every guest, and [`finish`] wipes what bouncer itself has left of
//! them. Or bouncer is broken: then no lock and no list of VMs can be relied
//! on, and [`fail_closed`] does all of it by the frame table alone.
//!
//! Whatever runs next may be anybody's: memory survives a reset, and so do
//! registers that the firmware does not write. So in both cases every world
//! loses its stage 2, each CPU that comes into EL2 for want of it forgets its
//! registers and [`park`]s, and the last one wipes heap and stacks, cleans them
//! to memory (a reset may drop what is only in a cache), forgets its own
//! registers, and calls the firmware without touching memory again.
#![allow(unsafe_code)]

use crate::cpu::HYPERVISOR;
use crate::layout::Layout;
use crate::mmu::{self, Stage1};
use crate::{entry, firmware, fixmap, host, percpu, sysreg, world};
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use hyp::addr::{FRAME_SIZE, Pfn, PfnRange};
use hyp::machine::MAX_CPUS;
use hyp::memory::{FrameEntry, Owner};
use platform::ByteRange;
use spin::Once;

global_asm!(include_str!("stop.S"));

unsafe extern "C" {
    /// Forgets the CPU's registers, says so at `parked`, and sleeps.
    fn park_cpu(parked: *const AtomicBool) -> !;
    /// Wipes the CPU's stacks, forgets its registers, and calls `function` of
    /// the firmware.
    fn last_words(function: u64, s: u64, s_end: u64, p: u64, p_end: u64, line: u64) -> !;
}

/// How long CPUs may take that have nothing of a guest, in milliseconds. One
/// that sleeps in the host's WFI never comes, and has nothing to forget.
const PATIENCE: u64 = 20;
/// How long the others may, with a guest loaded or on their way home from one.
const LONG_PATIENCE: u64 = 1000;

/// The CPU that ends the machine, by [`name`]; 0 before the end. From then on
/// no world runs.
static ENDING: AtomicU32 = AtomicU32::new(0);
/// How often that CPU has found bouncer broken.
static BREAKS: AtomicU32 = AtomicU32::new(0);

/// What of memory is bouncer's.
struct Kept {
    layout: Layout,
    /// Heap, tables and stacks; the image.
    own: [PfnRange; 2],
    /// Number of the first frame in the frame table, and how many it has.
    first: u64,
    frames: u64,
}

static KEPT: Once<Kept> = Once::new();

/// Notes where everything is, before there is a guest.
pub(crate) fn prepare(layout: Layout, own: [PfnRange; 2], ram: &[PfnRange]) {
    let first = ram.iter().map(|bank| bank.start().number()).min().unwrap_or(0);
    let frames = hyp::memory::frames_needed(ram);
    KEPT.call_once(|| Kept { layout, own, first, frames });
}

/// Has the end begun? Then a CPU that has come into EL2 parks.
#[inline(always)]
pub(crate) fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed) != 0
}

/// This CPU's affinity and one: it may have no per-CPU data yet.
fn name() -> u32 {
    (sysreg::mpidr_el1::read() & 0xff_ffff) as u32 + 1
}

/// Forgets all that this CPU holds of a world, and stays in EL2 for ever.
#[cold]
pub(crate) fn park() -> ! {
    world::forget();
    let cpu = percpu::this();
    cpu.has_guest.store(false, Ordering::Release);
    // SAFETY: it needs no stack, and what the CPU was doing is over.
    unsafe { park_cpu(&raw const cpu.parked) }
}

/// Waits until `done`, for at most so many milliseconds. A world may sleep in
/// WFE, which does not trap: the event wakes it, and it finds its stage 2 gone.
pub(crate) fn wait(milliseconds: u64, done: &dyn Fn() -> bool) {
    let ticks = sysreg::cntfrq_el0::read() / 1000 * milliseconds;
    let begin = sysreg::cntpct_el0::read();
    while !done() {
        sysreg::sev();
        core::hint::spin_loop();
        sysreg::isb();
        if sysreg::cntpct_el0::read().wrapping_sub(begin) > ticks {
            return;
        }
    }
}

/// Waits for vCPUs to come home.
pub(crate) fn wait_for_guests(done: &dyn Fn() -> bool) {
    wait(LONG_PATIENCE, done);
}

/// Ends the host, on this CPU's word: all guests are home and wiped. `function`
/// is SYSTEM_OFF or SYSTEM_RESET.
pub(crate) fn finish(function: u64) -> ! {
    let _ = begin();
    end_host();
    silence();
    wipe_and_call(function)
}

/// Ends everything because bouncer is broken, and switches the machine off.
/// After [`break_down`].
pub(crate) fn fail_closed() -> ! {
    let (Some(hypervisor), Some(kept)) = (HYPERVISOR.get(), KEPT.get()) else { firmware::stop() };
    let stage1 = hypervisor.machine().stage1();
    end_guests(stage1, kept);
    end_host();
    silence();
    for pfn in frames(kept, |owner| matches!(owner, Owner::Guest(_))) {
        fixmap::zero(stage1, PfnRange::one(pfn));
    }
    wipe_and_call(firmware::SYSTEM_OFF)
}

/// One CPU ends the machine; another that wants to parks. False: this one is at
/// it already.
fn begin() -> bool {
    match ENDING.compare_exchange(0, name(), Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {
            sysreg::dsb_ish();
            true
        }
        Err(who) if who == name() => false,
        Err(_) => park(),
    }
}

/// This CPU has found bouncer broken. Says whether to tell: not if that, or
/// what is done about it, is what broke. If it goes on breaking, the machine is
/// switched off with what could be wiped.
pub(crate) fn break_down() -> bool {
    let first = begin();
    match BREAKS.fetch_add(1, Ordering::Relaxed) {
        0 => first,
        1 | 2 => false,
        _ => firmware::stop(),
    }
}

/// Frames of these owners, by the frame table and without its lock: an entry
/// is one word, and what moves now is wiped where it comes from.
fn frames(kept: &Kept, wanted: impl Fn(Owner) -> bool) -> impl Iterator<Item = Pfn> {
    let table = kept.layout.frame_table.start() as *const FrameEntry;
    (0..kept.frames).filter_map(move |index| {
        // SAFETY: inside the frame table, which is mapped and as long; every
        // word is an entry. Volatile, because another CPU may be in the
        // middle of a call.
        let entry = unsafe { table.add(index as usize).read_volatile() };
        wanted(entry.owner()).then(|| Pfn::new(kept.first + index)).flatten()
    })
}

/// Takes all guests' page tables away: what the host has donated to EL2. Wiped
/// words are invalid descriptors.
fn end_guests(stage1: &Stage1, kept: &Kept) {
    let own = |pfn: Pfn| kept.own.iter().any(|range| range.contains(pfn));
    for table in frames(kept, |owner| owner == Owner::Hyp).filter(|pfn| !own(*pfn)) {
        fixmap::zero(stage1, PfnRange::one(table));
    }
}

/// Takes the host's stage 2 away, and every CPU's memory of anybody's.
fn end_host() {
    // SAFETY: this CPU's, and nothing below runs any world.
    let host = unsafe { percpu::this().host() };
    let root = host.vttbr_el2 & (((1 << 48) - 1) & !(FRAME_SIZE - 1));
    if root == 0 {
        // This CPU has no host yet: others keep theirs until they trap.
        return;
    }
    (0..512).for_each(|index| mmu::word(root, index).store(0, Ordering::Relaxed));
    sysreg::dsb_ish();
    sysreg::tlbi_alle1is();
    sysreg::dsb_ish();
    sysreg::isb();
}

/// Waits until the other CPUs are parked, as far as they can be waited for.
fn silence() {
    let me = percpu::this().index.get();
    let others = || (0..MAX_CPUS).filter(|index| *index != me).filter_map(percpu::of);
    wait(LONG_PATIENCE, &|| others().all(|cpu| !cpu.has_guest.load(Ordering::Acquire)));
    wait(PATIENCE, &|| {
        others().all(|cpu| !cpu.is_on.load(Ordering::Acquire) || cpu.parked.load(Ordering::Acquire))
    });
}

/// Wipes what EL2 has of its own, this CPU's stacks and registers last.
fn wipe_and_call(function: u64) -> ! {
    let Some(kept) = KEPT.get() else { firmware::stop() };
    world::forget();
    let me = percpu::this().index.get();
    let [stack, panic_stack] = kept.layout.stacks(me);
    for index in 0..MAX_CPUS {
        let Some(cpu) = percpu::of(index) else { continue };
        if index != me && cpu.panic_stack.get() != 0 {
            kept.layout.stacks(index).into_iter().for_each(wipe);
        }
    }
    wipe(entry::boot_stack());
    wipe(kept.layout.heap);
    if let Some(hypervisor) = HYPERVISOR.get() {
        let start = &raw const *hypervisor as u64;
        wipe(ByteRange::between(start, start + size_of_val(hypervisor) as u64));
    }
    let line = sysreg::data_cache_line();
    // SAFETY: the stacks are this CPU's, and nothing on them is used again.
    unsafe {
        last_words(
            function,
            stack.start(),
            stack.end(),
            panic_stack.start(),
            panic_stack.end(),
            line,
        )
    }
}

/// Zeroes a piece of bouncer's own memory and cleans it.
fn wipe(range: ByteRange) {
    // SAFETY: mapped, writable, and nobody's any more: other CPUs are parked,
    // or asleep in a world that has no stage 2, and what this CPU still does
    // uses its own stack and constants only.
    unsafe { core::ptr::write_bytes(range.start() as *mut u8, 0, range.size() as usize) }
    host::clean(range.start(), range.size() as usize);
}
