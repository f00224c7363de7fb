//! The host reaches for what is not its own (attack rows C1, C2, C15, M5, M7).

use super::rig::{RD_BASE, Rig, abort, sync};
use crate::abi::host as id;
use crate::event::EventKind;
use crate::machine::{El1Register, Machine};
use crate::vcpu::state::Frame;

/// EL1h, interrupts open.
const EL1H: u64 = 5;

fn touch(rig: &Rig, address: u64, write: bool) -> Frame {
    let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
    frame.x[3] = 0xe1;
    rig.hyp.machine().write_el1(El1Register::Vbar, 0x4800_0000);
    rig.hyp.handle_host_trap(&mut frame, abort(address, 8, 3, write));
    frame
}

fn expect_refused(rig: &Rig, address: u64, owner: u64) {
    for write in [false, true] {
        let frame = touch(rig, address, write);
        let machine = rig.hyp.machine();
        assert_eq!(frame.pc, 0x4800_0200, "the host's own vector, current EL with SPx");
        assert_eq!(frame.x[3], 0xe1, "nothing was read");
        assert_eq!(machine.read_el1(El1Register::Elr), 0x4100_0000);
        let esr = machine.read_el1(El1Register::Esr);
        assert_eq!((esr >> 26, esr & 0x3f), (0x25, 0x10), "synchronous external abort");
        assert_eq!(esr >> 6 & 1, u64::from(write), "WnR");
        assert_eq!(machine.read_el1(El1Register::Far), address);
        let [what, where_, pc] = rig.hvc(id::EVENT_NEXT, &[]).unwrap();
        assert_eq!(what & 0xff, EventKind::HostAbort as u64);
        assert_eq!(what >> 16 & 0xff, owner, "the event names the owner");
        assert_eq!((where_, pc), (address, 0x4100_0000));
        assert!(rig.hvc(id::EVENT_NEXT, &[]).is_err(), "one event per refusal");
    }
}

/// HPFAR_EL2 is UNKNOWN for what is no fault of stage 2's, and for a permission
/// fault (Arm ARM D24.2.67). Here it holds a filtered register's address, of an
/// earlier fault: whatever it says, the access is refused, and the event does
/// not claim to know where it was. 0x10 is the bus's answer, 0x21 alignment,
/// 0x30 a TLB conflict, 0x35 an exclusive or atomic that memory does not do.
#[test]
fn m7_a_fault_without_an_address_is_refused_wherever_it_was() {
    let rig = Rig::new();
    for status in (0x0c..=0x0f).chain([0x10, 0x21, 0x30, 0x35]) {
        let mut trap = abort(RD_BASE, 4, 3, false);
        trap.esr = trap.esr & !0x3f | status;
        let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
        rig.hyp.machine().write_el1(El1Register::Vbar, 0x4800_0000);
        rig.hyp.handle_host_trap(&mut frame, trap);
        assert_eq!(frame.pc, 0x4800_0200, "status {status:#x}");
        assert!(rig.hyp.machine().world().device_log.is_empty());
        let [what, address, _] = rig.hvc(id::EVENT_NEXT, &[]).unwrap();
        assert_eq!((what & 0xff, what >> 16 & 0xff), (EventKind::HostAbort as u64, 0));
        assert_eq!(address, u64::MAX);
    }
}

/// The host chooses how it is refused, and nothing else: whatever it chose, an
/// access that is not its own does not happen, and is logged.
#[test]
fn c21_the_host_chooses_an_alignment_fault_and_is_refused_all_the_same() {
    let mut rig = Rig::new();
    let (_, ram) = rig.vm(1);
    let image = rig.layout.hyp[0].start().base();
    let status = |rig: &Rig, address, write| {
        let frame = touch(rig, address, write);
        assert_eq!((frame.pc, frame.x[3]), (0x4800_0200, 0xe1), "nothing was read");
        let esr = rig.hyp.machine().read_el1(El1Register::Esr);
        assert_eq!((esr >> 26, esr >> 6 & 1), (0x25, u64::from(write)));
        assert_eq!(rig.hyp.machine().read_el1(El1Register::Far), address);
        let [what, where_, _] = rig.hvc(id::EVENT_NEXT, &[]).unwrap();
        assert_eq!((what & 0xff, where_), (EventKind::HostAbort as u64, address));
        esr & 0x3f
    };
    for (style, before, wanted) in [(1, 0, 0x21), (1, 1, 0x21), (0, 1, 0x10), (1, 0, 0x21)] {
        assert_eq!(rig.hvc(id::ABORT_STYLE, &[style]).unwrap()[0], before);
        for address in [image, (ram << 12) + 0x128, 0x0902_0010, 1 << 46] {
            for write in [false, true] {
                assert_eq!(status(&rig, address, write), wanted, "{address:#x}");
            }
        }
    }
    // On every CPU.
    rig.hyp.machine().be_cpu(1);
    assert_eq!(status(&rig, image, true), 0x21);
    // There is no other, and what was chosen stays.
    for none in [2, 0x21, 1 << 32 | 1, u64::MAX] {
        assert!(rig.hvc(id::ABORT_STYLE, &[none]).is_err(), "{none:#x}");
        assert_eq!(status(&rig, image, false), 0x21);
    }
}

/// A fetch and a walk have no alignment fault; what the bus answered stays so.
#[test]
fn c21_only_loads_and_stores_are_refused_in_the_hosts_own_style() {
    let rig = Rig::new();
    rig.hvc(id::ABORT_STYLE, &[1]).unwrap();
    let image = rig.layout.hyp[0].start().base();
    let load = abort(image, 8, 3, false);
    let fetch = load.esr & !(0x3f << 26) & !0x1ff_ff80 | 0x20 << 26;
    let walk = load.esr | 1 << 7;
    let bus = load.esr & !0x3f | 0x10;
    for esr in [fetch, walk, bus] {
        let mut trap = abort(image, 8, 3, false);
        trap.esr = esr;
        let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
        rig.hyp.machine().write_el1(El1Register::Vbar, 0x4800_0000);
        rig.hyp.handle_host_trap(&mut frame, trap);
        assert_eq!(frame.pc, 0x4800_0200, "{esr:#x}");
        assert_eq!(rig.hyp.machine().read_el1(El1Register::Esr) & 0x3f, 0x10, "{esr:#x}");
    }
}

#[test]
fn c1_a_guests_private_frame() {
    let mut rig = Rig::new();
    let (_, ram) = rig.vm(1);
    expect_refused(&rig, (ram << 12) + 0x128, 3);
}

#[test]
fn c2_el2_memory_and_a_vms_page_tables() {
    let mut rig = Rig::new();
    let image = rig.layout.hyp[0].start().base();
    expect_refused(&rig, image, 1);
    let memcache = rig.frames(16);
    rig.hvc(id::VM_CREATE, &[memcache, 16, 64, 1, 0]).unwrap();
    expect_refused(&rig, memcache << 12, 1);
}

/// Reserved memory (Devicetree Specification 3.5 and 5.3) is not for the host
/// to look at, and the event says whose it is.
#[test]
fn c15_memory_that_firmware_keeps() {
    let rig = Rig::new();
    for pfn in rig.layout.firmware[0].iter() {
        expect_refused(&rig, pfn.base() + 0x7f8, 3 + crate::abi::MAX_VMS as u64);
    }
}

#[test]
fn m7_devices_off_the_list_and_the_end_of_the_address_space() {
    let rig = Rig::new();
    for address in [0, 0x0902_0010, 0x0a00_0000, 0x40_1000_0000, 0x7f_ffff_fff8, 1 << 39, 1 << 46] {
        expect_refused(&rig, address, 0);
    }
}

#[test]
fn a_fault_that_another_cpu_has_fixed_is_repeated_not_refused() {
    let mut rig = Rig::new();
    let own = rig.frames(1) << 12;
    let frame = touch(&rig, own, false);
    assert_eq!(frame.pc, 0x4100_0000);
    assert!(rig.hvc(id::EVENT_NEXT, &[]).is_err());
}

#[test]
fn m5_the_redistributor_never_learns_an_lpi_table() {
    let rig = Rig::new();
    // GICR_PROPBASER, GICR_PENDBASER, GICR_SETLPIR, GICR_INVLPIR.
    for offset in [0x70, 0x78, 0x40, 0xa0] {
        let frame = touch(&rig, RD_BASE + offset, true);
        assert_eq!(frame.pc, 0x4100_0004, "stepped over");
        assert!(rig.hvc(id::EVENT_NEXT, &[]).is_ok());
    }
    assert!(rig.hyp.machine().world().device_log.is_empty());
}

#[test]
fn m5_enable_lpis_is_masked_and_typer_does_not_offer_them() {
    let rig = Rig::new();
    let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
    frame.x[3] = 1 | 1 << 24;
    rig.hyp.handle_host_trap(&mut frame, abort(RD_BASE, 4, 3, true));
    let written: std::vec::Vec<_> =
        rig.hyp.machine().world().device_log.iter().filter_map(|access| access.written).collect();
    assert_eq!(written, [1 << 24]);
    rig.hyp.machine().world().device_values.insert(RD_BASE + 8, 0xb | 7 << 8);
    rig.hyp.handle_host_trap(&mut frame, abort(RD_BASE + 8, 8, 3, false));
    // Last: the rig's platform has no redistributor behind this one.
    assert_eq!(frame.x[3], 7 << 8 | 1 << 4);
}

/// EL2 repeated a misaligned load of an identification register as it was, and
/// took an alignment fault in EL2. (The host's own stage 1 can call the page
/// normal memory, so that nothing stops the access before stage 2 does.)
#[test]
fn m5_a_misaligned_access_to_the_redistributor_is_refused_not_repeated() {
    let rig = Rig::new();
    for (offset, size) in [(0xffd1, 4), (0xffea, 4), (0xfffb, 4), (0x000c, 8), (0x0001, 2)] {
        for write in [false, true] {
            let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
            rig.hyp.machine().write_el1(El1Register::Vbar, 0x4800_0000);
            rig.hyp.handle_host_trap(&mut frame, abort(RD_BASE + offset, size, 3, write));
            assert_eq!(frame.pc, 0x4800_0200, "offset {offset:#x}, {size} bytes");
        }
    }
    assert!(rig.hyp.machine().world().device_log.is_empty());
}

#[test]
fn withheld_instructions_are_undefined_to_the_host() {
    let rig = Rig::new();
    // SVE access (EC 0x19), and a trace register.
    for esr in [0x19 << 26, 0x18 << 26 | 2 << 20 | 1 << 14] {
        let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
        rig.hyp.machine().write_el1(El1Register::Vbar, 0x4800_0000);
        rig.hyp.handle_host_trap(&mut frame, sync(esr));
        assert_eq!(frame.pc, 0x4800_0200);
        assert_eq!(rig.hyp.machine().read_el1(El1Register::Esr) >> 26, 0);
        assert!(rig.hvc(id::EVENT_NEXT, &[]).is_ok());
    }
}
