//! The guest's hypercalls: PSCI and SMCCC, pKVM's memory calls, and what
//! bouncer adds; those about I/O tables are in `iotable`.
//!
//! All are answered at EL2. The host is never asked and cannot lie.

use crate::abi::guest::{self as id, extension};
use crate::addr::{FRAME_SIZE, Gfn, GfnRange, aligned_frame_number};
use crate::error::Error;
use crate::layout;
use crate::machine::Machine;
use crate::stats::VmCounter;
use crate::vgic::VcpuSet;
use crate::vm::Vm;

use super::{Outcome, Running};

/// FEATURES: one bit per function number of the calls below.
const FEATURES: u64 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9;
/// HYP_MEMINFO x1: calls take ranges.
const RANGES: u64 = 1;

/// x0 and x1 of an answer that succeeded.
type Answer = Result<[u64; 2], Error>;

impl<M: Machine> Running<'_, M> {
    /// HVC; the pc is already behind it.
    pub(super) fn hypercall(&mut self, immediate: u16) -> Outcome {
        self.count(VmCounter::Hypercalls);
        let frame = &self.vcpu.state.frame;
        let [function, a1, a2, a3] = [0, 1, 2, 3].map(|index| frame.get(index));
        let function = match u32::try_from(function) {
            Ok(function) if immediate == 0 => function,
            _ => return self.answer(Err(Error::NotSupported)),
        };
        if let Some(outcome) = self.power_call(function, [a1, a2, a3]) {
            return outcome;
        }
        let answer = match function {
            id::UID => return self.answer_uid(),
            id::EXTENSIONS => return self.extensions(),
            id::MEM_UNSHARE_ALL => return self.unshare_all(a1),
            id::IOTABLE_SET => return self.iotable_set(a1, a2),
            id::REFRESH => return self.refresh(a1, a2, a3),
            id::IOTABLE_INFO => return self.iotable_info(a1),
            id::FEATURES => Ok([FEATURES, 0]),
            id::HYP_MEMINFO => no_arguments([a1, a2, a3]).map(|()| [FRAME_SIZE, RANGES]),
            id::MEM_SHARE => self.share(a1, a2, a3),
            id::MEM_UNSHARE => self.unshare(a1, a2, a3),
            id::MEM_RELINQUISH => self.relinquish(a1),
            id::MMIO_GUARD_INFO => no_arguments([a1, a2, a3]).map(|()| [FRAME_SIZE, 0]),
            // Always on: an access that was not granted never exits.
            id::MMIO_GUARD_ENROLL => Ok([0, 0]),
            id::MMIO_GUARD_MAP => self.guard_map(a1),
            id::MMIO_GUARD_UNMAP => self.guard_unmap(a1),
            _ => Err(Error::NotSupported),
        };
        self.answer(answer)
    }

    /// The other front end's instruction: there is nothing behind it.
    pub(super) fn no_call(&mut self) -> Outcome {
        self.count(VmCounter::Hypercalls);
        self.answer(Err(Error::NotSupported))
    }

    fn answer(&mut self, answer: Answer) -> Outcome {
        let values = match answer {
            Ok([x0, x1]) => [x0, x1, 0, 0],
            Err(error) => [error.code() as u64, 0, 0, 0],
        };
        self.results(values)
    }

    fn answer_uid(&mut self) -> Outcome {
        self.results(id::UID_WORDS.map(u64::from))
    }

    pub(super) fn results(&mut self, values: [u64; 4]) -> Outcome {
        for (register, value) in (0..).zip(values) {
            self.vcpu.state.frame.set(register, value);
        }
        Outcome::Resume
    }

    /// MEM_SHARE(ipa, pages or 0, 0) → pages done.
    fn share(&mut self, ipa: u64, pages: u64, reserved: u64) -> Answer {
        let range = page_range(ipa, pages, reserved)?;
        let machine = &self.hyp.machine;
        let done = self.hyp.with_guest_memory(self.handle, |memory, guest| {
            memory.guest_share_host(machine, guest, range)
        })?;
        self.stats.add(VmCounter::PagesShared, done);
        Ok([0, done])
    }

    /// MEM_UNSHARE(ipa, pages or 0, 0) → pages done.
    fn unshare(&mut self, ipa: u64, pages: u64, reserved: u64) -> Answer {
        let range = page_range(ipa, pages, reserved)?;
        let machine = &self.hyp.machine;
        let done = self.hyp.with_guest_memory(self.handle, |memory, guest| {
            memory.guest_unshare_host(machine, guest, range)
        })?;
        self.stats.add(VmCounter::PagesUnshared, done);
        Ok([0, done])
    }

    /// MEM_UNSHARE_ALL(ipa) → pages taken back, where to go on or 0, pages that
    /// stay lent.
    fn unshare_all(&mut self, ipa: u64) -> Outcome {
        let machine = &self.hyp.machine;
        let back = page(ipa).and_then(|from| {
            self.hyp.with_guest_memory(self.handle, |memory, guest| {
                memory.guest_unshare_all(machine, guest, from)
            })
        });
        match back {
            Ok(back) => {
                self.stats.add(VmCounter::PagesUnshared, back.pages);
                let next = back.next.map_or(0, Gfn::base);
                self.results([0, back.pages, next, back.held])
            }
            Err(error) => self.answer(Err(error)),
        }
    }

    /// EXTENSIONS() → bitmap.
    fn extensions(&mut self) -> Outcome {
        let zeroes = self.hyp.with_guest_memory(self.handle, |_, guest| Ok(guest.is_zeroing()));
        self.answer(zeroes.map(|zeroes| {
            let zeroes = if zeroes { extension::SHARE_ZEROES } else { 0 };
            [0, extension::UNSHARE_ALL | extension::IO_TABLES | zeroes]
        }))
    }

    /// MEM_RELINQUISH(ipa): the page goes back to the host, wiped.
    fn relinquish(&mut self, ipa: u64) -> Answer {
        let range = page_range(ipa, 1, 0)?;
        let machine = &self.hyp.machine;
        self.hyp.with_guest_memory(self.handle, |memory, guest| {
            memory.guest_relinquish(machine, guest, range)?;
            Ok([0, 0])
        })
    }

    /// MMIO_GUARD_MAP(ipa). Pages that EL2 serves itself need no grant, and
    /// asking for one is not an error (Linux asks for every ioremap).
    fn guard_map(&mut self, ipa: u64) -> Answer {
        let page = page(ipa)?;
        self.hyp.with_vm(self.handle, |vm| match place(vm, ipa) {
            Place::Emulated => Ok([0, 0]),
            Place::Ram => Err(Error::Denied),
            Place::Elsewhere => vm.guard.map(page).map(|()| [0, 0]),
        })
    }

    fn guard_unmap(&mut self, ipa: u64) -> Answer {
        let page = page(ipa)?;
        let here = self.hyp.machine.cpu();
        let kick = self.hyp.with_vm(self.handle, |vm| match place(vm, ipa) {
            Place::Emulated => Ok(VcpuSet::EMPTY),
            Place::Ram => Err(Error::Denied),
            Place::Elsewhere => vm.revoke(page).map(|targets| vm.vcpus.to_kick(targets, here)),
        })?;
        self.kick = self.kick.union(kick);
        Ok([0, 0])
    }
}

/// What is at a guest address.
enum Place {
    Ram,
    Emulated,
    Elsewhere,
}

fn place(vm: &Vm, ipa: u64) -> Place {
    let within = |start: u64, size: u64| ipa >= start && ipa - start < size;
    let redistributors = layout::GICR_STRIDE * vm.vcpus.count() as u64;
    if vm.is_ram(ipa) {
        Place::Ram
    } else if within(layout::GICD, layout::GICD_SIZE)
        || within(layout::MSI_FRAME, layout::MSI_FRAME_SIZE)
        || within(layout::GICR, redistributors)
        || within(layout::PCI_MEM32, layout::PCI_MEM32_SIZE)
        || within(layout::ECAM, layout::ECAM_SIZE)
        || within(layout::PCI_MEM64, layout::PCI_MEM64_SIZE)
    {
        Place::Emulated
    } else {
        Place::Elsewhere
    }
}

fn page(ipa: u64) -> Result<Gfn, Error> {
    Gfn::new(aligned_frame_number(ipa)?).ok_or(Error::InvalidParameter)
}

/// The range of a memory call. Linux passes 0 pages and means 1.
fn page_range(ipa: u64, pages: u64, reserved: u64) -> Result<GfnRange, Error> {
    if reserved != 0 {
        return Err(Error::InvalidParameter);
    }
    GfnRange::new(aligned_frame_number(ipa)?, pages.max(1))
}

fn no_arguments(arguments: [u64; 3]) -> Result<(), Error> {
    if arguments == [0; 3] { Ok(()) } else { Err(Error::InvalidParameter) }
}
