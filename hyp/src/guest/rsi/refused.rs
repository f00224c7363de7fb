//! What bouncer has nothing behind: attestation tokens, and calls of the host.
//!
//! Both are refused in the specification's own words, so that a guest's kernel
//! learns that the thing failed and not that it is no realm. A token fails
//! where it is made: INIT has no way to fail, CONTINUE has (DEN0137 B5.3.1.2,
//! `unknown`). A host call has none: there the Host refuses by what it writes
//! into the guest's memory. Ours is never asked, so the call says it failed.

use crate::abi::rsi::{TOKEN_BOUND, status};
use crate::addr::FRAME_SIZE;
use crate::machine::Machine;

use super::{Answer, Stop, pages};
use crate::guest::Running;

/// Bytes of a host call's structure, and how it is aligned (DEN0137 B5.4.3).
const HOST_CALL_SIZE: u64 = 256;

impl<M: Machine> Running<'_, M> {
    /// ATTESTATION_TOKEN_INIT(challenge) → most bytes of the token.
    pub(super) fn token_init(&mut self) -> Answer {
        self.vcpu.attesting = true;
        [status::SUCCESS, TOKEN_BOUND, 0, 0]
    }

    /// ATTESTATION_TOKEN_CONTINUE(ipa of a page, offset, bytes): the making of
    /// the token fails, and with it the attempt.
    pub(super) fn token_continue(
        &mut self,
        ipa: u64,
        offset: u64,
        bytes: u64,
    ) -> Result<Answer, Stop> {
        page_of(ipa, FRAME_SIZE)?;
        let end = offset.checked_add(bytes).ok_or(Stop::Input)?;
        if offset >= FRAME_SIZE || end > FRAME_SIZE {
            return Err(Stop::Input);
        }
        match core::mem::take(&mut self.vcpu.attesting) {
            true => Err(Stop::Unknown),
            false => Err(Stop::State),
        }
    }
}

/// HOST_CALL(ipa of a structure).
pub(super) fn host_call(ipa: u64) -> Result<Answer, Stop> {
    page_of(ipa, HOST_CALL_SIZE)?;
    Err(Stop::Unknown)
}

/// Is `ipa` aligned, and in a page of the lower half?
fn page_of(ipa: u64, align: u64) -> Result<(), Stop> {
    if !ipa.is_multiple_of(align) {
        return Err(Stop::Input);
    }
    let page = ipa & !(FRAME_SIZE - 1);
    pages(page, page.checked_add(FRAME_SIZE).ok_or(Stop::Input)?)?;
    Ok(())
}
