//! The promises, each by its name, on a booted machine.
//!
//! The machine is booted once; the host payload makes its attempts while a
//! guest holds secrets; each test looks for one row of the attack table in
//! what was said, and xtask's own look at the disk stands beside it. Which
//! machine: `BOUNCER_CPUS`, `BOUNCER_CPU`, `BOUNCER_MEMORY` (MiB) and
//! `BOUNCER_DISK` choose, and `BOUNCER_ORACLE=changes|every` boots a bouncer
//! that checks its own rules; `cargo xtask test` runs several.

use std::sync::OnceLock;

use anyhow::{Result, bail, ensure};
use tests::{machine, one_at_a_time, ready};
use xtask::qemu::End;
use xtask::report::EXPECTED_GUESTS;
use xtask::story::{Config, Run, tell};
use xtask::test::environment;

/// The one boot all tests look at.
fn run() -> Result<&'static Run> {
    static RUN: OnceLock<Result<Run, String>> = OnceLock::new();
    let run = RUN.get_or_init(|| boot().map_err(|error| format!("{error:#}")));
    run.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn boot() -> Result<Run> {
    let (workspace, mut images) = ready()?;
    let mut config = Config::new("promises");
    config.machine = machine()?;
    let value = |name: &str| std::env::var(name).ok();
    config.disk = value(environment::DISK).map(Into::into);
    if let Some(oracle) = value(environment::ORACLE) {
        images = xtask::build::images_with_oracle(&workspace)?;
        config.machine.command_line = format!("oracle={oracle}");
    }
    let _turn = one_at_a_time();
    tell(&workspace, &images, &config, &mut |_| {})
}

/// Each of these attempts was made at least once, and every attempt of their
/// row was refused.
fn refused(ids: &[&str]) -> Result<()> {
    let run = run()?;
    for id in ids {
        let row = xtask::transcript::row_of(id);
        let attempts = run.transcript.attacks_of(row);
        for attempt in &attempts {
            ensure!(
                attempt.outcome == "refused",
                "{}: {} was {}: {}",
                attempt.id,
                attempt.what,
                attempt.outcome,
                attempt.detail
            );
        }
        if !attempts.iter().any(|attempt| attempt.id == *id) {
            bail!("{id} was never tried; console in {}", run.folder.display());
        }
    }
    Ok(())
}

/// The same for attempts that take two CPUs; on one they cannot be made.
fn if_two_cpus(ids: &[&str]) -> Result<()> {
    if run()?.report.machine.cpus > 1 {
        return refused(ids);
    }
    let attempts = &run()?.transcript.attacks;
    assert!(!attempts.iter().any(|attempt| ids.contains(&attempt.id.as_str())));
    Ok(())
}

#[test]
fn the_machine_ends_in_order_and_nobody_panics() -> Result<()> {
    let run = run()?;
    let tail = run.transcript.tail(20).join("\n");
    assert_eq!(run.end, End::PoweredOff, "{tail}");
    assert_eq!(run.transcript.panic, None, "{tail}");
    assert_eq!(run.transcript.host_result.as_deref(), Some("pass"), "{tail}");
    Ok(())
}

#[test]
fn the_whole_story_passes() -> Result<()> {
    let report = &run()?.report;
    assert!(report.passed(), "{:#?}", report.failures);
    Ok(())
}

#[test]
fn a_protected_guest_reads_its_disk_under_both_policies() -> Result<()> {
    let run = run()?;
    assert!(run.transcript.hashes.len() >= EXPECTED_GUESTS);
    assert_eq!(run.report.disk.sha256_guest, run.report.disk.sha256_host);
    assert!(run.transcript.guest_results.iter().all(|result| result == "pass"));
    Ok(())
}

#[test]
fn what_a_guest_writes_is_on_the_disk_after_power_off() -> Result<()> {
    assert!(run()?.report.disk.write_seen);
    Ok(())
}

/// Level, mask, wake-up, GICR_ISPENDR0 of either (tests/guest/src/payload/timers.rs).
#[test]
fn both_timers_of_a_guest_work_and_show_one_time() -> Result<()> {
    let run = run()?;
    let told = run.transcript.lines.iter().filter(|line| line.contains("@guest timers "));
    let good = "virtual=yes physical=yes one_time=yes";
    assert_eq!(told.filter(|line| line.contains(good)).count(), EXPECTED_GUESTS);
    Ok(())
}

#[test]
fn c1_host_cannot_touch_a_guest_frame() -> Result<()> {
    refused(&["C1.read", "C1.write", "C1.exec", "C1.atomic", "C1.zva", "C1.at"])
}

#[test]
fn c21_the_host_chooses_how_it_is_refused_and_nothing_else() -> Result<()> {
    refused(&["C21.read", "C21.write", "C21.exec", "C21.atomic", "C21.style"])
}

#[test]
fn c2_host_cannot_touch_bouncers_memory() -> Result<()> {
    refused(&["C2.read", "C2.write", "C2.exec", "C2.atomic", "C2.zva"])
}

#[test]
fn c3_no_look_at_a_frame_in_transit_is_stale() -> Result<()> {
    if_two_cpus(&["C3.race"])
}

#[test]
fn c4_a_warm_tlb_entry_does_not_outlive_an_unshare() -> Result<()> {
    refused(&["C4.warm"])
}

#[test]
fn c5_a_dead_guests_frames_come_back_as_zeros() -> Result<()> {
    refused(&["C5.leftovers"])?;
    // After each guest: two stories, and the ones that were attacked.
    assert!(run()?.transcript.attacks_of("C5").len() > EXPECTED_GUESTS);
    Ok(())
}

#[test]
fn c6_what_must_not_be_donated_is_not() -> Result<()> {
    refused(&["C6.foreign", "C6.twice", "C6.el2", "C6.lent", "C6.mmio", "C6.no-ram"])?;
    refused(&["C6.empty", "C6.wrapping", "C6.beyond", "C6.partly", "C6.memcache", "C6.reclaim"])
}

#[test]
fn c7_bad_calls_get_errors() -> Result<()> {
    refused(&["C7.unknown", "C7.handles", "C7.arguments", "C7.late", "C7.smc"])
}

#[test]
fn c8_a_cpu_always_comes_up_behind_stage_2() -> Result<()> {
    refused(&["C8.unknown", "C8.twice", "C8.entry", "C8.misaligned", "C8.suspend"])?;
    refused(&["C8.system-suspend"])?;
    if_two_cpus(&["C8.behind"])
}

#[test]
fn c10_registers_after_an_exit_tell_nothing() -> Result<()> {
    refused(&["C10.exits"])
}

#[test]
fn c10_no_system_register_tells_of_a_guest_by_any_encoding() -> Result<()> {
    refused(&["C10.scan", "C10.guests", "C10.first", "C10.unlisted"])
}

#[test]
fn c11_no_system_register_of_a_guest_is_the_hosts_to_change() -> Result<()> {
    refused(&["C11.scan"])
}

#[test]
fn c11_only_a_live_vcpu_runs_and_only_once() -> Result<()> {
    refused(&["C11.index", "C11.huge", "C11.early", "C11.gone", "C11.dying"])?;
    if_two_cpus(&["C11.twice"])
}

#[test]
fn c12_the_hosts_breakpoints_observe_no_guest_and_a_guest_has_its_own() -> Result<()> {
    refused(&["C12.debug"])?;
    let told = &run()?.transcript.lines;
    let good = "@guest debug quiet=yes breakpoints=yes steps=yes watchpoints=yes";
    // Two stories, and the one that is observed.
    assert_eq!(told.iter().filter(|line| line.contains(good)).count(), EXPECTED_GUESTS + 1);
    Ok(())
}

#[test]
fn c13_no_memory_type_and_no_cache_instruction_gets_around_stage_2() -> Result<()> {
    refused(&["C13.device", "C13.uncached", "C13.tags", "C13.set-way"])
}

#[test]
fn i3_an_answer_that_nobody_asked_for_changes_nothing() -> Result<()> {
    refused(&["I3.reply"])
}

#[test]
fn g5_a_guest_finds_nothing_in_memory_that_is_new_to_it() -> Result<()> {
    refused(&["G5"])
}

#[test]
fn b2_a_guest_with_one_byte_changed_is_measured_as_another() -> Result<()> {
    refused(&["B2.same", "B2.byte", "B2.words"])
}

#[test]
fn g4_a_guest_that_never_leaves_does_not_keep_the_hosts_cpu() -> Result<()> {
    refused(&["G4.timer"])
}

#[test]
fn c15_what_firmware_keeps_is_nobodys() -> Result<()> {
    refused(&["C15.survey", "C15.read", "C15.write", "C15.exec", "C15.atomic", "C15.zva"])?;
    refused(&["C15.create", "C15.start", "C15.donate", "C15.measured", "C15.topup"])
}

#[test]
fn c14_exhaustion_ends_in_errors() -> Result<()> {
    refused(&["C14.slots", "C14.memcache", "C14.vcpus", "C14.many-vcpus", "C14.ram", "C14.no-ram"])
}

#[test]
fn i1_interrupts_that_are_not_a_devices_are_refused() -> Result<()> {
    refused(&["I1.early", "I1.config", "I1.queue", "I1.device", "I1.huge"])
}

#[test]
fn g1_a_guest_reaches_nothing_beyond_its_memory() -> Result<()> {
    refused(&["G1"])
}

#[test]
fn g2_a_guest_shares_only_what_is_its_own() -> Result<()> {
    refused(&["G2"])
}

#[test]
fn g3_a_hostile_driver_stops_its_device_and_nothing_else() -> Result<()> {
    refused(&["G3.bounce", "G3.memory"])
}

#[test]
fn m1_fw_cfgs_dma_register_is_out_of_reach() -> Result<()> {
    refused(&["M1.fw-cfg", "M1.fw-cfg-data"])
}

#[test]
fn m2_virtio_mmio_transports_are_out_of_reach() -> Result<()> {
    refused(&["M2.first", "M2.last"])
}

#[test]
fn m3_no_pcie_function_can_be_made_a_bus_master() -> Result<()> {
    refused(&["M3.ecam", "M3.ecam-low"])
}

#[test]
fn m4_the_smmu_is_out_of_reach() -> Result<()> {
    refused(&["M4.smmu"])
}

#[test]
fn m5_the_gics_tables_cannot_be_aimed_at_protected_frames() -> Result<()> {
    refused(&["M5.propbaser", "M5.pendbaser", "M5.enable-lpis", "M5.its"])
}

#[test]
fn m7_mmio_that_is_not_the_hosts_does_not_answer() -> Result<()> {
    refused(&["M7.flash", "M7.hole", "M7.gpio"])
}

#[test]
fn m8_no_bar_can_be_placed_over_memory() -> Result<()> {
    refused(&["M8.bar-window", "M8.io-window"])
}
