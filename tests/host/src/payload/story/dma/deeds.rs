//! What the guest of the scenario `dma` asks of its host.
//!
//! It writes a word into a register that its UART does not have: the deed in
//! the top byte, what it is about below. The answer is read from there.

#![allow(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use hyp::layout;
use rt::attempt;

use super::{counts, watch};
use crate::payload::calls::BOUNCER;
use crate::payload::vm::Vm;
use crate::payload::window;

/// Offset of the doorbell in the UART's page.
pub(in crate::payload) const BELL: u64 = 0xf00;

/// Does anybody listen? Guests of other scenarios have a plain UART.
static LISTENS: AtomicBool = AtomicBool::new(false);
static ANSWER: AtomicU64 = AtomicU64::new(0);

/// From here on the bell is heard.
pub(super) fn listen() {
    LISTENS.store(true, Relaxed);
}

/// Is this register the bell?
pub(in crate::payload) fn is_bell(offset: u64) -> bool {
    offset == BELL && LISTENS.load(Relaxed)
}

/// The guest rang, or reads the answer, which is returned.
pub(in crate::payload) fn rung(vm: &Vm, word: Option<u64>) -> u64 {
    if let Some(word) = word {
        ANSWER.store(act(vm, word >> 56, word & !(0xff << 56)), Relaxed);
    }
    ANSWER.load(Relaxed)
}

/// All ones: nothing of that kind.
const NOTHING: u64 = u64::MAX;

/// What the host writes when it is asked to.
const WRITTEN: u64 = 0x7772_6974_7465_6e21;
/// What a page is full of that the host is to copy.
const COPIED: u64 = 0x636f_7079_2074_6869;
/// Indices of a ring that it is to follow.
const RING: u64 = 1000;

/// The address of the word at a guest's.
fn place(vm: &Vm, about: u64) -> Option<u64> {
    Some(vm.frame_of(about)? << 12 | about & 0xff8)
}

fn act(vm: &Vm, deed: u64, about: u64) -> u64 {
    match deed {
        1 => counts::begin(vm),
        2 => counts::end(vm, about),
        3 => vm.frame_of(about).map_or(NOTHING, |pfn| {
            let address = pfn << 12 | about & 0xff8;
            u64::from(attempt::try_read_u64(address).is_err())
        }),
        4 => BOUNCER.stats(Some(vm.handle), about).unwrap_or(NOTHING),
        5 => window::REFUSED.load(Relaxed),
        6 => counts::pages(about),
        7 => counts::scan(vm, about),
        8 => vm.lent_frame().map_or(NOTHING, |pfn| write((pfn << 12) + about)),
        16 => place(vm, about).and_then(|at| attempt::try_read_u64(at).ok()).unwrap_or(NOTHING),
        17 => place(vm, about).map_or(NOTHING, write),
        18 => vm.frame_of(about).map_or(0, |pfn| watch::follow(pfn, RING)),
        19 => vm.frame_of(about).map_or(0, |pfn| watch::copy(pfn, COPIED)),
        20 => watch::told(),
        24 => BOUNCER.queue_info(vm.handle, 0, 0).map_or(NOTHING, |info| {
            let offset = about.checked_sub(layout::APERTURE);
            let offset = offset.filter(|offset| *offset < layout::APERTURE_SIZE);
            let word = |offset| attempt::try_read_u64(info.here + (offset & !7)).ok();
            offset.and_then(word).unwrap_or(NOTHING)
        }),
        _ => NOTHING,
    }
}

/// Writes over what is there; 1 if that was an abort.
fn write(at: u64) -> u64 {
    // SAFETY: a page of the guest's or of its device, where no object of this
    // program is.
    u64::from(unsafe { attempt::try_write_u64(at, WRITTEN) }.is_err())
}
