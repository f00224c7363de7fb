//! The lock under which bouncer keeps what CPUs share: a spin lock that is
//! fair. With the feature `shuttle` it is a lock of a scheduler that tries
//! interleavings; nothing else differs.
//!
//! Fair, because a guest can lock as often as it likes (each of its calls
//! does): a lock that goes to whoever is quickest would let it keep the host
//! waiting for ever. CPUs draw tickets and are served in order, so a call
//! waits for at most one hold of each other CPU. The longest is one call on
//! [`crate::abi::MAX_RANGE`] frames, to which every transition is cut; only what
//! ends the machine holds longer (`tests::holds` counts).

#[cfg(not(feature = "shuttle"))]
pub(crate) use spin::mutex::TicketMutex as Mutex;

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
    use core::sync::atomic::{AtomicBool, Ordering};
    use spin::RelaxStrategy;
    use std::thread;

    /// The other CPU has looked at the lock and found it taken.
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
