//! The judgement of one run, and its form for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::disk::Disk;
use crate::qemu::{End, Machine};
use crate::threats::expected_of_the_story;
use crate::transcript::{Attack, Counters, Transcript, is_of};

/// Guests the story runs: one per DMA policy.
pub const EXPECTED_GUESTS: usize = 4;

/// What xtask saw for itself.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The machine that was booted.
    pub machine: &'a Machine,
    /// The disk as it was before.
    pub disk: &'a Disk,
    /// How the machine ended.
    pub end: End,
    /// Whether QEMU ended with status 0.
    pub orderly: bool,
    /// Whether the guest's note was found on the disk afterwards.
    pub write_seen: bool,
    /// What the hash is once the guest's note is on the disk.
    pub sha256_written: String,
    /// Wall-clock seconds from start to end.
    pub seconds: f64,
}

/// The guest's disk in the report.
#[derive(Debug, Clone, Serialize)]
pub struct DiskReport {
    /// What was hashed.
    pub file: String,
    /// The hash the guest computed, empty if none.
    pub sha256_guest: String,
    /// The hash of the image, by xtask.
    pub sha256_host: String,
    /// Whether the guest's write was found afterwards.
    pub write_seen: bool,
}

/// The machine in the report.
#[derive(Debug, Clone, Serialize)]
pub struct MachineReport {
    /// CPU model.
    pub cpu: String,
    /// CPUs.
    pub cpus: u32,
    /// MiB.
    pub memory_mib: u64,
}

/// `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// "pass" or "fail".
    pub result: &'static str,
    /// Each promise that did not hold, as a sentence.
    pub failures: Vec<String>,
    /// What was booted.
    pub machine: MachineReport,
    /// Data in and out of the guest.
    pub disk: DiskReport,
    /// What the host tried.
    pub attacks: Vec<Attack>,
    /// Counters by run.
    pub counters: BTreeMap<String, Counters>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Report {
    /// Judges a run: pass only if everything held and was seen to hold.
    #[must_use]
    pub fn judge(facts: &Facts<'_>, transcript: &Transcript) -> Self {
        let disk = facts.disk;
        let of_file = |(file, _): &&(String, String)| file.eq_ignore_ascii_case(&disk.hash_name);
        let hashes: Vec<&str> =
            transcript.hashes.iter().filter(of_file).map(|(_, hex)| hex.as_str()).collect();
        // Of a whole disk, the second guest hashes what the first has written.
        let right = hashes.iter().enumerate().all(|(guest, hex)| match guest {
            0 => *hex == disk.sha256,
            _ => *hex == facts.sha256_written,
        });
        let mut failures = Vec::new();
        let mut demand = |held: bool, sentence: String| {
            if !held {
                failures.push(sentence);
            }
        };
        demand(facts.end == End::PoweredOff, format!("the machine {}", facts.end.text()));
        demand(
            facts.orderly || facts.end != End::PoweredOff,
            "QEMU ended with an error status".into(),
        );
        demand(
            transcript.panic.is_none(),
            format!("a panic: {}", transcript.panic.as_deref().unwrap_or_default()),
        );
        let host = transcript.host_result.as_deref();
        demand(host == Some("pass"), format!("the host's result is {}", host.unwrap_or("missing")));
        let guests = &transcript.guest_results;
        demand(
            guests.len() >= EXPECTED_GUESTS && guests.iter().all(|result| result == "pass"),
            format!("{EXPECTED_GUESTS} guests should say result=pass, said: {guests:?}"),
        );
        demand(
            hashes.len() >= EXPECTED_GUESTS && right,
            format!(
                "{}: guests computed {hashes:?}, the image has {}",
                disk.hash_name, disk.sha256
            ),
        );
        demand(facts.write_seen, "the guest's write is not on the disk".into());
        judge_attacks(&transcript.attacks, facts.machine, &mut demand);
        Self {
            result: if failures.is_empty() { "pass" } else { "fail" },
            failures,
            machine: MachineReport {
                cpu: facts.machine.cpu.clone(),
                cpus: facts.machine.cpus,
                memory_mib: facts.machine.memory,
            },
            disk: DiskReport {
                file: disk.hash_name.clone(),
                sha256_guest: hashes.first().copied().unwrap_or_default().to_owned(),
                sha256_host: disk.sha256.clone(),
                write_seen: facts.write_seen,
            },
            attacks: transcript.attacks.clone(),
            counters: transcript.counters.clone(),
            seconds: facts.seconds,
        }
    }

    /// Whether everything held.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

fn judge_attacks(attacks: &[Attack], machine: &Machine, demand: &mut impl FnMut(bool, String)) {
    for attack in attacks {
        demand(
            attack.outcome == "refused",
            format!("attack {} ({}): {}", attack.id, attack.what, attack.outcome),
        );
    }
    let tried = |id: &&str| attacks.iter().any(|attack| is_of(&attack.id, id));
    let expected = expected_of_the_story(&machine.cpu, machine.cpus, machine.smmu);
    let missing: Vec<&str> = expected.into_iter().filter(|id| !tried(id)).collect();
    demand(missing.is_empty(), format!("attacks never tried: {}", missing.join(", ")));
    demand(!attacks.is_empty(), "no attack was made".into());
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
