//! The log of page-table events (feature `trace`): [`hyp::trace`]'s records,
//! in order, in EL2's own memory, for whoever looks at it from outside after
//! the machine has stopped. Nothing inside ever reads it.
//!
//! It keeps the oldest and counts the rest: a replay must begin at the
//! beginning.

#[cfg(not(feature = "trace"))]
#[inline(always)]
pub(crate) fn record(_: hyp::trace::Event) {}

#[cfg(not(feature = "trace"))]
#[inline(always)]
pub(crate) fn quiet(_: hyp::machine::Cause) {}

#[cfg(not(feature = "trace"))]
pub(crate) fn announce() {}

#[cfg(feature = "trace")]
pub(crate) use kept::{announce, quiet, record};

#[cfg(feature = "trace")]
mod kept {
    use crate::percpu;
    use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use hyp::machine::Cause;
    use hyp::trace::{Event, Record, WORDS};

    /// Records there is room for: 32 MiB.
    const ROOM: usize = 1 << 20;

    /// How many were to be kept so far, and the records, in this order.
    #[repr(C)]
    struct Log {
        next: AtomicU64,
        records: [[AtomicU64; WORDS]; ROOM],
    }

    static LOG: Log = Log {
        next: AtomicU64::new(0),
        records: [const { [const { AtomicU64::new(0) }; WORDS] }; ROOM],
    };
    /// Something was done since nothing was under way.
    static CHANGED: AtomicBool = AtomicBool::new(false);

    /// Keeps what was done.
    pub(crate) fn record(event: Event) {
        CHANGED.store(true, Ordering::Relaxed);
        push(event);
    }

    /// Keeps that nothing is under way, and why the last was, if anything has
    /// been.
    pub(crate) fn quiet(cause: Cause) {
        if CHANGED.swap(false, Ordering::Relaxed) {
            push(Event::Quiet(cause));
        }
    }

    fn push(event: Event) {
        // What must be in order is done under a lock, which orders this too.
        let number = LOG.next.fetch_add(1, Ordering::Relaxed);
        let Some(place) = LOG.records.get(number as usize) else { return };
        let words = Record { number, cpu: percpu::this().index.get(), event }.encode();
        for (place, word) in place.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }

    /// Says where the log is.
    pub(crate) fn announce() {
        log::info!("trace: room for {ROOM} records at {:#x}", &raw const LOG as u64);
    }
}
