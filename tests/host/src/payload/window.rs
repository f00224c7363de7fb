//! The guest memory a backend may touch: a run of the host's address space
//! that the guest sees somewhere else.
//!
//! Of a device that brings its memory it is the host's own frames behind the
//! BAR: every access succeeds, and nothing else is in range. With shared pages
//! it is the guest's
//! whole RAM: the host's mapping has holes wherever the guest did not share,
//! and an access there is a fault that this module survives and counts. With an
//! I/O table it is a window of its own in the host's address space, in which
//! the guest's table says what is where, and what may only be read.

#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering, fence};

use host::bouncer::Handle;
use host::memory::{Fault, Memory};
use host::span::Span;
use hyp::layout;
use rt::{attempt, mmu};

use super::calls::BOUNCER;
use super::vm::Problem;

/// Bytes of a device's window.
const WINDOW: u64 = layout::APERTURE_SIZE;

/// Puts the window of a device with an I/O table into this program's own
/// address space, if it is not there from an earlier guest. That an access
/// there succeeds is the guest's to say.
pub(super) fn reach(vm: Handle, device: u64) -> Result<(), Problem> {
    let info = BOUNCER.queue_info(vm, device, 0);
    let at = info.map_err(|why| Problem { step: "QUEUE_INFO", why: Some(why) })?.here;
    match mmu::map_identity(at, WINDOW, mmu::Memory::Normal) {
        Ok(()) | Err(mmu::MapError::Occupied) => Ok(()),
        Err(_) => Err(Problem { step: "the window of a device", why: None }),
    }
}

/// Accesses by backends that the hardware refused.
pub(super) static REFUSED: AtomicU64 = AtomicU64::new(0);

/// A run of memory, and the only way to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window(pub(super) Span);

impl Window {
    /// An access at host address `at` was refused by the hardware.
    fn refused(&self, at: u64) -> Fault {
        REFUSED.fetch_add(1, Ordering::Relaxed);
        Fault { address: self.0.guest_address(at) }
    }
}

impl Memory for Window {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut at = self.0.translate(address, into.len() as u64)?;
        let mut rest = into;
        while !rest.is_empty() {
            let step = step(at, rest.len());
            let value = match step {
                8 => attempt::try_read_u64(at),
                _ => attempt::try_read_u8(at),
            };
            let value = value.map_err(|_| self.refused(at))?;
            let Some((piece, tail)) = rest.split_at_mut_checked(step) else { break };
            piece.copy_from_slice(value.to_le_bytes().get(..step).unwrap_or_default());
            rest = tail;
            at += step as u64;
        }
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Fault> {
        let mut at = self.0.translate(address, from.len() as u64)?;
        let mut rest = from;
        while !rest.is_empty() {
            let step = step(at, rest.len());
            let Some((piece, tail)) = rest.split_at_checked(step) else { break };
            let value = piece.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            // SAFETY: the window covers frames that were taken from the free
            // frames for this guest; no Rust object is there.
            let done = unsafe {
                match step {
                    8 => attempt::try_write_u64(at, value),
                    _ => attempt::try_write_u8(at, value),
                }
            };
            done.map_err(|_| self.refused(at))?;
            rest = tail;
            at += step as u64;
        }
        Ok(())
    }

    fn load_index(&self, address: u64) -> Result<u16, Fault> {
        if !address.is_multiple_of(2) {
            return Err(Fault { address });
        }
        let at = self.0.translate(address, 2)?;
        let value = attempt::try_read_u16(at).map_err(|_| self.refused(at))?;
        // DMB: what the index announces is read after the index.
        fence(Ordering::SeqCst);
        Ok(value as u16)
    }

    fn store_index(&self, address: u64, value: u16) -> Result<(), Fault> {
        if !address.is_multiple_of(2) {
            return Err(Fault { address });
        }
        let at = self.0.translate(address, 2)?;
        fence(Ordering::SeqCst);
        // SAFETY: as in `write`.
        let done = unsafe { attempt::try_write_u16(at, value.into()) };
        done.map_err(|_| self.refused(at))?;
        fence(Ordering::SeqCst);
        Ok(())
    }
}

/// Bytes the next access moves: eight where aligned, else one.
fn step(at: u64, left: usize) -> usize {
    if at.is_multiple_of(8) && left >= 8 { 8 } else { 1 }
}
