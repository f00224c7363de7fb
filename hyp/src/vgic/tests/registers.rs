//! Registers: what a driver finds, what it can change, what it cannot.

use super::*;
use crate::layout::{MSI_COUNT, MSI_FRAME, MSI_INTID};
use std::vec::Vec;

fn only(vcpu: usize) -> VcpuSet {
    let mut set = VcpuSet::EMPTY;
    set.insert(vcpu);
    set
}

fn all_of(vcpus: &[usize]) -> u8 {
    vcpus.iter().fold(0, |bits, vcpu| bits | 1 << vcpu)
}

#[test]
fn a_driver_finds_a_gicv3_with_256_ids_and_no_lpis() {
    let mut vgic = Vgic::new(2);
    assert_eq!(vgic.distributor_read(0xffe8, 4) >> 4 & 0xf, 3, "GICv3");
    assert_eq!(vgic.redistributor_read(0xffe8, 4) >> 4 & 0xf, 3);
    let typer = vgic.distributor_read(4, 4);
    assert_eq!((typer & 0x1f) + 1, 256 / 32);
    assert_eq!(typer >> 17 & 1, 0, "no LPIs");
    assert_eq!(typer >> 16 & 1, 0, "no message-based SPIs in the distributor");
    assert_eq!(typer >> 19 & 0x1f, 9, "ten bits of interrupt id");
    assert_ne!(vgic.distributor_read(8, 4), 0, "an IIDR of 0 names a GIC with errata");
}

#[test]
fn affinity_routing_and_one_security_state_cannot_be_switched_off() {
    let mut vgic = Vgic::new(1);
    assert_eq!(vgic.distributor_read(CTLR, 4), 0x50);
    let _ = vgic.distributor_write(CTLR, 4, 0);
    assert_eq!(vgic.distributor_read(CTLR, 4), 0x50);
    let _ = vgic.distributor_write(CTLR, 4, u64::MAX);
    assert_eq!(vgic.distributor_read(CTLR, 4), 0x53, "RWP and the rest stay 0");
}

#[test]
fn redistributors_name_their_vcpu_and_the_last_one_says_so() {
    let mut vgic = Vgic::new(3);
    for vcpu in 0..3 {
        let base = vcpu as u64 * GICR_STRIDE;
        let typer = vgic.redistributor_read(base + 8, 8);
        assert_eq!(typer >> 32, vcpu as u64);
        assert_eq!(typer >> 8 & 0xffff, vcpu as u64);
        assert_eq!(typer >> 4 & 1 == 1, vcpu == 2, "Last");
        assert_eq!(typer & 1, 0, "no LPIs");
        assert_eq!(vgic.redistributor_read(base + 12, 4), vcpu as u64, "the upper half alone");
        assert_eq!(vgic.redistributor_read(base + 8, 4), typer & 0xffff_ffff);
    }
    assert_eq!(vgic.redistributor_read(3 * GICR_STRIDE + 8, 8), 0, "there is no fourth");
}

#[test]
fn a_redistributor_wakes_when_it_is_told_to() {
    let mut vgic = Vgic::new(2);
    let waker = GICR_STRIDE + 0x14;
    assert_eq!(vgic.redistributor_read(waker, 4), 0b110);
    let _ = vgic.redistributor_write(waker, 4, 0);
    assert_eq!(vgic.redistributor_read(waker, 4), 0);
    assert_eq!(vgic.redistributor_read(0x14, 4), 0b110, "the other one sleeps on");
    let _ = vgic.redistributor_write(waker, 4, 0b010);
    assert_eq!(vgic.redistributor_read(waker, 4), 0b110);
}

#[test]
fn the_distributor_has_no_private_interrupts() {
    let mut vgic = running(1);
    for offset in [0x080, ISENABLER, ISPENDR, ISACTIVER, IPRIORITYR, IPRIORITYR + 28, ICFGR, 0x800]
    {
        let _ = vgic.distributor_write(offset, 4, u64::MAX);
        assert_eq!(vgic.distributor_read(offset, 4), 0, "offset {offset:#x}");
    }
    assert_eq!(vgic.redistributor_read(private(0, ISENABLER), 4), 0);
    assert_eq!(vgic.redistributor_read(private(0, ISPENDR), 4), 0);
}

#[test]
fn set_and_clear_registers_change_only_the_bits_written_as_one() {
    let mut vgic = running(1);
    for (set_base, clear_base) in
        [(ISENABLER, ICENABLER), (ISPENDR, ICPENDR), (ISACTIVER, ICACTIVER)]
    {
        let (set_at, clear_at) = (set_base + 8, clear_base + 8);
        let _ = vgic.distributor_write(set_at, 4, 0x0f0f);
        let _ = vgic.distributor_write(set_at, 4, 0x8000_0000);
        assert_eq!(vgic.distributor_read(clear_at, 4), 0x8000_0f0f);
        let _ = vgic.distributor_write(clear_at, 4, 0x8000_000f);
        assert_eq!(vgic.distributor_read(set_at, 4), 0x0f00);
        assert_eq!(vgic.distributor_read(set_at + 4, 4), 0, "the neighbour is untouched");
        assert_eq!(vgic.distributor_read(set_at - 4, 4), 0);
    }
}

#[test]
fn priorities_are_bytes_of_five_bits() {
    let mut vgic = running(1);
    set_priority(&mut vgic, SPI + 1, 0xff);
    assert_eq!(vgic.distributor_read(IPRIORITYR + u64::from(SPI), 4), 0xf800);
    let _ = vgic.distributor_write(IPRIORITYR + u64::from(SPI), 4, 0x1122_3344);
    assert_eq!(vgic.distributor_read(IPRIORITYR + u64::from(SPI), 4), 0x1020_3040);
    assert_eq!(vgic.distributor_read(IPRIORITYR + u64::from(SPI) + 3, 1), 0x10);
    assert_eq!(vgic.distributor_read(IPRIORITYR + u64::from(SPI) + 1, 4), 0, "misaligned");
    assert_eq!(vgic.distributor_read(IPRIORITYR + u64::from(SPI), 2), 0, "no halfwords");
    assert_eq!(vgic.distributor_read(IPRIORITYR + u64::from(SPI), 8), 0, "no doublewords");
}

#[test]
fn triggers_of_spis_can_be_chosen_and_those_of_private_ones_cannot() {
    let mut vgic = running(1);
    let _ = vgic.distributor_write(ICFGR + 8, 4, u64::MAX);
    assert_eq!(vgic.distributor_read(ICFGR + 8, 4), 0xaaaa_aaaa);
    assert_eq!(vgic.distributor_read(ICFGR + 12, 4), 0, "the other half of the bank");
    let _ = vgic.redistributor_write(private(0, ICFGR), 4, 0);
    assert_eq!(vgic.redistributor_read(private(0, ICFGR), 4), 0xaaaa_aaaa, "SGIs are edges");
    let _ = vgic.redistributor_write(private(0, ICFGR + 4), 4, u64::MAX);
    assert_eq!(vgic.redistributor_read(private(0, ICFGR + 4), 4), 0, "PPIs are levels");
}

#[test]
fn a_route_is_one_doubleword_or_two_words_and_has_no_1_of_n() {
    let mut vgic = running(8);
    let at = IROUTER + 8 * u64::from(SPI);
    let _ = vgic.distributor_write(at, 8, u64::MAX);
    assert_eq!(vgic.distributor_read(at, 8), 0x00ff_ffff);
    let _ = vgic.distributor_write(at, 4, 0x8000_0003);
    assert_eq!(vgic.distributor_read(at, 8), 3);
    let _ = vgic.distributor_write(at + 4, 4, u64::MAX);
    assert_eq!(vgic.distributor_read(at + 4, 4), 0);
    assert_eq!(vgic.distributor_read(at, 4), 3);
    assert_eq!(vgic.distributor_read(at + 4, 8), 0, "misaligned");
    let _ = vgic.distributor_write(IROUTER + 8 * 31, 8, 1);
    assert_eq!(vgic.distributor_read(IROUTER + 8 * 31, 8), 0, "private ones have no route");
}

#[test]
fn an_spi_interrupts_the_vcpu_it_is_routed_to() {
    let mut vgic = running(4);
    let _ = set(&mut vgic, ISENABLER, SPI);
    assert_eq!(vgic.set_level(SPI, true), only(0), "vCPU 0 after reset");
    let moved = vgic.distributor_write(IROUTER + 8 * u64::from(SPI), 8, 3);
    assert_eq!(moved, only(3), "a pending one moves with its route");
    assert!(vgic.deliverable(3, &cpu::enabled()));
    assert!(!vgic.deliverable(0, &cpu::enabled()));
}

#[test]
fn an_spi_routed_to_nobody_waits_until_it_is_routed_to_somebody() {
    let mut vgic = running(2);
    let _ = set(&mut vgic, ISENABLER, SPI);
    for nobody in [2, 7, 0x100, 0x0001_0000] {
        let _ = vgic.distributor_write(IROUTER + 8 * u64::from(SPI), 8, nobody);
        assert!(vgic.set_level(SPI, true).is_empty());
        for vcpu in 0..2 {
            assert!(!vgic.deliverable(vcpu, &cpu::enabled()));
        }
        let _ = vgic.set_level(SPI, false);
    }
    let _ = vgic.set_level(SPI, true);
    assert_eq!(vgic.distributor_write(IROUTER + 8 * u64::from(SPI), 8, 1), only(1));
}

#[test]
fn a_disabled_interrupt_stays_pending_and_arrives_when_it_is_enabled() {
    let mut vgic = running(1);
    make_edge(&mut vgic, SPI);
    assert!(vgic.set_level(SPI, true).is_empty());
    let _ = vgic.set_level(SPI, false);
    assert!(get(&mut vgic, ISPENDR, SPI));
    assert!(!vgic.deliverable(0, &cpu::enabled()));
    assert_eq!(set(&mut vgic, ISENABLER, SPI), only(0));
    assert!(vgic.deliverable(0, &cpu::enabled()));
}

#[test]
fn groups_are_forwarded_only_while_the_distributor_says_so() {
    let mut vgic = Vgic::new(2);
    let _ = set(&mut vgic, ISENABLER, SPI);
    let _ = set_private(&mut vgic, 1, ISENABLER, 20);
    assert!(vgic.set_level(SPI, true).is_empty());
    assert!(!vgic.set_private_level(1, 20, true));
    assert!(vgic.distributor_write(CTLR, 4, 1).is_empty(), "both are in Group 1");
    assert_eq!(vgic.distributor_write(CTLR, 4, 2).bits(), all_of(&[0, 1]));
    let _ = vgic.distributor_write(0x080 + 4, 4, 0);
    assert!(!vgic.deliverable(0, &cpu::enabled()), "SPI is in Group 0 now");
    assert_eq!(vgic.distributor_write(CTLR, 4, 3), only(0));
}

#[test]
fn a_single_vcpu_is_told_of_its_spis_when_they_are_forwarded() {
    let mut vgic = Vgic::new(1);
    let _ = set(&mut vgic, ISENABLER, SPI);
    assert!(vgic.set_level(SPI, true).is_empty());
    assert_eq!(vgic.distributor_write(CTLR, 4, 2), only(0));
}

#[test]
fn a_lowered_line_takes_a_level_interrupt_away_but_not_what_software_set() {
    let mut vgic = running(1);
    let _ = set(&mut vgic, ISENABLER, SPI);
    let _ = vgic.set_level(SPI, true);
    let _ = set(&mut vgic, ICPENDR, SPI);
    assert!(get(&mut vgic, ISPENDR, SPI), "software cannot lower a line");
    let _ = vgic.set_level(SPI, false);
    assert!(!get(&mut vgic, ISPENDR, SPI));
    let _ = set(&mut vgic, ISPENDR, SPI);
    let _ = vgic.set_level(SPI, true);
    let _ = vgic.set_level(SPI, false);
    assert!(get(&mut vgic, ISPENDR, SPI));
    let _ = set(&mut vgic, ICPENDR, SPI);
    assert!(!get(&mut vgic, ISPENDR, SPI));
}

#[test]
fn an_msi_is_an_interrupt_of_the_frame_and_nothing_else() {
    let mut vgic = running(1);
    for bank in 1..8 {
        let _ = vgic.distributor_write(ISENABLER + 4 * bank, 4, u64::MAX);
    }
    let doorbell = MSI_FRAME + 0x40;
    for data in [0, 27, 32, MSI_INTID - 1, MSI_INTID + MSI_COUNT, 255, 256, 1023, 8192, u32::MAX] {
        assert!(vgic.msi(doorbell, data).is_empty(), "data {data}");
    }
    for address in [0, MSI_FRAME, doorbell - 4, doorbell + 4, doorbell + (1 << 40)] {
        assert!(vgic.msi(address, MSI_INTID).is_empty(), "address {address:#x}");
    }
    for bank in 0..8 {
        assert_eq!(vgic.distributor_read(ISPENDR + 4 * bank, 4), 0);
    }
    for intid in [MSI_INTID, MSI_INTID + MSI_COUNT - 1] {
        assert_eq!(vgic.msi(doorbell, intid), only(0));
        assert!(get(&mut vgic, ISPENDR, intid));
    }
}

#[test]
fn the_msi_frame_tells_its_range_and_works_for_the_guests_cpu() {
    let mut vgic = running(1);
    let typer = vgic.msi_frame_read(8, 4) as u32;
    assert_eq!((typer >> 16 & 0x3ff, typer & 0x3ff), (MSI_INTID, MSI_COUNT));
    assert_eq!(vgic.msi_frame_read(0xfcc, 4), 0x6200_043b, "MSI_IIDR");
    assert_eq!(vgic.msi_frame_read(0xfcc, 8) | vgic.msi_frame_read(0xfc8, 4), 0);
    let _ = set(&mut vgic, ISENABLER, MSI_INTID + 1);
    assert!(vgic.msi_frame_write(0x40, 8, u64::from(MSI_INTID + 1)).is_empty());
    assert_eq!(vgic.msi_frame_write(0x40, 4, u64::from(MSI_INTID + 1)), only(0));
    assert_eq!(vgic.msi_frame_read(0x40, 4), 0, "write-only");
}

#[test]
fn the_host_can_raise_no_private_interrupt_through_the_line_calls() {
    let mut vgic = running(2);
    for vcpu in 0..2 {
        let _ = vgic.redistributor_write(private(vcpu, ISENABLER), 4, u64::MAX);
    }
    for intid in (0..32).chain([256, 1020, u32::MAX]) {
        assert!(vgic.set_level(intid, true).is_empty());
    }
    for intid in (0..16).chain([32, 40, 255, 256, u32::MAX]) {
        assert!(!vgic.set_private_level(0, intid, true), "a PPI line is not for id {intid}");
    }
    assert!(!vgic.set_private_level(2, 27, true), "there is no such vCPU");
    for vcpu in 0..2 {
        assert!(!vgic.deliverable(vcpu, &cpu::enabled()));
    }
}

fn sgi(intid: u64, list: u64) -> u64 {
    intid << 24 | list
}

fn with_sgis_enabled(vcpus: usize) -> Vgic {
    let mut vgic = running(vcpus);
    for vcpu in 0..vcpus {
        let _ = vgic.redistributor_write(private(vcpu, ISENABLER), 4, 0xffff);
    }
    vgic
}

#[test]
fn an_sgi_reaches_exactly_the_vcpus_in_the_target_list() {
    let mut vgic = with_sgis_enabled(4);
    assert_eq!(vgic.send_sgi(1, sgi(5, 0b1010)).bits(), 0b1010, "the sender, too, if listed");
    let pending: Vec<bool> = (0..4).map(|v| get_private(&mut vgic, v, ISPENDR, 5)).collect();
    assert_eq!(pending, [false, true, false, true]);
    assert!(vgic.send_sgi(0, sgi(5, 0b1010)).is_empty(), "already pending");
}

#[test]
fn a_broadcast_sgi_reaches_everybody_else() {
    let mut vgic = with_sgis_enabled(4);
    assert_eq!(vgic.send_sgi(2, 1 << 40 | sgi(3, 0b0100)).bits(), 0b1011);
}

#[test]
fn sgis_to_vcpus_that_do_not_exist_vanish() {
    let mut vgic = with_sgis_enabled(2);
    let before = std::format!("{vgic:?}");
    for value in [
        sgi(1, 0xfffc),
        1 << 16 | sgi(1, 1),
        1 << 32 | sgi(1, 1),
        1 << 48 | sgi(1, 1),
        1 << 44 | sgi(1, 1),
        sgi(1, 0),
    ] {
        assert!(vgic.send_sgi(0, value).is_empty(), "{value:#x}");
    }
    assert_eq!(std::format!("{vgic:?}"), before);
    assert_eq!(vgic.send_sgi(0, sgi(1, 0xffff)).bits(), 0b11, "those that exist get it");
}

#[test]
fn a_group_0_sgi_is_not_sent_through_the_group_1_register() {
    let mut vgic = with_sgis_enabled(2);
    let _ = vgic.redistributor_write(private(1, 0x080), 4, !(1 << 4));
    assert_eq!(vgic.send_sgi(0, sgi(4, 0b11)).bits(), 0b01);
}

#[test]
fn kicks_are_for_vcpus_that_gained_something() {
    let mut vgic = running(2);
    assert!(vgic.set_level(SPI, true).is_empty(), "not enabled");
    assert_eq!(set(&mut vgic, ISENABLER, SPI), only(0));
    assert!(set(&mut vgic, ISENABLER, SPI).is_empty(), "nothing new");
    assert!(set(&mut vgic, ISPENDR, SPI).is_empty(), "it was pending before");
    assert!(set(&mut vgic, ICENABLER, SPI).is_empty());
}

#[test]
fn a_write_of_the_control_register_concerns_only_what_it_changes() {
    let mut vgic = running(2);
    let _ = set(&mut vgic, ISENABLER, SPI);
    assert_eq!(vgic.set_level(SPI, true), only(0));
    let _ = set_private(&mut vgic, 1, ISENABLER, 20);
    for control in [3, 3, 2, 2] {
        // All are in Group 1, which stays as it is; nothing is listed.
        assert!(vgic.distributor_write(CTLR, 4, control).is_empty(), "{control}");
    }
    assert!(vgic.distributor_write(CTLR, 4, 0).is_empty(), "silenced, but not listed");
    assert_eq!(vgic.distributor_write(CTLR, 4, 2), only(0), "only what is pending");
    let mut gic = cpu::enabled();
    vgic.flush(0, &mut gic, 4);
    assert!(vgic.distributor_write(CTLR, 4, 3).is_empty());
    assert_eq!(vgic.distributor_write(CTLR, 4, 1), only(0), "listed and silenced: come out");
}

#[test]
fn only_the_timer_is_the_timer_in_the_list_registers() {
    let mut vgic = running(1);
    let mut gic = cpu::enabled();
    let _ = set(&mut vgic, ISENABLER, SPI);
    let _ = set_private(&mut vgic, 0, ISENABLER, 27);
    let _ = vgic.set_level(SPI, true);
    vgic.flush(0, &mut gic, 4);
    assert!(!Vgic::timer_in_list_register(&gic));
    let _ = vgic.sync(0, &mut gic);
    assert!(vgic.set_private_level(0, 27, true));
    vgic.flush(0, &mut gic, 4);
    assert!(Vgic::timer_in_list_register(&gic));
    // Completed: neither pending nor active.
    gic.lr.iter_mut().for_each(|lr| *lr &= !(3 << 62));
    assert!(!Vgic::timer_in_list_register(&gic));
}

#[test]
fn writes_to_icc_dir_trap_only_in_eoi_mode_1_and_only_if_actives_are_left_out() {
    for (eoi_mode, left_out, traps) in [(0, 1, false), (1, 1, true), (1, 0, false)] {
        let mut vgic = running(1);
        let mut gic = cpu::enabled();
        gic.vmcr |= 1 << 4 | eoi_mode << 9;
        for intid in 40..44 + left_out {
            let _ = set(&mut vgic, ISACTIVER, intid);
        }
        vgic.flush(0, &mut gic, 4);
        assert_eq!(gic.hcr >> 14 & 1 == 1, traps, "{eoi_mode} {left_out}");
        assert_eq!(gic.hcr >> 2 & 1, u64::from(left_out), "LRENPIE");
        assert_eq!(gic.hcr & 1, 1, "EN");
    }
}
