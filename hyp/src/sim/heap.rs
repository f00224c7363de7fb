//! Whose an allocation is, and whether it fails.
//!
//! The policy allocates fallibly, and a host can bring EL2's heap to its end.
//! A program whose global allocator asks here first ([`take`], [`give`]) lets
//! any allocation of a trap fail, and learns what the trap kept. What the
//! simulated machine stores for itself is not EL2's and neither counts nor
//! fails.

use core::cell::Cell;
use spin::MutexGuard;

/// What a trap did to the heap.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct HeapUse {
    /// Allocations it asked for.
    pub asked: u64,
    /// Those it did not get.
    pub failed: u64,
    /// Bytes it took and did not give back.
    pub kept: i64,
}

/// The heap as one thread sees it.
#[derive(Clone, Copy)]
struct Watch {
    /// Is a trap being handled?
    on: bool,
    /// Allocations that still succeed; `None`: all.
    left: Option<u64>,
    used: HeapUse,
}

std::thread_local! {
    static WATCH: Cell<Watch> = const {
        Cell::new(Watch {
            on: false,
            left: None,
            used: HeapUse { asked: 0, failed: 0, kept: 0 },
        })
    };
    /// How deep in the simulated machine are we? Apart, because it changes
    /// with every access.
    static MACHINE: Cell<u32> = const { Cell::new(0) };
}

/// Calls `trap` and tells what it did to the heap. After `left` allocations
/// every further one fails; with `None` all succeed. A trap inside a trap (the
/// host acts while a guest runs) is watched for itself.
pub fn watch<R>(left: Option<u64>, trap: impl FnOnce() -> R) -> (R, HeapUse) {
    let fresh = Watch { on: true, left, used: HeapUse::default() };
    let outer = Outer(WATCH.replace(fresh), MACHINE.replace(0));
    let result = trap();
    let used = WATCH.get().used;
    drop(outer);
    (result, used)
}

/// What was watched before, and will be again, also after a panic.
struct Outer(Watch, u32);

impl Drop for Outer {
    fn drop(&mut self) {
        WATCH.set(self.0);
        MACHINE.set(self.1);
    }
}

/// An allocator is asked for `bytes`: may it give them?
pub fn take(bytes: usize) -> bool {
    let mut watch = WATCH.get();
    // A panic needs memory for its message.
    if !watch.on || MACHINE.get() > 0 || std::thread::panicking() {
        return true;
    }
    watch.used.asked += 1;
    let gives = watch.left != Some(0);
    if gives {
        watch.left = watch.left.map(|left| left - 1);
        watch.used.kept += bytes as i64;
    } else {
        watch.used.failed += 1;
    }
    WATCH.set(watch);
    gives
}

/// An allocator gets `bytes` back.
pub fn give(bytes: usize) {
    let mut watch = WATCH.get();
    if watch.on && MACHINE.get() == 0 {
        watch.used.kept -= bytes as i64;
        WATCH.set(watch);
    }
}

/// While this lives, allocations are the simulated machine's.
pub(super) struct Machine(());

impl Machine {
    pub(super) fn enter() -> Self {
        MACHINE.set(MACHINE.get() + 1);
        Self(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        MACHINE.set(MACHINE.get() - 1);
    }
}

/// A part of the simulated machine, locked.
pub struct Locked<'a, T> {
    part: MutexGuard<'a, T>,
    _machine: Machine,
}

impl<'a, T> Locked<'a, T> {
    pub(super) fn new(part: MutexGuard<'a, T>) -> Self {
        Self { part, _machine: Machine::enter() }
    }
}

impl<T> core::ops::Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.part
    }
}

impl<T> core::ops::DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_in_a_trap_and_outside_the_machine_counts_and_fails() {
        assert!(take(1), "no trap");
        let ((), used) = watch(Some(1), || {
            assert!(take(8));
            assert!(!take(100), "the second");
            let machine = Machine::enter();
            assert!(take(7) && take(7), "the machine's own");
            let ((), inner) = watch(None, || assert!(take(5), "a trap of its own"));
            assert_eq!(inner, HeapUse { asked: 1, failed: 0, kept: 5 });
            give(14);
            drop(machine);
            give(3);
        });
        assert_eq!(used, HeapUse { asked: 2, failed: 1, kept: 5 });
        give(1);
        assert_eq!(watch(None, || ()).1, HeapUse::default());
    }
}
