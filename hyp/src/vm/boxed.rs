//! Heap allocation that can fail.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::error::Error;

/// One `T` on the heap.
pub(crate) type Boxed<T> = Box<[T; 1]>;

/// Moves `value` to the heap.
///
/// `Box::try_new` is not stable; a one-element vector reserves fallibly and
/// becomes a box without allocating again.
///
/// # Errors
/// [`Error::NoMemory`] if the heap is exhausted.
pub(crate) fn try_box<T>(value: T) -> Result<Boxed<T>, Error> {
    let mut one = Vec::new();
    one.try_reserve_exact(1).map_err(|_| Error::NoMemory)?;
    one.push(value);
    one.into_boxed_slice().try_into().map_err(|_| Error::NoMemory)
}
