//! The oracle of a running bouncer sees what only a look at all VMs can see,
//! and stops the machine.

use super::rig::Rig;
use crate::abi::host as id;
use crate::addr::PfnRange;
use crate::memory::{GuestId, GuestMemory, SharedPlace};
use crate::oracle::watch::Mode;
use crate::stage2::TablePool;
use crate::vm::{Handle, ram_range};

/// A rig in which everything is checked after every trap.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.hyp.set_oracle(Mode::Every);
    rig.hvc(id::VERSION, &[]).unwrap();
    rig
}

/// Frames that EL2 takes from the host.
fn taken(rig: &mut Rig, count: u64) -> TablePool {
    let frames = PfnRange::new(rig.frames(count), count).unwrap();
    let mut pool = TablePool::empty();
    let machine = rig.hyp.machine();
    rig.hyp.with_memory(|memory| memory.host_donate_hyp(machine, frames, &mut pool)).unwrap();
    pool
}

#[test]
#[should_panic(expected = "rule FramesAccounted")]
fn a_frame_that_el2_has_and_no_vm_accounts_for() {
    let mut rig = rig();
    taken(&mut rig, 1);
    let _ = rig.hvc(id::VERSION, &[]);
}

#[test]
#[should_panic(expected = "rule RegimesDiffer")]
fn two_vms_with_one_vmid() {
    let mut rig = rig();
    let vms = [0, 1].map(|_| {
        let memcache = rig.frames(16);
        rig.hvc(id::VM_CREATE, &[memcache, 16, 8, 1, 0]).unwrap()[0]
    });
    let first = GuestId::new(Handle::from_raw(vms[0]).slot().unwrap()).unwrap();
    let pool = taken(&mut rig, 16);
    let (ram, place) = (ram_range(8).unwrap(), SharedPlace::InPlace);
    let memory = GuestMemory::new(rig.hyp.machine(), first, ram, place, pool);
    let memory = memory.unwrap_or_else(|(error, _)| unreachable!("{error:?}"));
    let second = Handle::from_raw(vms[1]);
    rig.hyp
        .with_vm(second, |vm| {
            vm.memory = memory;
            Ok(())
        })
        .unwrap();
    let _ = rig.hvc(id::VERSION, &[]);
}
