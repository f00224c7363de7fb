//! The host's calls about a VM's life and memory.

use crate::abi;
use crate::addr::{Gfn, PfnRange};
use crate::error::Error;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::measurement::{Extensible, Measurement};
use crate::memory::{Contents, GuestId, GuestMemory};
use crate::stage2::TablePool;
use crate::stats::VmStats;
use crate::vgic::Vgic;
use crate::virtio::PciBus;
use crate::vm::vcpus::Vcpus;
use crate::vm::{GuestAbi, Handle, MmioGuard, Stage, Vm, ram_range};

use super::hypercall::Results;

/// VM_CREATE(first pfn, count, ram pages, vcpus, flags). Everything that can fail
/// is done before the memcache is taken; if the guest's tables cannot be made
/// from it, it goes back.
pub(super) fn create<M: Machine>(
    hyp: &Hypervisor<M>,
    pfn: u64,
    count: u64,
    ram_pages: u64,
    vcpus: u64,
    flags: u64,
) -> Results {
    let abi = GuestAbi::from_flags(flags)?;
    let ram = ram_range(ram_pages)?;
    let frames = PfnRange::new(pfn, count)?;
    if !(abi::MIN_MEMCACHE..=abi::MAX_RANGE).contains(&count) {
        return Err(Error::InvalidParameter);
    }
    let vcpus = Vcpus::new(&hyp.machine, vcpus)?;
    let handle = hyp.create_vm(|memory, slot, handle| {
        let id = GuestId::new(slot).ok_or(Error::NoMemory)?;
        let mut memcache = TablePool::empty();
        memory.host_donate_hyp(&hyp.machine, frames, &mut memcache)?;
        let guest = match GuestMemory::new(&hyp.machine, id, ram, abi.shared_place(), memcache) {
            Ok(guest) => guest.zeroing(flags & abi::CREATE_SHARE_ZEROES != 0),
            Err((error, mut memcache)) => {
                memory.hyp_donate_host(&hyp.machine, &mut memcache, count);
                return Err(error);
            }
        };
        Ok(Vm {
            handle,
            flags,
            abi,
            stage: Stage::Building,
            memory: guest,
            vgic: Vgic::new(vcpus.count()),
            vcpus,
            bus: PciBus::new(),
            guard: MmioGuard::new(abi, flags),
            stats: VmStats::default(),
            measurement: Measurement::default(),
            digest: None,
            extensible: Extensible::default(),
            counter_offset: 0,
        })
    })?;
    Ok([handle.raw(), 0, 0])
}

/// VM_TOPUP(handle, first pfn, count) → frames taken.
pub(super) fn topup<M: Machine>(
    hyp: &Hypervisor<M>,
    handle: Handle,
    pfn: u64,
    count: u64,
) -> Results {
    let frames = PfnRange::new(pfn, count)?;
    let done = hyp.with_memory_and_vm(handle, |memory, vm| {
        if vm.stage == Stage::Dying {
            return Err(Error::BadState);
        }
        memory.host_donate_hyp(&hyp.machine, frames, vm.memory.memcache())
    })?;
    Ok([done, 0, 0])
}

/// FRAME_DONATE(handle, first pfn, first gfn, count, flags) → frames done.
pub(super) fn donate<M: Machine>(
    hyp: &Hypervisor<M>,
    handle: Handle,
    pfn: u64,
    gfn: u64,
    count: u64,
    flags: u64,
) -> Results {
    if flags & !abi::DONATE_MEASURED != 0 {
        return Err(Error::InvalidParameter);
    }
    let measured = flags & abi::DONATE_MEASURED != 0;
    let frames = PfnRange::new(pfn, count)?;
    let gfn = Gfn::new(gfn).ok_or(Error::InvalidParameter)?;
    let done = hyp.with_memory_and_vm(handle, |memory, vm| {
        match vm.stage {
            Stage::Building => {}
            Stage::Running if !measured => {}
            _ => return Err(Error::BadState),
        }
        if measured {
            let measurement = &mut vm.measurement;
            let mut measure =
                |gfn: Gfn, piece: &[u8]| measurement.extend_page(&hyp.machine, gfn, piece);
            let contents = Contents::Measured(&mut measure);
            memory.host_donate_guest(&hyp.machine, &mut vm.memory, frames, gfn, contents)
        } else {
            memory.host_donate_guest(&hyp.machine, &mut vm.memory, frames, gfn, Contents::Zeroed)
        }
    })?;
    Ok([done, 0, 0])
}

/// VM_FINALISE(handle, entry, argument).
pub(super) fn finalise<M: Machine>(
    hyp: &Hypervisor<M>,
    handle: Handle,
    entry: u64,
    argument: u64,
) -> Results {
    let now = hyp.machine.counter();
    hyp.with_vm(handle, |vm| vm.finalise(&hyp.machine, entry, argument, now))?;
    Ok([0; 3])
}

/// VM_MEASUREMENT(handle, part) → 16 bytes.
pub(super) fn measurement<M: Machine>(hyp: &Hypervisor<M>, handle: Handle, part: u64) -> Results {
    let digest = hyp.with_vm(handle, |vm| vm.digest.ok_or(Error::BadState))?;
    let words = digest.as_chunks::<8>().0;
    match (part, words) {
        (0, [low, high, ..]) | (1, [_, _, low, high]) => {
            Ok([u64::from_le_bytes(*low), u64::from_le_bytes(*high), 0])
        }
        _ => Err(Error::InvalidParameter),
    }
}

/// VM_STOP(handle). From now on no vCPU enters; Busy until those that run
/// have come back, which the host brings about by interrupting them.
pub(super) fn stop<M: Machine>(hyp: &Hypervisor<M>, handle: Handle) -> Results {
    hyp.with_memory_and_vm(handle, |memory, vm| {
        vm.begin_dying(&hyp.machine);
        if vm.vcpus.any_running() {
            return Err(Error::Busy);
        }
        vm.memory.begin_dying(&hyp.machine, memory);
        Ok([0; 3])
    })
}

/// FRAME_RECLAIM(handle, first pfn, count) → frames done.
pub(super) fn reclaim<M: Machine>(
    hyp: &Hypervisor<M>,
    handle: Handle,
    pfn: u64,
    count: u64,
) -> Results {
    let frames = PfnRange::new(pfn, count)?;
    let done = hyp.with_memory_and_vm(handle, |memory, vm| {
        vm.expect_stage(Stage::Dying)?;
        if vm.vcpus.any_running() {
            return Err(Error::Busy);
        }
        vm.memory.begin_dying(&hyp.machine, memory);
        memory.reclaim(&hyp.machine, &mut vm.memory, frames)
    })?;
    Ok([done, 0, 0])
}

/// VM_DESTROY(handle) → frames that EL2 still holds.
pub(super) fn destroy<M: Machine>(hyp: &Hypervisor<M>, handle: Handle) -> Results {
    let left = hyp.destroy_vm(handle, |memory, vm| {
        vm.expect_stage(Stage::Dying)?;
        if vm.vcpus.any_running() {
            return Err(Error::Busy);
        }
        vm.memory.begin_dying(&hyp.machine, memory);
        Ok(memory.teardown(&hyp.machine, &mut vm.memory, abi::MAX_RANGE))
    })?;
    Ok([left, 0, 0])
}
