//! C3: look at a frame from one CPU while another gives it away.

#![allow(unsafe_code)]

use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicBool, AtomicU64};

use hyp::layout;
use rt::attempt;

use super::{Finding, drain_events};
use crate::payload::calls::BOUNCER;
use crate::payload::report::GOOD;
use crate::payload::vm::Vm;
use crate::payload::{clock, cpus, run};

/// What the frames hold while they are the host's.
const PATTERN: u64 = 0x5a5a_0123_4567_5a5a;
/// How long the looker may take to start or end, in milliseconds.
const PATIENCE: u64 = 5000;
/// Looks that must have aborted before the next frame is given away.
const ABORTS: u64 = 4;

/// What both CPUs know.
#[derive(Default)]
struct Race {
    /// The frame's address; 0 before the first, all ones to end.
    frame: AtomicU64,
    /// FRAME_DONATE of this frame has returned.
    given: AtomicU64,
    looks: AtomicU64,
    aborts: AtomicU64,
    /// Looks that began after the call had returned and still succeeded.
    stale: AtomicU64,
    /// Looks that saw neither the host's pattern nor an abort.
    torn: AtomicU64,
    ready: AtomicBool,
}

/// The other CPU: looks and looks.
fn look(race: &Race) {
    race.ready.store(true, SeqCst);
    loop {
        let frame = race.frame.load(SeqCst);
        if frame == u64::MAX {
            return;
        }
        if frame == 0 {
            core::hint::spin_loop();
            continue;
        }
        let given_before = race.given.load(SeqCst) == frame;
        let seen = attempt::try_read_u64(frame);
        race.looks.fetch_add(1, SeqCst);
        match seen {
            Ok(_) if given_before => drop(race.stale.fetch_add(1, SeqCst)),
            Ok(PATTERN) => {}
            Ok(_) => drop(race.torn.fetch_add(1, SeqCst)),
            Err(_) => drop(race.aborts.fetch_add(1, SeqCst)),
        }
    }
}

/// C3: donates `count` frames of `building`'s RAM from page `first` on, one
/// by one, while CPU 1 reads each in a loop. Expected: before the call the
/// host's own data, after it an abort, and nothing else ever.
pub(in crate::payload) fn donation(building: &Vm, first: u64, count: u64) -> Option<Finding> {
    if cpus::count() < 2 {
        return None;
    }
    let race: Arc<Race> = Arc::default();
    let theirs = Arc::clone(&race);
    if !cpus::give(1, move || look(&theirs)) {
        return None;
    }
    clock::spin_until(PATIENCE, || race.ready.load(SeqCst));
    let mut failed = None;
    for page in first..first + count {
        let pfn = building.ram.pfn + page;
        for word in 0..512u64 {
            // SAFETY: a frame of the guest's future RAM, still the host's.
            unsafe { (((pfn << 12) + word * 8) as *mut u64).write_volatile(PATTERN) };
        }
        let before = race.looks.load(SeqCst);
        race.frame.store(pfn << 12, SeqCst);
        clock::spin_until(PATIENCE, || race.looks.load(SeqCst) > before);
        let gfn = (layout::RAM >> 12) + page;
        if let Err(refusal) = BOUNCER.frame_donate(building.handle, pfn, gfn, 1, false) {
            failed = Some(refusal);
            break;
        }
        race.given.store(pfn << 12, SeqCst);
        building.note_donated(pfn);
        let aborts = race.aborts.load(SeqCst);
        clock::spin_until(PATIENCE, || race.aborts.load(SeqCst) >= aborts + ABORTS);
    }
    race.frame.store(u64::MAX, SeqCst);
    run::until(PATIENCE, || cpus::finished(1));
    drain_events();
    let (looks, aborts) = (race.looks.load(SeqCst), race.aborts.load(SeqCst));
    let (stale, torn) = (race.stale.load(SeqCst), race.torn.load(SeqCst));
    let detail = format!(
        "{count} frames, {looks} looks: {aborts} aborts, {stale} stale, {torn} torn{}",
        failed.map_or(alloc::string::String::new(), |why| format!(", donation failed: {why:?}"))
    );
    let outcome = match (failed, stale, torn, aborts >= ABORTS * count) {
        (None, 0, 0, true) => GOOD,
        (Some(_), ..) => "invalid",
        (_, 0, 0, _) => "no-aborts",
        _ => "stale-view",
    };
    let what = "read frames from another CPU while they are donated".into();
    Some(Finding { id: "C3.race", what, outcome, detail })
}
