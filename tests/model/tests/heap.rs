//! The heap comes to its end in every allocation of every call.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use hyp::abi;
use model::event::{Event, FrameName, HostAction, HostCall, VmName};
use model::heap::FailingHeap;
use model::session::Session;

#[global_allocator]
static HEAP: FailingHeap = FailingHeap;

const VM: VmName = VmName::Slot(0);

fn call(session: &Session, call: HostCall) {
    session.apply(&Event::Host(0, HostAction::Call(call))).unwrap();
}

/// Makes the call with a heap that ends after no, one, two… allocations, until
/// it has what it needs: how many that are. The session sees to it that each
/// failure is answered, changes nothing and keeps nothing.
fn starve(session: &Session, wanted: HostCall) -> u64 {
    for allocations in 0.. {
        let before = session.stats();
        session.apply(&Event::HeapFails(allocations)).unwrap();
        call(session, wanted);
        let after = session.stats();
        if after.successes > before.successes {
            assert_eq!(after.starved, before.starved, "{wanted:?}: an allocation fails unnoticed");
            return allocations;
        }
        assert_eq!(after.starved, before.starved + 1, "{wanted:?} is refused for something else");
    }
    unreachable!("some number of allocations is enough");
}

fn create(vcpus: u64) -> HostCall {
    HostCall::VmCreate { pfn: FrameName::Free(0), count: 12, ram: 16, vcpus, flags: 0 }
}

fn device(kind: u64, policy: u64, pages: u64) -> HostCall {
    HostCall::DeviceCreate { vm: VM, kind, policy, pages, queues: 2 }
}

/// Stops the VM and takes everything back.
fn end(session: &Session) {
    call(session, HostCall::VmStop { vm: VM });
    for (name, count) in [(FrameName::LentTo(0, 0), 16), (FrameName::OwnedBy(0, 0), 4)] {
        call(session, HostCall::FrameReclaim { vm: VM, pfn: name, count });
    }
    while session.state().vm_in(0).is_some() {
        call(session, HostCall::VmDestroy { vm: VM });
    }
}

#[test]
fn each_allocation_of_each_call_may_fail_and_nothing_is_lost() {
    let session = Session::new(false).unwrap();
    for vcpus in 1..=abi::MAX_VCPUS as u64 {
        assert_eq!(starve(&session, create(vcpus)), vcpus + 1, "its vCPUs and the VM");
        let first = starve(&session, device(2, abi::POLICY_BOUNCE_BAR, 16));
        assert_eq!(first, 2, "its bounce pages and its place");
        let second = starve(&session, device(1, abi::POLICY_SHARED_PAGES, 0));
        assert_eq!(second, 1, "its place");
        let (vm, pfn) = (VM, FrameName::Free(0));
        let rest = [
            HostCall::FrameShare { vm, device: 0, page: 0, pfn, count: 16 },
            HostCall::FrameDonate { vm, pfn, gfn: 0x4_0000, count: 4, flags: 1 },
            HostCall::VmTopup { vm, pfn, count: 2 },
            HostCall::VmFinalise { vm, entry: 0x4000_0000, argument: 0 },
        ];
        for wanted in rest {
            assert_eq!(starve(&session, wanted), 0, "{wanted:?} takes nothing from the heap");
        }
        end(&session);
    }
    session.finish().unwrap();
}

#[test]
fn a_full_bus_has_grown_with_a_heap_that_ends_again_and_again() {
    let session = Session::new(false).unwrap();
    starve(&session, create(1));
    for _ in 0..abi::MAX_DEVICES {
        starve(&session, device(4, abi::POLICY_BOUNCE_BAR, 256));
    }
    end(&session);
    session.finish().unwrap();
}

#[test]
fn a_vm_that_is_refused_for_its_frames_leaves_the_heap_alone() {
    let session = Session::new(false).unwrap();
    let hyps =
        HostCall::VmCreate { pfn: FrameName::Hyp(0), count: 12, ram: 16, vcpus: 8, flags: 0 };
    for _ in 0..3 {
        call(&session, hyps);
    }
    assert_eq!(session.stats().refusals, 3);
}
