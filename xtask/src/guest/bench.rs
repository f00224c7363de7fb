//! `cargo xtask bench --guest debian`: what a Linux guest costs, from its
//! creation to its last frame, by party and by cause.
//!
//! One cortex-a72 under instruction counting whose counter ticks once a
//! nanosecond, so a tick is an instruction. bouncer is built to tell whose
//! ticks they were. The guest is booted to a script that does nothing, and
//! then to others that make requests; the difference is what those cost.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::boot::{Guest, Ways};
use super::debian;
use super::disk::Disk;
use super::initramfs::Task;
use super::options::{Abi, Console, NO_SHARED_POOLS, Policy};
use super::read;
use super::run::word;
use super::screen::Keyboard;
use crate::build::{self, Images, Variant};
use crate::cli::BenchOptions;
use crate::qemu::{End, Machine};
use crate::runs::RunFolder;
use crate::term::{BAD, DIM, HEAD, Step, paint};
use crate::workspace::Workspace;
use crate::{Outcome, setup};

/// Requests of a run that makes requests.
const REQUESTS: u64 = 500;
/// The guest's memory in MiB.
const MEMORY: u64 = 256;
/// Bytes of its disk.
const DISK: usize = 8 << 20;

/// What the design asks for: EL2's instructions and the exits, from creation
/// to destruction.
const EL2_GOAL: f64 = 60e6;
const EXITS_GOAL: f64 = 60e3;

/// A run: its name, for people, and its script.
const RUNS: [(&str, &str, &str); 4] = [
    ("boot", "boot to a shell and power off", "true"),
    (
        "dd_read",
        "read 4 KiB of the disk",
        "dd if=/dev/vda of=/dev/null bs=4k count=500 iflag=direct",
    ),
    (
        "dd_write",
        "write 4 KiB to the disk",
        "dd if=/dev/zero of=/dev/vda bs=4k count=500 oflag=direct",
    ),
    ("ping", "a ping to the host", "ping -q -c 500 -i 0.001 10.0.2.2"),
];

/// What a run cost.
#[derive(Debug, Clone, Default, Serialize)]
struct Cost {
    /// Instructions by party, and times that EL2 was entered.
    el2: f64,
    host: f64,
    guest: f64,
    visits: f64,
    /// The guest's counters, at its end.
    counters: BTreeMap<String, f64>,
}

impl Cost {
    /// Read off a console.
    fn read(console: &str) -> Result<Self> {
        let words = |start: &str| {
            let line = console.lines().rev().find_map(|line| Some(line.split_once(start)?.1));
            line.map(pairs).with_context(|| format!("the console has no line with `{start}`"))
        };
        let profile = words("@bouncer profile ")?;
        let number = |name: &str| {
            profile.get(name).copied().with_context(|| format!("no {name} in the profile"))
        };
        let instructions =
            |name| Ok::<_, anyhow::Error>(number(name)? * 1e9 / number("frequency")?);
        Ok(Self {
            el2: instructions("el2")?,
            host: instructions("host")?,
            guest: instructions("guests")?,
            visits: number("visits")?,
            counters: words("linux: ran for ")?,
        })
    }

    /// What of this cost is more than `base`, for each of `requests`.
    fn beyond(&self, base: &Self, requests: f64) -> Self {
        let each = |this: f64, base: f64| (this - base) / requests;
        let counters = self.counters.iter().map(|(name, value)| {
            (name.clone(), each(*value, base.counters.get(name).copied().unwrap_or(0.0)))
        });
        Self {
            el2: each(self.el2, base.el2),
            host: each(self.host, base.host),
            guest: each(self.guest, base.guest),
            visits: each(self.visits, base.visits),
            counters: counters.collect(),
        }
    }

    fn counter(&self, name: &str) -> f64 {
        self.counters.get(name).copied().unwrap_or(0.0)
    }
}

/// The `name=number` words of a line.
fn pairs(line: &str) -> BTreeMap<String, f64> {
    let pair = |word: &str| {
        let (name, value) = word.trim_end_matches(',').split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    line.split_whitespace().filter_map(pair).collect()
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Figure {
    name: &'static str,
    what: &'static str,
    requests: u64,
    #[serde(flatten)]
    cost: Cost,
}

/// Builds, boots once for each figure, prints.
///
/// # Errors
/// When it could not be set up, built or booted, or did not come to its end.
pub fn run(workspace: &Workspace, options: &BenchOptions) -> Result<Outcome> {
    setup::run()?;
    let images = build::images_of(workspace, Variant::Profiled)?;
    let policy = options.policy.unwrap_or(Policy::SharedPages);
    let mut figures: Vec<Figure> = Vec::new();
    for (name, what, script) in RUNS {
        let step = Step::new("Measuring");
        let Some(cost) = boot(workspace, &images, policy, script)? else {
            return Ok(Outcome::Interrupted);
        };
        step.done(what);
        let (requests, cost) = match figures.first() {
            None => (1, cost),
            Some(base) => (REQUESTS, cost.beyond(&base.cost, REQUESTS as f64)),
        };
        figures.push(Figure { name, what, requests, cost });
    }
    print(&figures);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&figures)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Outcome::Pass)
}

/// Boots a guest that runs `script`; `None` after Ctrl-C.
fn boot(
    workspace: &Workspace,
    images: &Images,
    policy: Policy,
    script: &str,
) -> Result<Option<Cost>> {
    let scratch = RunFolder::new(workspace, "bench-disk")?;
    let disk = scratch.join("scratch-disk.img");
    std::fs::write(&disk, vec![0; DISK]).context("cannot make a scratch disk")?;
    let task = Task::Script(format!("{script} >/dev/null 2>&1\n").into_bytes());
    let word = word();
    let kind = debian::Kind { abi: Abi::Rsi, newest: false, module: policy.brings_memory() };
    let made = debian::make(workspace, &kind, &task, &word, None)?;
    let more = if policy.brings_memory() { NO_SHARED_POOLS } else { "" };
    let guest = Guest {
        name: "bench".to_owned(),
        kernel: made.kernel,
        initrd: Some(made.initrd),
        command_line: format!("console={} quiet panic=-1 {more}", Console::Hvc0.device()),
        abi: Abi::Rsi,
        policy,
        console: Console::Hvc0,
        vcpus: 1,
        memory: MEMORY,
        lives: 1,
        kill_in_io: false,
        neighbours: 0,
        disk: Some(Disk::open(&disk)?),
        word: Some(word),
        keyboard: Keyboard::None,
        timeout: None,
        lies: Vec::new(),
        attack: None,
    };
    let memory = guest.machine_memory(None)?;
    let cpu = "cortex-a72,cntfrq=1000000000".to_owned();
    let machine = Machine { cpu, cpus: 1, memory, icount: true, ..Machine::default() };
    let finished = guest.boot(workspace, images, &Ways { machine, gdb: None, verbose: false })?;
    match (finished.end, finished.status) {
        (End::Interrupted, _) => return Ok(None),
        (End::PoweredOff, Some(0)) => {}
        (_, status) => {
            for line in &finished.tail {
                anstream::eprintln!("    {line}");
            }
            bail!("`{script}` ended with {status:?}; above is the end of the console")
        }
    }
    let console = read(&finished.folder.join("console.log"))?;
    Cost::read(&String::from_utf8_lossy(&console)).map(Some)
}

fn print(figures: &[Figure]) {
    let Some((boot, requests)) = figures.split_first() else { return };
    let cost = &boot.cost;
    let heading = format!("{:<44}{:>16}{:>14}", "create, boot, power off, destroy", "", "goal");
    anstream::println!("\n  {}", paint(HEAD, heading));
    let line = |what: &str, value: f64, goal: Option<f64>| {
        let over = goal.is_some_and(|goal| value > goal);
        let shown = format!("{value:>16.0}");
        let shown = if over { paint(BAD, shown) } else { shown };
        let goal = goal.map_or_else(String::new, |goal| format!("{goal:>14.0}"));
        anstream::println!("    {what:<42}{shown}{}", paint(DIM, goal));
    };
    line("instructions of EL2", cost.el2, Some(EL2_GOAL));
    line("instructions of the host", cost.host, None);
    line("instructions of the guest", cost.guest, None);
    line("entries of EL2", cost.visits, None);
    line("entries of the guest", cost.counter("entries"), Some(EXITS_GOAL));
    for (name, value) in &cost.counters {
        if name != "entries" && *value > 0.0 {
            line(&format!("  {}", name.replace('_', " ")), *value, None);
        }
    }
    let heading =
        format!("{:<34}{:>12}{:>12}{:>12}{:>12}", "a request", "EL2", "host", "guest", "exits");
    anstream::println!("\n  {}", paint(HEAD, heading));
    for Figure { what, cost, .. } in requests {
        let Cost { el2, host, guest, .. } = cost;
        let exits = cost.counter("entries");
        anstream::println!("    {what:<32}{el2:>12.0}{host:>12.0}{guest:>12.0}{exits:>12.1}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "linux: Rsi, 256 MiB\n\
        linux: ran for 7571 ms, entries=80992 exits_hypercall=64\n\
        @bouncer profile el2=100 host=200 guests=300 visits=7 frequency=500000000\n";

    #[test]
    fn the_cost_of_a_run_is_on_its_console() {
        let cost = Cost::read(CONSOLE).unwrap();
        assert_eq!((cost.el2, cost.host, cost.guest, cost.visits), (200.0, 400.0, 600.0, 7.0));
        assert_eq!(cost.counter("entries"), 80992.0);
        let without = CONSOLE.replace("@bouncer profile", "@bouncer");
        assert!(Cost::read(&without).unwrap_err().to_string().contains("profile"));
    }

    #[test]
    fn a_request_costs_what_is_beyond_the_boot() {
        let base = Cost::read(CONSOLE).unwrap();
        let mut more = base.clone();
        more.el2 += 1000.0;
        *more.counters.get_mut("entries").unwrap() += 20.0;
        let each = more.beyond(&base, 10.0);
        assert_eq!((each.el2, each.host, each.counter("entries")), (100.0, 0.0, 2.0));
    }

    #[test]
    fn every_run_that_makes_requests_makes_as_many() {
        for (name, _, script) in &RUNS[1..] {
            assert!(script.contains(&REQUESTS.to_string()), "{name}");
        }
    }
}
