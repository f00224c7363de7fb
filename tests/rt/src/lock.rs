//! A spin lock that an interrupt handler may take too: interrupts of the CPU
//! are masked while it is held.

use crate::cpu::{self, InterruptState};
use core::ops::{Deref, DerefMut};

/// A value behind a spin lock that masks interrupts.
pub struct IrqLock<T>(spin::Mutex<T>);

impl<T> IrqLock<T> {
    /// An unlocked value.
    pub const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }

    /// Masks interrupts and waits for the lock.
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let interrupts = cpu::mask_interrupts();
        IrqGuard { guard: Some(self.0.lock()), interrupts }
    }
}

/// Access to the value; dropping it unlocks, then restores the mask.
pub struct IrqGuard<'a, T> {
    // An Option so that the lock is released before interrupts come back.
    guard: Option<spin::MutexGuard<'a, T>>,
    interrupts: InterruptState,
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.guard {
            Some(guard) => guard,
            None => unreachable!("the guard lives until drop"),
        }
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.guard {
            Some(guard) => guard,
            None => unreachable!("the guard lives until drop"),
        }
    }
}

impl<T> Drop for IrqGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        cpu::restore_interrupts(self.interrupts);
    }
}
