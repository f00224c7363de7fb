//! Accesses to devices of which the syndrome does not tell register and size
//! (ISV = 0; Arm ARM D24.2.40): refused, and named in the event log.

use super::rig::{Rig, abort, sync};
use crate::abi::{exit, host};
use crate::event::EventKind;
use crate::layout;
use crate::machine::{El1Register, Machine};

const VECTORS: u64 = 0x4000_0800;
/// ISS of a data abort: the rest of it is valid.
const ISV: u64 = 1 << 24;
const INSTRUCTION_ABORT: u64 = 0x20 << 26;

#[test]
fn an_access_without_a_syndrome_is_refused_and_named_once_for_each_vcpu() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.hyp.machine().write_el1(El1Register::Vbar, VECTORS);
    for (turn, ipa) in
        [layout::GICD + 0x108, layout::UART + 8, layout::ECAM].into_iter().enumerate()
    {
        rig.script(move |vcpu| {
            vcpu.frame.pc = 0x4000_1234;
            let mut trap = abort(ipa, 4, 3, turn == 0);
            trap.esr &= !ISV;
            trap
        });
        rig.script_check(|vcpu| assert_eq!(vcpu.frame.pc & !0x7ff, VECTORS, "an external abort"));
        assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "{ipa:#x}");
        let told = rig.hvc(host::EVENT_NEXT, &[]);
        if turn > 0 {
            assert!(told.is_err(), "a guest must not fill the log: {told:x?}");
            continue;
        }
        let [what, address, pc] = told.unwrap();
        assert_eq!(what & 0xff, EventKind::GuestUndescribed as u64);
        assert_eq!((what >> 16 & 0xff, address, pc), (3, layout::GICD, 0), "whose, and the page");
        assert_eq!(what >> 32 & ISV, 0);
    }
}

#[test]
fn what_has_a_syndrome_or_is_no_access_is_not_named() {
    let mut rig = Rig::new();
    let (handle, _) = rig.vm(1);
    rig.hyp.machine().write_el1(El1Register::Vbar, VECTORS);
    rig.script_load(layout::GICD, 4, 3);
    // Nothing is there; an instruction is fetched from a device.
    rig.script_load(0x0902_0000, 4, 3);
    rig.script(|_| {
        let fetch = abort(layout::GICD, 4, 3, false);
        crate::trap::Trap { esr: INSTRUCTION_ABORT | fetch.esr & 0x3f, ..fetch }
    });
    rig.script(|_| sync(0x01 << 26));
    assert_eq!(rig.run(handle)[0], exit::WFI);
    assert!(rig.hvc(host::EVENT_NEXT, &[]).is_err());
}
