//! REALM_CONFIG: what the guest is, written into a page of its own.
//!
//! The only call of any front end for which EL2 writes memory that is not its
//! own. The page is the guest's, private, and names itself; what is written
//! is known to everybody.

use crate::abi::rsi::{IPA_BITS, status};
use crate::error::Error;
use crate::machine::Machine;

use super::{Answer, Stop, pages};
use crate::addr::FRAME_SIZE;
use crate::guest::Running;

/// Word `index` of the page: width of the address space; hash algorithm
/// (0 is SHA-256); and zeros, the personalisation value (at 0x200) among
/// them, because a VM here has none.
fn configuration(index: usize) -> u64 {
    if index == 0 { IPA_BITS } else { 0 }
}

impl<M: Machine> Running<'_, M> {
    /// REALM_CONFIG(ipa of a page).
    pub(super) fn realm_config(&mut self, ipa: u64) -> Result<Answer, Stop> {
        let page = pages(ipa, ipa.checked_add(FRAME_SIZE).ok_or(Stop::Input)?)?.start();
        let machine = &self.hyp.machine;
        self.hyp.with_memory_and_vm(self.handle, |memory, vm| {
            let written = memory.write_private_page(machine, &vm.memory, page, &configuration);
            Ok(match written {
                // RAM that the host has not given yet.
                Err(Error::NotFound) if !vm.memory.is_at_alias(machine, page) => {
                    Err(Stop::Needs(page))
                }
                other => other.map_err(Stop::from),
            })
        })??;
        Ok([status::SUCCESS, 0, 0, 0])
    }
}
