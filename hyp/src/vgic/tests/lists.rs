//! Through the list registers and back: the life of an interrupt.

use super::cpu::{Completed, SPURIOUS, acknowledge, end, listed, maintenance};
use super::*;
use crate::layout::{MSI_FRAME, MSI_INTID};
use crate::vcpu::state::VirtualCpuInterface;
use std::vec::Vec;

const PENDING: u64 = 1;
const ACTIVE: u64 = 2;
const BOTH: u64 = 3;

/// A controller with one vCPU, its CPU interface, and `spis` enabled.
fn machine(spis: &[u32]) -> (Vgic, VirtualCpuInterface) {
    let mut vgic = running(1);
    for &intid in spis {
        let _ = set(&mut vgic, ISENABLER, intid);
    }
    (vgic, cpu::enabled())
}

fn run(
    vgic: &mut Vgic,
    gic: &mut VirtualCpuInterface,
    guest: impl FnOnce(&mut VirtualCpuInterface),
) {
    vgic.flush(0, gic, 4);
    guest(gic);
    let _ = vgic.sync(0, gic);
}

#[test]
fn an_edge_is_taken_once() {
    let (mut vgic, mut gic) = machine(&[MSI_INTID]);
    make_edge(&mut vgic, MSI_INTID);
    let _ = vgic.msi(MSI_FRAME + 0x40, MSI_INTID);
    run(&mut vgic, &mut gic, |gic| {
        assert_eq!(acknowledge(gic), MSI_INTID);
        assert_eq!(acknowledge(gic), SPURIOUS);
        assert_eq!(end(gic, MSI_INTID), Completed::Inside);
        assert!(!maintenance(gic), "no exit for an edge");
    });
    run(&mut vgic, &mut gic, |gic| assert_eq!(listed(gic), []));
}

#[test]
fn a_vms_controller_is_small() {
    assert!(size_of::<Vgic>() <= 4096);
}

#[test]
fn an_edge_while_active_is_pending_and_active_and_comes_after_the_eoi() {
    let (mut vgic, mut gic) = machine(&[MSI_INTID]);
    make_edge(&mut vgic, MSI_INTID);
    let _ = vgic.msi(MSI_FRAME + 0x40, MSI_INTID);
    run(&mut vgic, &mut gic, |gic| assert_eq!(acknowledge(gic), MSI_INTID));
    assert!(get(&mut vgic, ISACTIVER, MSI_INTID));
    assert!(!vgic.msi(MSI_FRAME + 0x40, MSI_INTID).is_empty());
    assert!(!vgic.deliverable(0, &gic), "not before it is deactivated");
    run(&mut vgic, &mut gic, |gic| {
        assert_eq!(listed(gic), [(MSI_INTID, BOTH)]);
        end(gic, MSI_INTID);
        assert_eq!(acknowledge(gic), MSI_INTID, "without an exit in between");
        end(gic, MSI_INTID);
        assert_eq!(acknowledge(gic), SPURIOUS);
    });
}

#[test]
fn edges_that_arrive_while_the_guest_runs_are_neither_lost_nor_doubled() {
    let (mut vgic, mut gic) = machine(&[MSI_INTID]);
    make_edge(&mut vgic, MSI_INTID);
    let msi = |vgic: &mut Vgic| vgic.msi(MSI_FRAME + 0x40, MSI_INTID);
    let _ = msi(&mut vgic);
    vgic.flush(0, &mut gic, 4);
    assert!(!msi(&mut vgic).is_empty(), "its list register may be used up: kick");
    let _ = vgic.sync(0, &mut gic);
    run(&mut vgic, &mut gic, |gic| {
        assert_eq!(acknowledge(gic), MSI_INTID);
        end(gic, MSI_INTID);
        assert_eq!(acknowledge(gic), SPURIOUS, "two edges before the acknowledge are one");
    });
    let _ = msi(&mut vgic);
    vgic.flush(0, &mut gic, 4);
    acknowledge(&mut gic);
    let _ = msi(&mut vgic);
    end(&mut gic, MSI_INTID);
    let _ = vgic.sync(0, &mut gic);
    run(&mut vgic, &mut gic, |gic| {
        assert_eq!(acknowledge(gic), MSI_INTID, "one after it is another");
        end(gic, MSI_INTID);
    });
}

#[test]
fn a_level_is_asked_again_after_the_eoi() {
    let (mut vgic, mut gic) = machine(&[SPI]);
    let _ = vgic.set_level(SPI, true);
    for _ in 0..2 {
        run(&mut vgic, &mut gic, |gic| assert_eq!(acknowledge(gic), SPI));
        run(&mut vgic, &mut gic, |gic| {
            assert_eq!(listed(gic), [(SPI, ACTIVE)], "never pending and active");
            end(gic, SPI);
            assert!(maintenance(gic), "the EOI exits");
        });
        assert!(vgic.deliverable(0, &gic), "the line is still high");
    }
    let _ = vgic.set_level(SPI, false);
    run(&mut vgic, &mut gic, |gic| assert_eq!(listed(gic), []));
}

#[test]
fn a_level_lowered_by_the_handler_does_not_come_again() {
    let (mut vgic, mut gic) = machine(&[SPI]);
    let _ = vgic.set_level(SPI, true);
    run(&mut vgic, &mut gic, |gic| assert_eq!(acknowledge(gic), SPI));
    assert!(vgic.set_level(SPI, false).is_empty());
    run(&mut vgic, &mut gic, |gic| {
        end(gic, SPI);
    });
    assert!(!vgic.deliverable(0, &gic));
}

#[test]
fn a_level_that_falls_before_it_is_taken_brings_its_vcpu_out() {
    let (mut vgic, mut gic) = machine(&[SPI]);
    let _ = vgic.set_level(SPI, true);
    vgic.flush(0, &mut gic, 4);
    assert!(!vgic.set_level(SPI, false).is_empty());
    let _ = vgic.sync(0, &mut gic);
    run(&mut vgic, &mut gic, |gic| assert_eq!(acknowledge(gic), SPURIOUS));
}

#[test]
fn the_timer_is_backed_by_its_physical_interrupt() {
    let (mut vgic, mut gic) = machine(&[]);
    let _ = set_private(&mut vgic, 0, ISENABLER, 27);
    assert!(!Vgic::timer_in_list_register(&gic));
    assert!(vgic.set_private_level(0, 27, true));
    vgic.flush(0, &mut gic, 4);
    let lr = gic.lr[0];
    assert_eq!(lr >> 61, 0b011, "pending, HW");
    assert_eq!(lr >> 32 & 0x1fff, 27, "pINTID");
    assert_eq!(lr as u32, 27);
    assert!(Vgic::timer_in_list_register(&gic));
    assert_eq!(acknowledge(&mut gic), 27);
    let _ = vgic.sync(0, &mut gic);
    vgic.flush(0, &mut gic, 4);
    assert_eq!(listed(&gic), [(27, ACTIVE)], "the line is high, and yet not pending");
    assert!(Vgic::timer_in_list_register(&gic));
    assert_eq!(end(&mut gic, 27), Completed::Physical);
    assert!(!Vgic::timer_in_list_register(&gic));
    assert!(!maintenance(&gic), "the physical interrupt fires again instead");
    let _ = vgic.sync(0, &mut gic);
    assert!(vgic.deliverable(0, &gic), "the line is still high");
    let _ = vgic.set_private_level(0, 27, false);
    assert!(!vgic.deliverable(0, &gic));
}

#[test]
fn a_list_register_says_all_that_the_hardware_needs() {
    let (mut vgic, mut gic) = machine(&[SPI, SPI + 1]);
    set_priority(&mut vgic, SPI, 0xa8);
    make_edge(&mut vgic, SPI);
    let _ = set(&mut vgic, ISPENDR, SPI);
    vgic.flush(0, &mut gic, 4);
    assert_eq!(gic.lr[0], 1 << 62 | 1 << 60 | 0xa8 << 48 | u64::from(SPI));
    assert_eq!(gic.hcr, 1, "enabled, no maintenance interrupt");
    let _ = vgic.sync(0, &mut gic);
    let _ = vgic.distributor_write(0x080 + 4, 4, 0);
    let _ = set(&mut vgic, ICPENDR, SPI);
    let _ = vgic.set_level(SPI + 1, true);
    vgic.flush(0, &mut gic, 4);
    assert_eq!(gic.lr[0], 1 << 62 | 1 << 41 | u64::from(SPI + 1), "Group 0, level, priority 0");
}

#[test]
fn the_most_urgent_get_the_list_registers_and_the_rest_follows() {
    let spis: Vec<u32> = (40..50).collect();
    let (mut vgic, mut gic) = machine(&spis);
    for &intid in &spis {
        make_edge(&mut vgic, intid);
        set_priority(&mut vgic, intid, (0x80 - 8 * (intid - 40)) as u8);
        let _ = set(&mut vgic, ISPENDR, intid);
    }
    vgic.flush(0, &mut gic, 4);
    let first: Vec<u32> = listed(&gic).iter().map(|&(intid, _)| intid).collect();
    assert_eq!(first, [49, 48, 47, 46]);
    let mut taken = Vec::new();
    for _ in 0..30 {
        match acknowledge(&mut gic) {
            SPURIOUS => break,
            intid => {
                taken.push(intid);
                end(&mut gic, intid);
            }
        }
        if maintenance(&gic) {
            let _ = vgic.sync(0, &mut gic);
            vgic.flush(0, &mut gic, 4);
            assert!(!maintenance(&gic), "the guest gets on");
        }
    }
    assert_eq!(taken, [49, 48, 47, 46, 45, 44, 43, 42, 41, 40]);
}

#[test]
fn equal_priorities_go_by_number() {
    let (mut vgic, mut gic) = machine(&[41, 42, 43]);
    for intid in [43, 41, 42] {
        let _ = set(&mut vgic, ISPENDR, intid);
    }
    vgic.flush(0, &mut gic, 2);
    assert_eq!(listed(&gic), [(41, PENDING), (42, PENDING)]);
}

/// Interrupts 40 to 44, each able to preempt those before it, all taken.
fn nested(list_registers: usize) -> (Vgic, VirtualCpuInterface) {
    let spis: Vec<u32> = (40..46).collect();
    let (mut vgic, mut gic) = machine(&spis);
    for &intid in &spis {
        make_edge(&mut vgic, intid);
        set_priority(&mut vgic, intid, (0x80 - 8 * (intid - 40)) as u8);
    }
    for intid in 40..45 {
        let _ = set(&mut vgic, ISPENDR, intid);
        vgic.flush(0, &mut gic, list_registers);
        assert_eq!(acknowledge(&mut gic), intid, "it preempts");
        let _ = vgic.sync(0, &mut gic);
    }
    (vgic, gic)
}

#[test]
fn active_interrupts_without_a_list_register_are_completed_by_count() {
    for list_registers in 1..=3 {
        let (mut vgic, mut gic) = nested(list_registers);
        for intid in (40..45).rev() {
            vgic.flush(0, &mut gic, list_registers);
            end(&mut gic, intid);
            let _ = vgic.sync(0, &mut gic);
            for other in 40..45 {
                assert_eq!(get(&mut vgic, ISACTIVER, other), other < intid);
            }
        }
        assert_eq!(gic.hcr >> 27, 0, "the count is taken");
    }
}

#[test]
fn a_run_of_completions_without_list_register_deactivates_as_many() {
    let (mut vgic, mut gic) = nested(2);
    vgic.flush(0, &mut gic, 2);
    for intid in (41..45).rev() {
        end(&mut gic, intid);
    }
    assert!(maintenance(&gic));
    let _ = vgic.sync(0, &mut gic);
    assert_eq!(vgic.distributor_read(ISACTIVER + 4, 4), 1 << (40 - 32));
}

#[test]
fn an_urgent_interrupt_gets_in_when_all_list_registers_are_active() {
    let (mut vgic, mut gic) = nested(4);
    let _ = set(&mut vgic, ISPENDR, 45);
    vgic.flush(0, &mut gic, 4);
    assert_eq!(listed(&gic).last(), Some(&(45, PENDING)));
    assert_eq!(acknowledge(&mut gic), 45);
}

#[test]
fn in_eoi_mode_1_deactivation_traps_while_something_is_left_out() {
    let (mut vgic, mut gic) = nested(4);
    gic.vmcr |= 1 << 9;
    vgic.flush(0, &mut gic, 4);
    assert_eq!(cpu::deactivate_register(&mut gic, 40), Completed::Trapped);
    let _ = vgic.sync(0, &mut gic);
    let _ = vgic.deactivate(0, 40);
    assert!(!get(&mut vgic, ISACTIVER, 40));
    vgic.flush(0, &mut gic, 4);
    assert_eq!(cpu::deactivate_register(&mut gic, 41), Completed::Inside, "all fit again");
}

#[test]
fn what_software_does_to_a_listed_interrupt_wins() {
    for (register, bank) in [(ICPENDR, ISPENDR), (ICENABLER, ISENABLER)] {
        let (mut vgic, mut gic) = machine(&[SPI]);
        make_edge(&mut vgic, SPI);
        let _ = set(&mut vgic, ISPENDR, SPI);
        vgic.flush(0, &mut gic, 4);
        assert!(!set(&mut vgic, register, SPI).is_empty(), "its vCPU must come out");
        assert!(!get(&mut vgic, bank, SPI));
        let _ = vgic.sync(0, &mut gic);
        assert!(!vgic.deliverable(0, &gic));
        assert_eq!(get(&mut vgic, ISPENDR, SPI), register == ICENABLER);
    }
    let (mut vgic, mut gic) = machine(&[SPI]);
    let _ = set(&mut vgic, ISACTIVER, SPI);
    vgic.flush(0, &mut gic, 4);
    assert_eq!(listed(&gic), [(SPI, ACTIVE)]);
    assert!(!set(&mut vgic, ICACTIVER, SPI).is_empty());
    let _ = vgic.sync(0, &mut gic);
    assert!(!get(&mut vgic, ISACTIVER, SPI));
}

#[test]
fn an_interrupt_is_never_in_the_list_registers_of_two_vcpus() {
    let mut vgic = running(2);
    let mut gics = [cpu::enabled(), cpu::enabled()];
    let _ = set(&mut vgic, ISENABLER, SPI);
    let _ = vgic.set_level(SPI, true);
    vgic.flush(0, &mut gics[0], 4);
    let kicked = vgic.distributor_write(IROUTER + 8 * u64::from(SPI), 8, 1);
    assert_eq!(kicked.bits(), 0b01, "the one that has it comes out first");
    vgic.flush(1, &mut gics[1], 4);
    assert_eq!(listed(&gics[1]), []);
    assert_eq!(vgic.sync(0, &mut gics[0]).bits(), 0b10, "then the other one is told");
    vgic.flush(1, &mut gics[1], 4);
    assert_eq!(listed(&gics[1]), [(SPI, PENDING)]);
}

#[test]
fn an_active_interrupt_stays_with_the_vcpu_that_took_it() {
    let mut vgic = running(2);
    let mut gics = [cpu::enabled(), cpu::enabled()];
    let _ = set(&mut vgic, ISENABLER, SPI);
    let _ = vgic.set_level(SPI, true);
    run(&mut vgic, &mut gics[0], |gic| assert_eq!(acknowledge(gic), SPI));
    assert!(vgic.distributor_write(IROUTER + 8 * u64::from(SPI), 8, 1).is_empty());
    vgic.flush(1, &mut gics[1], 4);
    assert_eq!(listed(&gics[1]), []);
    vgic.flush(0, &mut gics[0], 4);
    assert_eq!(end(&mut gics[0], SPI), Completed::Inside);
    assert_eq!(vgic.sync(0, &mut gics[0]).bits(), 0b10, "still high: now it is the other's");
}

#[test]
fn a_vcpu_that_does_not_exist_has_nothing() {
    let (mut vgic, mut gic) = machine(&[SPI]);
    let _ = vgic.set_level(SPI, true);
    let before = std::format!("{vgic:?}");
    for vcpu in [1, 7, 8, usize::MAX] {
        vgic.flush(vcpu, &mut gic, 4);
        assert_eq!(listed(&gic), []);
        let _ = vgic.sync(vcpu, &mut gic);
        assert!(!vgic.deliverable(vcpu, &gic));
        let _ = vgic.deactivate(vcpu, 27);
    }
    assert_eq!(std::format!("{vgic:?}"), before);
}

#[test]
fn any_number_of_list_registers_is_survived() {
    for count in [0, 1, 16, 17, usize::MAX] {
        let (mut vgic, mut gic) = machine(&(32..64).collect::<Vec<u32>>());
        let _ = vgic.distributor_write(ISPENDR + 4, 4, u64::MAX);
        vgic.flush(0, &mut gic, count);
        assert_eq!(listed(&gic).len(), count.min(16));
        assert!(count == 0 || !maintenance(&gic));
    }
}

#[test]
fn masks_enables_and_active_priorities_decide_what_is_deliverable() {
    let (mut vgic, gic) = machine(&[SPI]);
    set_priority(&mut vgic, SPI, 0x80);
    let _ = vgic.set_level(SPI, true);
    let with = |edit: &dyn Fn(&mut VirtualCpuInterface)| {
        let mut gic = gic.clone();
        edit(&mut gic);
        let before = vgic.deliverable(0, &gic);
        let mut vgic = vgic.clone();
        vgic.flush(0, &mut gic, 4);
        assert_eq!(vgic.deliverable(0, &gic), before, "the same from a list register");
        before
    };
    assert!(with(&|_| {}));
    assert!(!with(&|gic| gic.vmcr &= !2), "Group 1 disabled by the guest");
    assert!(with(&|gic| gic.vmcr &= !1), "Group 0 does not matter");
    assert!(!with(&|gic| gic.vmcr = 0x80 << 24 | 3), "masked: not more urgent than the mask");
    assert!(with(&|gic| gic.vmcr = 0x88 << 24 | 3));
    assert!(!with(&|gic| gic.ap1r[0] = 1 << (0x80 / 8)), "cannot preempt its equal");
    assert!(with(&|gic| gic.ap1r[0] = 1 << (0x88 / 8)), "can preempt the less urgent");
    assert!(!with(&|gic| gic.ap0r[0] = 1 << (0x78 / 8)));
    let coarse = |gic: &mut VirtualCpuInterface| gic.vmcr |= 7 << 18;
    assert!(
        !with(&|gic| {
            coarse(gic);
            gic.ap1r[0] = 1 << (0x80 / 8);
        }),
        "one group of priorities for all from 0x80"
    );
    assert!(with(&coarse), "with nothing active the binary point does not matter");
}

#[test]
fn a_binary_point_decides_how_much_of_a_priority_counts() {
    let (mut vgic, gic) = machine(&[SPI]);
    set_priority(&mut vgic, SPI, 0xa0);
    let _ = vgic.set_level(SPI, true);
    // Whether it preempts one of priority 0x90 (IHI0069 4.8.5).
    let preempts = |common: bool, group0_point: u64, group1_point: u64| {
        let mut gic = gic.clone();
        gic.ap1r[0] = 1 << (0x90 / 8);
        gic.vmcr |= u64::from(common) << 4 | group1_point << 18 | group0_point << 21;
        vgic.deliverable(0, &gic)
    };
    assert!(!preempts(false, 0, 0), "all of it: 0xa0");
    assert!(preempts(false, 0, 7), "its highest bit: 0x80");
    assert!(preempts(false, 0, 6) && !preempts(false, 0, 5), "two bits, three");
    assert!(!preempts(false, 7, 0), "Group 0's point is not for Group 1");
    assert!(!preempts(true, 0, 7), "unless it is for both");
    assert!(preempts(true, 6, 0) && preempts(true, 5, 0), "it counts from one bit less");
    assert!(!preempts(true, 4, 0));
}

#[test]
fn a_listed_interrupt_reads_as_pending_until_it_is_withdrawn() {
    let (mut vgic, mut gic) = machine(&[SPI]);
    make_edge(&mut vgic, SPI);
    let _ = set(&mut vgic, ISPENDR, SPI);
    vgic.flush(0, &mut gic, 4);
    assert!(get(&mut vgic, ISPENDR, SPI));
    let _ = set(&mut vgic, ICPENDR, SPI);
    assert!(!get(&mut vgic, ISPENDR, SPI));
}

#[test]
fn pending_set_again_on_a_listed_level_brings_its_vcpu_out() {
    let (mut vgic, mut gic) = machine(&[SPI]);
    let _ = vgic.set_level(SPI, true);
    vgic.flush(0, &mut gic, 4);
    assert!(!set(&mut vgic, ISPENDR, SPI).is_empty(), "taken before or after? Ask the hardware");
    let _ = vgic.sync(0, &mut gic);
    run(&mut vgic, &mut gic, |gic| assert_eq!(acknowledge(gic), SPI));
    let _ = vgic.set_level(SPI, false);
    run(&mut vgic, &mut gic, |gic| {
        end(gic, SPI);
    });
    assert!(!vgic.deliverable(0, &gic), "one acknowledge served both");
}

#[test]
fn an_edge_routed_away_while_active_comes_to_the_other_vcpu_after_the_eoi() {
    let mut vgic = running(2);
    let mut gics = [cpu::enabled(), cpu::enabled()];
    let _ = set(&mut vgic, ISENABLER, SPI);
    make_edge(&mut vgic, SPI);
    let _ = set(&mut vgic, ISPENDR, SPI);
    run(&mut vgic, &mut gics[0], |gic| assert_eq!(acknowledge(gic), SPI));
    let _ = set(&mut vgic, ISPENDR, SPI);
    let _ = vgic.distributor_write(IROUTER + 8 * u64::from(SPI), 8, 1);
    vgic.flush(0, &mut gics[0], 4);
    assert_eq!(listed(&gics[0]), [(SPI, ACTIVE)]);
    end(&mut gics[0], SPI);
    assert!(maintenance(&gics[0]));
    assert_eq!(vgic.sync(0, &mut gics[0]).bits(), 0b10);
}

#[test]
fn activation_by_software_belongs_to_the_vcpu_that_has_the_interrupt_listed() {
    let mut vgic = running(2);
    let mut gics = [cpu::enabled(), cpu::enabled()];
    let _ = set(&mut vgic, ISENABLER, SPI);
    let _ = vgic.set_level(SPI, true);
    vgic.flush(0, &mut gics[0], 4);
    let _ = vgic.distributor_write(IROUTER + 8 * u64::from(SPI), 8, 1);
    let _ = set(&mut vgic, ISACTIVER, SPI);
    let _ = vgic.sync(0, &mut gics[0]);
    vgic.flush(1, &mut gics[1], 4);
    assert_eq!(listed(&gics[1]), []);
    vgic.flush(0, &mut gics[0], 4);
    assert_eq!(listed(&gics[0]), [(SPI, ACTIVE)]);
}

#[test]
fn an_interrupt_activated_by_software_brings_its_vcpu_out_to_find_it_listed() {
    let (mut vgic, mut gic) = machine(&[SPI]);
    vgic.flush(0, &mut gic, 4);
    assert!(!set(&mut vgic, ISACTIVER, SPI).is_empty());
    let _ = vgic.sync(0, &mut gic);
    vgic.flush(0, &mut gic, 4);
    assert_eq!(cpu::deactivate_register(&mut gic, SPI), Completed::Inside);
    let _ = vgic.sync(0, &mut gic);
    assert!(!get(&mut vgic, ISACTIVER, SPI));
}

#[test]
fn completing_what_is_not_active_deactivates_nothing_else() {
    let (mut vgic, mut gic) = machine(&[SPI]);
    vgic.flush(0, &mut gic, 4);
    end(&mut gic, SPI + 1);
    let _ = set(&mut vgic, ISACTIVER, SPI);
    let _ = vgic.sync(0, &mut gic);
    assert!(get(&mut vgic, ISACTIVER, SPI));
    assert_eq!(gic.hcr >> 27, 0);
}

#[test]
fn a_vcpu_cannot_deactivate_what_another_has_taken() {
    let mut vgic = running(2);
    let mut gic = cpu::enabled();
    let _ = set(&mut vgic, ISENABLER, SPI);
    let _ = vgic.set_level(SPI, true);
    run(&mut vgic, &mut gic, |gic| assert_eq!(acknowledge(gic), SPI));
    assert!(vgic.deactivate(1, SPI).is_empty());
    assert!(get(&mut vgic, ISACTIVER, SPI));
    assert!(!vgic.deactivate(0, SPI).is_empty(), "still high");
    assert!(!get(&mut vgic, ISACTIVER, SPI));
}

#[test]
fn a_disabled_group_does_not_keep_the_other_from_the_list_registers() {
    let (mut vgic, mut gic) = machine(&[40, 41, 42]);
    let _ = vgic.distributor_write(0x080 + 4, 4, !(1 << (42 - 32)));
    gic.vmcr &= !2;
    for intid in 40..43 {
        make_edge(&mut vgic, intid);
        let _ = set(&mut vgic, ISPENDR, intid);
    }
    vgic.flush(0, &mut gic, 2);
    assert_eq!(listed(&gic), [(42, PENDING), (40, PENDING)], "Group 0 first: it is enabled");
    assert!(!maintenance(&gic));
    gic.vmcr |= 2;
    assert!(maintenance(&gic), "Group 1 enabled: the choice must be made again");
    let _ = vgic.sync(0, &mut gic);
    vgic.flush(0, &mut gic, 2);
    assert_eq!(listed(&gic), [(40, PENDING), (41, PENDING)]);
    gic.vmcr &= !2;
    assert!(maintenance(&gic), "and disabled again");
}

#[test]
fn an_interrupt_that_was_listed_and_not_taken_is_not_forgotten() {
    let (mut vgic, mut gic) = machine(&[SPI]);
    make_edge(&mut vgic, SPI);
    let _ = set(&mut vgic, ISPENDR, SPI);
    vgic.flush(0, &mut gic, 4);
    let _ = set(&mut vgic, ISENABLER, SPI + 1);
    let _ = vgic.sync(0, &mut gic);
    assert!(vgic.deliverable(0, &gic));
    run(&mut vgic, &mut gic, |gic| assert_eq!(listed(gic), [(SPI, PENDING)]));
}

#[test]
fn entries_pass_over_banks_whose_interrupts_are_done() {
    let (mut vgic, mut gic) = machine(&[SPI]);
    make_edge(&mut vgic, SPI);
    let _ = set(&mut vgic, ISPENDR, SPI);
    assert_eq!(vgic.busy, 0b10);
    run(&mut vgic, &mut gic, |gic| {
        acknowledge(gic);
        end(gic, SPI);
    });
    assert_eq!(vgic.busy, 0);
    let _ = set(&mut vgic, ISPENDR, SPI);
    let _ = set(&mut vgic, ICPENDR, SPI);
    assert_eq!(vgic.busy, 0);
}
