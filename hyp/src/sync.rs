//! The lock under which bouncer keeps what CPUs share: a spin lock that nobody
//! waits for without a bound. With the feature `shuttle` it is a lock of a
//! scheduler that tries interleavings; nothing else differs.
//!
//! Bounded, because a guest can lock as often as it likes (each of its calls
//! does): a lock that goes to whoever is quickest would let it keep the host
//! waiting for ever. A CPU that has looked `PATIENCE` times and found the lock
//! taken draws a ticket; as long as somebody has one, nobody else begins to
//! try. From then on a call waits for two holds of each other CPU at most. The
//! longest is one call on [`crate::abi::MAX_RANGE`] frames, to which every call
//! is cut (`tests::holds` counts). Two hold longer: a guest that moves or
//! closes a BAR of memory, all of which is unmapped at once (4096 pages at
//! most), and what ends the machine.
//!
//! Tickets alone would do, and be a little fairer. But where a CPU is a thread
//! that its own scheduler stops at any time, as with an emulator of more CPUs
//! than there are cores, each hand-over waits until the very next in line runs
//! again: a Linux guest with four vCPUs took fifteen times as long to boot.

#[cfg(not(feature = "shuttle"))]
pub use bounded::Mutex;

#[cfg(not(feature = "shuttle"))]
mod bounded {
    use spin::mutex::{SpinMutex, SpinMutexGuard, TicketMutex};
    use spin::{RelaxStrategy, Spin};

    /// How often a CPU looks before it insists: a few milliseconds on
    /// a CPU, and about as long as an emulator's thread runs at a time.
    pub(super) const PATIENCE: u32 = 1 << 18;

    /// A spin lock with a bounded wait; `R` is what a CPU does between two
    /// looks.
    #[derive(Debug)]
    pub struct Mutex<T, R = Spin> {
        /// Held by the one CPU that insists; the others that do wait for it in
        /// the order in which they came.
        turn: TicketMutex<(), R>,
        value: SpinMutex<T, R>,
    }

    impl<T, R: RelaxStrategy> Mutex<T, R> {
        /// A free lock around `value`.
        pub const fn new(value: T) -> Self {
            Self { turn: TicketMutex::new(()), value: SpinMutex::new(value) }
        }

        /// Waits for the lock.
        pub fn lock(&self) -> SpinMutexGuard<'_, T, R> {
            for _ in 0..PATIENCE {
                if !self.turn.is_locked()
                    && let Some(guard) = self.value.try_lock()
                {
                    return guard;
                }
                R::relax();
            }
            let _turn = self.turn.lock();
            self.value.lock()
        }

        /// What is in it, for which nobody waits any more.
        pub fn into_inner(self) -> T {
            self.value.into_inner()
        }
    }
}

#[cfg(feature = "shuttle")]
pub(crate) use scheduled::Mutex;

#[cfg(feature = "shuttle")]
mod scheduled {
    use std::sync::PoisonError;

    /// [`shuttle::sync::Mutex`] with the interface of [`spin::Mutex`].
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests {
    use super::Mutex;
    use super::bounded::PATIENCE;
    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use spin::RelaxStrategy;
    use std::thread;

    /// How often the other CPU has looked at the lock and found it taken.
    static LOOKS: AtomicU32 = AtomicU32::new(0);
    /// It has lost its patience, and does not look until this CPU lets it.
    static WAITS: AtomicBool = AtomicBool::new(false);
    /// It may look again: not before this CPU, too, wants the lock again.
    static GO: AtomicBool = AtomicBool::new(false);
    static THIS: std::sync::Mutex<Option<thread::ThreadId>> = std::sync::Mutex::new(None);

    struct Slow;

    impl RelaxStrategy for Slow {
        fn relax() {
            if *THIS.lock().unwrap() == Some(thread::current().id()) {
                GO.store(true, Ordering::SeqCst);
                return;
            }
            if LOOKS.fetch_add(1, Ordering::SeqCst) < PATIENCE {
                return;
            }
            WAITS.store(true, Ordering::SeqCst);
            while !GO.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        }
    }

    /// A slow CPU waits for the lock; a quick one lets go of it and wants it
    /// again at once. An unfair lock is the quick one's for ever.
    #[test]
    fn who_has_waited_is_served_first() {
        static LOCK: Mutex<u32, Slow> = Mutex::new(0);
        *THIS.lock().unwrap() = Some(thread::current().id());
        let mine = LOCK.lock();
        let other = thread::spawn(|| *LOCK.lock() += 1);
        while !WAITS.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        drop(mine);
        let served = *LOCK.lock();
        GO.store(true, Ordering::SeqCst);
        other.join().unwrap();
        assert_eq!(served, 1, "the quick CPU overtook the one that waited");
    }
}
