//! What the host is told of its devices.

use super::rig::Rig;
use crate::abi::host as id;
use crate::addr::Pfn;
use crate::event::EventKind;
use crate::machine::DmaFault;

const STREAM: u32 = 0x18;

#[test]
fn what_a_device_is_refused_is_in_the_log() {
    let mut rig = Rig::new();
    let (_, ram) = rig.building(1);
    let guests = Pfn::new(ram).unwrap();
    let bouncers = rig.layout.hyp[0].start();
    let m = rig.hyp.machine();
    assert!(!m.store_of_device(STREAM, guests, 1));
    assert!(!m.store_of_device(STREAM, bouncers, 1));
    // Of an access to no memory, and by a function that is not known.
    let read = DmaFault { stream: 1, event: 2, write: false, address: 0xffff_ffff_ffff_f000 };
    m.world().dma_faults.push_back(read);
    for (owner, stream, address, event) in [
        (3, STREAM, guests.base(), 0x110),
        (1, STREAM, bouncers.base(), 0x110),
        (0, 1, read.address, 0x02),
    ] {
        let what = EventKind::HostDma as u64 | owner << 16 | u64::from(stream) << 32;
        assert_eq!(rig.hvc(id::EVENT_NEXT, &[]), Ok([what, address, event]));
    }
    assert!(rig.hvc(id::EVENT_NEXT, &[]).is_err());
}

/// A device that floods the IOMMU costs a call a bounded time.
#[test]
fn one_call_takes_over_only_so_many_refusals() {
    let rig = Rig::new();
    let fault = DmaFault { stream: 1, event: 0x10, write: true, address: 0 };
    rig.hyp.machine().world().dma_faults.extend([fault; 40]);
    let left = || rig.hyp.machine().world().dma_faults.len();
    for expected in [24, 8, 0, 0] {
        assert!(rig.hvc(id::EVENT_NEXT, &[]).is_ok());
        assert_eq!(left(), expected);
    }
}
