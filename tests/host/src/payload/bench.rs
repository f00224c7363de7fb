//! What bouncer costs the host, in ticks of the counter. Under QEMU's
//! instruction counting a tick is a fixed number of instructions.

use host::bouncer::{Handle, Refusal};
use host::frames::Run;
use hyp::layout;
use rt::println;

use super::calls::BOUNCER;
use super::clock;
use super::run::FREE;

/// Repetitions of what leaves no trace.
const TIMES: u64 = 2000;
/// Frames that change hands.
const FRAMES: u64 = 256;
/// Frames of page-table memory for the VM that gets them.
const MEMCACHE: u64 = 16;
/// First page of a guest's RAM.
const RAM: u64 = layout::RAM >> 12;

/// Measures and prints; false if a call failed.
pub(super) fn measure() -> bool {
    let taken = {
        let mut free = FREE.lock();
        free.take(MEMCACHE, 1).zip(free.take(7 * FRAMES, 512))
    };
    let Some((memcache, frames)) = taken else { return false };
    let result = calls(memcache, frames);
    let mut free = FREE.lock();
    free.give(memcache);
    free.give(frames);
    if let Err(refusal) = result {
        println!("host: the measurement stopped: {refusal:?}");
    }
    result.is_ok()
}

fn calls(memcache: Run, frames: Run) -> Result<(), Refusal> {
    repeat("host_loop", TIMES, |_| Ok(()))?;
    repeat("host_null_hypercall", TIMES, |_| BOUNCER.version().map(|_| ()))?;
    let vm = BOUNCER.vm_create(memcache.pfn, memcache.count, 7 * FRAMES, 1, 0)?;
    let done = memory(vm, frames);
    BOUNCER.vm_stop(vm)?;
    // What `memory` left behind, if it stopped half-way: refusals are fine.
    for pfn in frames.pfn..frames.end() {
        let _ = BOUNCER.frame_reclaim(vm, pfn, 1);
    }
    while BOUNCER.vm_destroy(vm)? > 0 {}
    done
}

fn memory(vm: Handle, frames: Run) -> Result<(), Refusal> {
    let donate = |offset, count| {
        BOUNCER.frame_donate(vm, frames.pfn + offset, RAM + offset, count, false).map(|_| ())
    };
    // The first splits the host's block and makes the guest's tables.
    once("host_donate_first_page", 1, || donate(0, 1))?;
    repeat("host_donate_page", FRAMES - 1, |index| donate(1 + index, 1))?;
    once("host_donate_page_of_range", FRAMES, || donate(FRAMES, FRAMES))?;
    let measure =
        |offset, count| BOUNCER.frame_donate(vm, frames.pfn + offset, RAM + offset, count, true);
    once("host_measure_page_of_range", FRAMES, || {
        let (mut next, end) = (2 * FRAMES, 3 * FRAMES);
        while next < end {
            next += measure(next, end - next)?;
        }
        Ok(())
    })?;
    // The longest that EL2 keeps interrupts masked in each kind of call.
    once("host_longest_measure", 1, || measure(3 * FRAMES, 2 * FRAMES).map(|_| ()))?;
    once("host_longest_donate", 1, || donate(5 * FRAMES, 2 * FRAMES))?;
    BOUNCER.vm_stop(vm)?;
    let reclaim = |offset, count| BOUNCER.frame_reclaim(vm, frames.pfn + offset, count).map(|_| ());
    repeat("host_reclaim_page", FRAMES, |index| reclaim(index, 1))?;
    once("host_reclaim_page_of_range", FRAMES, || reclaim(FRAMES, FRAMES))?;
    once("host_longest_reclaim", 1, || reclaim(5 * FRAMES, 2 * FRAMES))
}

fn repeat(
    name: &str,
    times: u64,
    mut act: impl FnMut(u64) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    once(name, times, || (0..times).try_for_each(&mut act))
}

/// Something that is worth `count` of what is measured.
fn once(name: &str, count: u64, act: impl FnOnce() -> Result<(), Refusal>) -> Result<(), Refusal> {
    let start = clock::now();
    act()?;
    let ticks = clock::now() - start;
    let frequency = rt::timer::frequency();
    println!("@host bench name={name} ticks={ticks} count={count} frequency={frequency}");
    Ok(())
}
