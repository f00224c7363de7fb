//! Whose instructions they were (feature `profile`).
//!
//! Time is cut at every switch between EL2 and a world, and each piece goes to
//! whoever had the CPU. Under QEMU's instruction counting a tick of the
//! counter is a fixed number of instructions. The sums are printed when the
//! machine is switched off, and told by STATS before that.

use crate::percpu::Tally;
use crate::{console, percpu, sysreg};
use core::cell::Cell;
use core::fmt::Write;
use hyp::machine::{MAX_CPUS, Vmid, Work};

/// Ticks of the counter that one CPU spent for each party, and since when.
/// Other CPUs read the sums while it runs ([`add_to`]).
pub(crate) struct Ticks {
    since: Cell<u64>,
    el2: Tally,
    host: Tally,
    guests: Tally,
    /// Times that EL2 was entered.
    visits: Tally,
}

impl Ticks {
    pub(crate) const fn new() -> Self {
        Self {
            since: Cell::new(0),
            el2: Tally::new(),
            host: Tally::new(),
            guests: Tally::new(),
            visits: Tally::new(),
        }
    }

    /// Since this CPU last asked.
    fn passed(&self) -> u64 {
        let now = sysreg::cntpct_el0::read();
        now.wrapping_sub(self.since.replace(now))
    }
}

/// EL2 is about to enter a world.
pub(crate) fn leave_el2() {
    let ticks = &percpu::this().ticks;
    ticks.el2.add(ticks.passed());
}

/// A world has trapped.
pub(crate) fn enter_el2() {
    let ticks = &percpu::this().ticks;
    let vmid = sysreg::vttbr_el2::read() >> 48;
    let party = if vmid == u64::from(Vmid::HOST.0) { &ticks.host } else { &ticks.guests };
    party.add(ticks.passed());
    ticks.visits.add(1);
}

/// Adds the sums of all CPUs: up to the last switch on each.
pub(crate) fn add_to(work: &mut Work) {
    for ticks in (0..MAX_CPUS).filter_map(percpu::of).map(|cpu| &cpu.ticks) {
        work.ticks_el2 += ticks.el2.get();
        work.ticks_host += ticks.host.get();
        work.ticks_guests += ticks.guests.get();
        work.entries += ticks.visits.get();
    }
}

/// Prints the sums of all CPUs.
pub(crate) fn report() {
    let mut work = Work::default();
    add_to(&mut work);
    let Work { ticks_el2: el2, ticks_host: host, ticks_guests: guests, entries: visits, .. } = work;
    let frequency = sysreg::cntfrq_el0::read();
    // Writing to the UART cannot fail.
    let _ = writeln!(
        console::uart(),
        "@bouncer profile el2={el2} host={host} guests={guests} visits={visits} \
         frequency={frequency}"
    );
}
