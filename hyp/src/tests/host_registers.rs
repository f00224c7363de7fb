//! What the host reads of itself and of bouncer: identification registers,
//! redistributors, events.

use super::rig::{RD_BASE, Rig, abort, sync};
use crate::abi::host as id;
use crate::event::EventKind;
use crate::machine::{El1Register, IdRegister, Machine};
use crate::vcpu::id_registers::{World, sanitised};
use crate::vcpu::state::Frame;

/// EL1h, interrupts open.
const EL1H: u64 = 5;
const VBAR: u64 = 0x4800_0000;

/// The host traps on MRS x3 (or MSR) of a register: op0, op1, CRn, CRm, op2.
fn access(rig: &Rig, [op0, op1, crn, crm, op2]: [u64; 5], read: bool) -> Frame {
    let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | 3 << 5 | crm << 1 | u64::from(read);
    let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
    frame.x[3] = 0xe1;
    rig.hyp.machine().write_el1(El1Register::Vbar, VBAR);
    rig.hyp.handle_host_trap(&mut frame, sync(0x18 << 26 | iss));
    frame
}

#[test]
fn the_host_reads_every_identification_register_less_what_el2_withholds() {
    let rig = Rig::new();
    for (crm, op2) in (1..8).flat_map(|crm| (0..8).map(move |op2| (crm, op2))) {
        let frame = access(&rig, [3, 0, 0, crm, op2], true);
        let register = IdRegister { crm: crm as u8, op2: op2 as u8 };
        let real = rig.hyp.machine().id_register(register);
        assert_eq!(frame.x[3], sanitised(World::Host, register, real), "{crm} {op2}");
        assert_eq!(frame.pc, 0x4100_0004, "stepped over");
    }
    assert!(rig.hvc(id::EVENT_NEXT, &[]).is_err(), "nothing was refused");
}

#[test]
fn nothing_beside_the_identification_registers_is_readable_and_none_is_writable() {
    let rig = Rig::new();
    let id_register = [3, 0, 0, 4, 0];
    let neighbours = [
        [2, 0, 0, 4, 0],
        [1, 0, 0, 4, 0],
        [3, 1, 0, 4, 0],
        [3, 0, 1, 4, 0],
        [3, 0, 0, 0, 0],
        [3, 0, 0, 8, 0],
        [3, 0, 0, 15, 7],
    ];
    let reads = neighbours.map(|register| (register, true));
    for (register, read) in reads.into_iter().chain([(id_register, false)]) {
        let frame = access(&rig, register, read);
        assert_eq!(frame.pc, VBAR + 0x200, "{register:?}");
        assert_eq!(frame.x[3], 0xe1, "nothing was read");
        let [what, instruction, pc] = rig.hvc(id::EVENT_NEXT, &[]).unwrap();
        assert_eq!(what & 0xff, EventKind::HostUndefined as u64);
        assert_eq!(pc, 0x4100_0000);
        let fields = [20, 14, 10, 1, 17].map(|shift| instruction >> shift & 0xf);
        assert_eq!(fields[3], register[3], "the event names the register");
        assert_eq!(instruction >> 20 & 3, register[0]);
        assert_eq!(instruction >> 25, 0, "and nothing but the instruction");
    }
}

/// Arm ARM D24.2.53, HCR_EL2.TIDCP and TACR: ACTLR_EL1 is there and does
/// nothing; the other implementation-defined registers (CRn 11 and 15) are not.
#[test]
fn c19_implementation_defined_registers_are_not_the_hosts() {
    let rig = Rig::new();
    let read = access(&rig, [3, 0, 1, 0, 1], true);
    let written = access(&rig, [3, 0, 1, 0, 1], false);
    assert_eq!((read.x[3], read.pc), (0, 0x4100_0004));
    assert_eq!((written.x[3], written.pc), (0xe1, 0x4100_0004));
    assert!(rig.hvc(id::EVENT_NEXT, &[]).is_err(), "nothing was refused");
    // CPUECTLR_EL1 and L2CTLR_EL1 of Cortex-A72, CPUECTLR_EL1 of Neoverse N1.
    for register in [[3, 1, 15, 2, 1], [3, 1, 11, 0, 2], [3, 0, 15, 1, 4]] {
        for read in [true, false] {
            assert_eq!(access(&rig, register, read).pc, VBAR + 0x200, "{register:?}");
            let [what, ..] = rig.hvc(id::EVENT_NEXT, &[]).unwrap();
            assert_eq!(what & 0xff, EventKind::HostUndefined as u64);
        }
    }
}

#[test]
fn an_event_says_what_who_where_and_on_which_cpu() {
    let mut rig = Rig::new();
    let (_, ram) = rig.vm(1);
    rig.hyp.machine().be_cpu(1);
    let trap = abort(ram << 12, 4, 3, true);
    let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
    rig.hyp.handle_host_trap(&mut frame, trap);
    rig.hyp.machine().be_cpu(0);
    let [what, address, pc] = rig.hvc(id::EVENT_NEXT, &[]).unwrap();
    // Kind, CPU, owner (the first guest's code), and the syndrome above.
    assert_eq!(what & 0xffff_ffff, EventKind::HostAbort as u64 | 1 << 8 | 3 << 16);
    assert_eq!(what >> 32, trap.esr);
    assert_eq!((address, pc), (ram << 12, 0x4100_0000));
}

/// Reads or writes a register of the RD_base frame with all ones behind it;
/// what the host gets or the device sees.
fn redistributor(rig: &Rig, offset: u64, size: u8, write: bool) -> Option<u64> {
    redistributor_with(rig, offset, size, write, u64::MAX)
}

/// The same with `value` in the host's register.
fn redistributor_with(rig: &Rig, offset: u64, size: u8, write: bool, value: u64) -> Option<u64> {
    let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
    frame.x[3] = value;
    rig.hyp.machine().world().device_log.clear();
    rig.hyp.machine().world().device_values.insert(RD_BASE + offset, u64::MAX >> (64 - 8 * size));
    rig.hyp.handle_host_trap(&mut frame, abort(RD_BASE + offset, size, 3, write));
    assert_eq!(frame.pc, 0x4100_0004, "{offset:#x}");
    let log = rig.hyp.machine().world().device_log.clone();
    assert!(log.iter().all(|access| (access.address, access.size) == (RD_BASE + offset, size)));
    match write {
        true => log.first().map(|access| access.written.unwrap()),
        false => Some(frame.x[3]),
    }
}

#[test]
fn of_a_redistributor_the_host_sees_this_much() {
    let rig = Rig::new();
    // CTLR: RWP, DPG1S, DPG1NS, DPG0, UWP. Not EnableLPIs, not CES, not IR.
    assert_eq!(redistributor(&rig, 0x0, 4, false), Some(1 << 3 | 7 << 24 | 1 << 31));
    assert_eq!(redistributor(&rig, 0x4, 4, false), Some(0xffff_ffff), "IIDR");
    // TYPER without PLPIS, VLPIS and DirectLPI, whole or in halves.
    assert_eq!(redistributor(&rig, 0x8, 8, false), Some(!0b1011));
    assert_eq!(redistributor(&rig, 0x8, 4, false), Some(0xffff_fff4));
    assert_eq!(redistributor(&rig, 0xc, 4, false), Some(0xffff_ffff));
    assert_eq!(redistributor(&rig, 0x10, 4, false), Some(0xffff_ffff), "STATUSR");
    assert_eq!(redistributor(&rig, 0x14, 4, false), Some(0xffff_ffff), "WAKER");
    for offset in [0xffd0, 0xffe8, 0xfffc] {
        assert_eq!(redistributor(&rig, offset, 4, false), Some(0xffff_ffff), "{offset:#x}");
    }
    // Everything else, and any other size, reads as zero.
    for (offset, size) in [
        (0x18, 4),
        (0x40, 8),
        (0x70, 8),
        (0x78, 8),
        (0xa0, 8),
        (0xb0, 8),
        (0xc0, 4),
        (0xffcc, 4),
        (0x0, 8),
        (0x0, 1),
        (0x14, 2),
        (0xffe8, 8),
    ] {
        assert_eq!(redistributor(&rig, offset, size, false), Some(0), "{offset:#x} {size}");
    }
}

/// Linux walks a region of redistributors to the one that calls itself the
/// last (IHI 0069 12.11.35, GICR_TYPER.Last), 128 KiB at a time where VLPIS is
/// hidden: whatever it meets on its way must answer.
#[test]
fn the_last_redistributor_that_answers_says_so_and_no_other() {
    // Two side by side, one of a GICv4's pitch further on.
    let frames = [RD_BASE, RD_BASE + 0x2_0000, RD_BASE + 0x8_0000];
    let rig = Rig::with_redistributors(&frames);
    let typer = |frame: u64, size: u8, real: u64| {
        let mut regs = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
        rig.hyp.machine().world().device_values.insert(frame + 8, real);
        rig.hyp.handle_host_trap(&mut regs, abort(frame + 8, size, 3, false));
        regs.x[3]
    };
    for real in [0, 1 << 4] {
        for size in [4, 8] {
            let last = frames.map(|frame| typer(frame, size, real) >> 4 & 1);
            assert_eq!(last, [0, 1, 1], "{real:#x} {size}");
        }
    }
}

#[test]
fn into_a_redistributor_the_host_writes_this_much() {
    let rig = Rig::new();
    assert_eq!(redistributor(&rig, 0x0, 4, true), Some(7 << 24), "CTLR: the DPG bits");
    assert!(rig.hvc(id::EVENT_NEXT, &[]).is_ok(), "EnableLPIs was withheld: an event");
    let dpg0 = 1 << 24;
    assert_eq!(redistributor_with(&rig, 0x0, 4, true, dpg0 | 1 << 3), Some(dpg0));
    assert!(rig.hvc(id::EVENT_NEXT, &[]).is_err(), "RWP is read-only, which is no news");
    assert_eq!(redistributor(&rig, 0x14, 4, true), Some(0xffff_ffff), "WAKER");
    assert_eq!(redistributor(&rig, 0x10, 4, true), Some(0xffff_ffff), "STATUSR");
    assert!(rig.hvc(id::EVENT_NEXT, &[]).is_err(), "these are allowed");
    for (offset, size) in [(0x4, 4), (0x8, 8), (0x14, 2), (0x0, 8), (0xffe8, 4), (0x40, 8)] {
        assert_eq!(redistributor(&rig, offset, size, true), None, "{offset:#x} {size}");
        assert!(rig.hvc(id::EVENT_NEXT, &[]).is_ok(), "{offset:#x} {size}: an event");
    }
}

#[test]
fn a_redistributor_ends_where_it_ends() {
    let rig = Rig::new();
    let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
    rig.hyp.machine().write_el1(El1Register::Vbar, VBAR);
    rig.hyp.handle_host_trap(&mut frame, abort(RD_BASE + 0x1_0000, 4, 3, false));
    assert_eq!(frame.pc, VBAR + 0x200, "the SGI frame is mapped or refused, never filtered");
    assert!(rig.hyp.machine().world().device_log.is_empty());
}

#[test]
fn the_numbers_of_the_host_abi_are_those_of_its_document() {
    let rig = Rig::new();
    assert_eq!(rig.hvc(id::VERSION, &[]), Ok([0x1_0001, 0, 0]));
    assert_eq!(rig.hvc(id::FEATURES, &[]), Ok([0x8_0808, 512, 0]), "VMs, vCPUs, devices; range");
}

/// What STATS counts of the machine, after traps of which everything is known.
#[test]
fn the_counters_of_the_machine_count_what_happened() {
    let mut rig = Rig::new();
    let (_, ram) = rig.vm(1);
    let own = rig.frames(1);
    let counters = || -> std::vec::Vec<(&str, u64)> {
        let read = |index| rig.hvc(id::STATS, &[0, index]).unwrap()[0];
        let named = crate::stats::MachineCounter::ALL.iter().zip(0..);
        named.map(|(counter, index)| (counter.name(), read(index))).collect()
    };
    let before = counters();
    let _ = rig.hvc(id::VM_STOP, &[0]);
    rig.smc(0x8400_0000, &[]);
    access(&rig, [3, 0, 0, 4, 0], true);
    let mut frame = Frame { pc: 0x4100_0000, pstate: EL1H, ..Frame::default() };
    for address in [RD_BASE, ram << 12, own << 12] {
        rig.hyp.handle_host_trap(&mut frame, abort(address, 4, 3, false));
    }
    let gained: std::vec::Vec<(&str, u64)> = counters()
        .into_iter()
        .zip(before)
        .map(|((name, after), (_, before))| (name, after - before))
        .filter(|(_, gained)| *gained != 0)
        .collect();
    // Reading the counters takes calls, too: the first read counts itself.
    let reads = crate::stats::MachineCounter::ALL.len() as u64;
    let expected = [
        ("host_hypercalls", reads + 1),
        ("host_hypercalls_refused", 1),
        ("host_smcs", 1),
        ("host_aborts_refused", 1),
        ("host_aborts_retried", 1),
        ("host_sysregs", 1),
        ("host_redistributor", 1),
    ];
    assert_eq!(gained, expected);
}
