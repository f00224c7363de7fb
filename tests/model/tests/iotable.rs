//! The calls about I/O tables, each answer of theirs, by the real hypervisor
//! and by the model, which must agree after each.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use hyp::abi::{self, guest};
use hyp::error::Error;
use hyp::layout::{APERTURE, APERTURE_SIZE};
use model::event::{Event, FrameName, HostAction, HostCall, Instruction, IpaName, Step, VmName};
use model::session::Session;

const VM: VmName = VmName::Slot(0);
const RAM: u64 = 0x4000_0000;

fn host(session: &Session, call: HostCall) {
    let before = session.stats().successes;
    session.apply(&Event::Host(0, HostAction::Call(call))).unwrap();
    assert!(session.stats().successes > before, "{call:?} is refused");
}

fn run(session: &Session, steps: Vec<Step>) {
    let run = HostAction::Run { vm: VM, vcpu: 0, reply: 0, steps };
    session.apply(&Event::Host(0, run)).unwrap();
}

/// Makes the call; x0 to x3 as the guest finds them when it goes on.
fn call(session: &Session, function: u32, [a1, a2, a3]: [u64; 3]) -> [u64; 4] {
    let arguments = (IpaName::Raw(a1), a2, a3);
    let hvc = Instruction::Hvc { function: function.into(), immediate: 0, arguments };
    run(session, vec![Step::Guest(hvc)]);
    // It goes on, up to its next trap.
    run(session, Vec::new());
    let state = session.state();
    let x = state.vm_in(0).unwrap().vcpus[0].x;
    [x[0], x[1], x[2], x[3]]
}

fn error(error: Error) -> [u64; 4] {
    [error.code() as u64, 0, 0, 0]
}

/// A guest with four pages of the sixteen that its RAM has, a device with an
/// I/O table and one without.
fn guest() -> Session {
    let session = Session::new(false).unwrap();
    let pfn = FrameName::Free(0);
    host(&session, HostCall::VmCreate { pfn, count: 12, ram: 16, vcpus: 1, flags: 0 });
    let device =
        |policy, pages| HostCall::DeviceCreate { vm: VM, kind: 4, policy, pages, queues: 1 };
    host(&session, device(abi::POLICY_SHADOW_IOMMU, 8));
    host(&session, device(abi::POLICY_SHARED_PAGES, 0));
    host(&session, HostCall::FrameDonate { vm: VM, pfn, gfn: RAM >> 12, count: 4, flags: 0 });
    host(&session, HostCall::VmFinalise { vm: VM, entry: RAM, argument: 0 });
    session
}

#[test]
fn a_table_that_holds_secrets_and_no_table_at_all() {
    let session = guest();
    let pages = APERTURE_SIZE >> 12;
    let set = |device, root| call(&session, guest::IOTABLE_SET, [device, root, 0]);
    let refresh = |device, iova, pages| call(&session, guest::REFRESH, [device, iova, pages]);
    let info = |device| call(&session, guest::IOTABLE_INFO, [device, 0, 0]);
    assert_eq!(info(0), [0, APERTURE, pages, 8]);
    for device in [1, 2, u64::MAX] {
        assert_eq!(info(device), error(Error::NotFound));
        assert_eq!(set(device, RAM), error(Error::NotFound));
        assert_eq!(refresh(device, APERTURE, 1), error(Error::NotFound));
    }
    assert_eq!(refresh(0, APERTURE, 1), error(Error::BadState));
    for root in [RAM + 8, RAM + (16 << 12), 1 << 39, APERTURE, u64::MAX] {
        assert_eq!(set(0, root), error(Error::InvalidParameter), "{root:#x}");
    }
    assert_eq!(set(0, RAM), [0; 4]);
    for (iova, count) in [
        (APERTURE, 0),
        (APERTURE + 8, 1),
        (APERTURE - 4096, 2),
        (APERTURE + APERTURE_SIZE, 1),
        (APERTURE, pages + 1),
        (u64::MAX - 4095, 2),
        (RAM, 1),
    ] {
        assert_eq!(refresh(0, iova, count), error(Error::InvalidParameter), "{iova:#x} {count}");
    }
    // A guest's memory holds secrets here: no word of a table.
    assert_eq!(refresh(0, APERTURE, 1), error(Error::InvalidParameter));
    assert_eq!(set(0, 0), [0; 4]);
    assert_eq!(refresh(0, APERTURE, 1), error(Error::BadState));
    session.finish().unwrap();
}

#[test]
fn a_table_is_the_guests_alone_or_is_not_read() {
    let session = guest();
    assert_eq!(call(&session, guest::IOTABLE_SET, [0, RAM, 0]), [0; 4]);
    assert_eq!(call(&session, guest::MEM_SHARE, [RAM, 1, 0])[0], 0);
    let refreshed = || call(&session, guest::REFRESH, [0, APERTURE, 1]);
    assert_eq!(refreshed(), error(Error::Denied));
    assert_eq!(call(&session, guest::MEM_UNSHARE, [RAM, 1, 0])[0], 0);
    assert_eq!(refreshed(), error(Error::InvalidParameter));
    // Given back, it is asked of the host, and the guest's registers are what
    // they were: it makes the call again.
    assert_eq!(call(&session, guest::MEM_RELINQUISH, [RAM, 0, 0])[0], 0);
    assert_eq!(refreshed(), [guest::REFRESH.into(), 0, APERTURE, 1]);
    session.finish().unwrap();
}
