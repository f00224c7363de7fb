//! Whose each page of a guest's is, trap by trap, as the page tables have it:
//! what a CPU can reach, not what anybody says.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hyp::abi;
use hyp::addr::{Gfn, Pfn};
use hyp::layout;
use hyp::machine::{Cause, Vmid};
use hyp::memory::WINDOWS;
use hyp::trace::{Event, Record};

/// Pages side by side: the first, and the one after the last.
pub type Range = (u64, u64);

/// What a trap has made of the guest's pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// Whose trap it was, and which call.
    pub cause: String,
    /// Pages of its RAM that have no frame.
    pub absent: Vec<Range>,
    /// Those that the host reaches at their own address or alias.
    pub ram: Vec<Range>,
    /// Addresses of its devices' windows at which the host reaches one.
    pub window: Vec<Range>,
    /// Pages of the host's that the guest reaches.
    pub brought: u64,
}

/// Words of a table; bits of a leaf or table word that say what it is.
const WORDS: usize = 512;
const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const ADDRESS: u64 = ((1 << 39) - 1) & !0xfff;

/// First frame of RAM, and of the windows, in guest and host.
const RAM: u64 = layout::RAM >> 12;

/// The tables, as the records have written them.
#[derive(Default)]
struct Tables(HashMap<u64, Box<[u64; WORDS]>>);

impl Tables {
    fn act(&mut self, event: Event) {
        match event {
            Event::Store { table, index, value } => {
                let words = self.0.entry(table.number()).or_insert_with(|| Box::new([0; WORDS]));
                words[usize::from(index)] = value;
            }
            Event::Wipe(frames) => {
                self.0.retain(|table, _| Pfn::new(*table).is_none_or(|pfn| !frames.contains(pfn)));
            }
            _ => {}
        }
    }

    /// Every page below `table`, whose entries are at `level`, from the input
    /// frame `first` on.
    fn pages(&self, table: u64, level: u32, first: u64, found: &mut BTreeMap<u64, u64>) {
        let Some(words) = self.0.get(&table) else { return };
        let span = 1u64 << (9 * (3 - level));
        for (input, word) in (first..).step_by(span as usize).zip(words.iter()) {
            let output = (word & ADDRESS) >> 12;
            match (word & VALID != 0, word & TABLE_OR_PAGE != 0) {
                (true, true) if level < 3 => self.pages(output, level + 1, input, found),
                (true, page) if page == (level == 3) => {
                    found.extend((0..span).map(|page| (input + page, output + page)));
                }
                _ => {}
            }
        }
    }

    /// Where the host's page `input` leads.
    fn lookup(&self, root: u64, input: u64) -> Option<u64> {
        let mut table = root;
        for level in 1..=3 {
            let span = 1u64 << (9 * (3 - level));
            let word = self.0.get(&table)?[(input / span) as usize % WORDS];
            let output = (word & ADDRESS) >> 12;
            match (word & VALID != 0, word & TABLE_OR_PAGE != 0) {
                (true, true) if level < 3 => table = output,
                (true, page) if page == (level == 3) => return Some(output + input % span),
                _ => return None,
            }
        }
        None
    }
}

/// Each trap that has changed what the guest `vmid` has or shows: `pages` is
/// how much RAM it has. Nothing, if it never ran.
pub fn steps(records: &[Record], vmid: Vmid, pages: u64) -> Vec<Step> {
    let root = |of: Vmid| {
        records.iter().find_map(|record| match record.event {
            Event::Attach(regime) if regime.vmid == of => Some(regime.root.number()),
            _ => None,
        })
    };
    let (Some(host), Some(guest)) = (root(Vmid::HOST), root(vmid)) else { return Vec::new() };
    let (mut tables, mut steps) = (Tables::default(), Vec::<Step>::new());
    for record in records {
        tables.act(record.event);
        let Event::Quiet(cause) = record.event else { continue };
        let step = look(&tables, host, guest, pages, cause);
        let changed = match steps.last() {
            Some(last) => Step { cause: last.cause.clone(), ..step.clone() } != *last,
            None => step.absent != [(0, pages)],
        };
        if changed {
            steps.push(step);
        }
    }
    steps
}

fn look(tables: &Tables, host: u64, guest: u64, pages: u64, cause: Cause) -> Step {
    let mut mapped = BTreeMap::new();
    tables.pages(guest, 1, 0, &mut mapped);
    let (mut ram, mut own, mut brought) = (BTreeMap::new(), BTreeSet::new(), 0);
    for (gfn, pfn) in mapped {
        let page = Gfn::new(gfn).map_or(gfn, |gfn| gfn.unaliased().number()).wrapping_sub(RAM);
        if page < pages {
            ram.insert(page, tables.lookup(host, pfn) == Some(pfn));
            own.insert(pfn);
        } else {
            brought += 1;
        }
    }
    let mut windows = BTreeMap::new();
    if let Some(words) = tables.0.get(&host) {
        let first = (WINDOWS.number() >> 18) as usize;
        for (index, word) in words.iter().enumerate().skip(first) {
            if word & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE {
                tables.pages((word & ADDRESS) >> 12, 2, (index as u64) << 18, &mut windows);
            }
        }
    }
    let window = windows.iter().filter(|(_, pfn)| own.contains(pfn)).map(|(at, _)| at % (1 << 18));
    Step {
        cause: name(cause),
        absent: ranges((0..pages).filter(|page| !ram.contains_key(page))),
        ram: ranges(ram.iter().filter(|(_, seen)| **seen).map(|(page, _)| *page)),
        window: ranges(window),
        brought,
    }
}

fn ranges(pages: impl Iterator<Item = u64>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for page in pages {
        match ranges.last_mut() {
            Some((_, end)) if *end == page => *end += 1,
            _ => ranges.push((page, page + 1)),
        }
    }
    ranges
}

/// HVC and SMC from AArch64, in ESR_EL2 bits 31:26 (Arm ARM D24.2.40).
const CALLS: [u64; 2] = [0x16, 0x17];
/// An abort of a lower level, on data and on an instruction.
const ABORTS: [u64; 2] = [0x24, 0x20];

fn name(Cause { vmid, esr, x0 }: Cause) -> String {
    let (who, names) = match vmid {
        Vmid::HOST => ("the host", &HOST_CALLS[..]),
        _ => ("the guest", &GUEST_CALLS[..]),
    };
    let class = esr >> 26;
    if CALLS.contains(&class) {
        return match names.iter().find(|(id, _)| u64::from(*id) == x0) {
            Some((_, name)) => format!("{who} calls {name}"),
            None => format!("{who} calls {x0:#x}"),
        };
    }
    let what = if ABORTS.contains(&class) { "has a page fault" } else { "traps" };
    format!("{who} {what}")
}

macro_rules! names {
    ($($module:ident: $($name:ident)*;)*) => { [$($((abi::$module::$name, stringify!($name))),*),*] };
}

const HOST_CALLS: [(u32, &str); 15] = names![host:
    VM_CREATE VM_TOPUP FRAME_DONATE FRAME_SHARE VM_FINALISE VCPU_RUN VM_STOP FRAME_RECLAIM
    VM_DESTROY DEVICE_CREATE DEVICE_CONFIG DEVICE_INTERRUPT DEVICE_FAIL FRAME_STATE UART_LINE;];

const GUEST_CALLS: [(u32, &str); 8] = names![
    guest: MEM_SHARE MEM_UNSHARE MEM_RELINQUISH MEM_UNSHARE_ALL IOTABLE_SET REFRESH MMIO_GUARD_MAP;
    rsi: IPA_STATE_SET;];

#[cfg(test)]
mod tests {
    use super::*;
    use hyp::addr::PfnRange;
    use hyp::machine::Regime;

    const HOST: u64 = 0x4_1000;
    const GUEST: u64 = 0x4_2000;
    const GUEST_0: Vmid = Vmid(2);

    fn pfn(number: u64) -> Pfn {
        Pfn::new(number).unwrap()
    }

    fn store(table: u64, index: u16, value: u64) -> Event {
        Event::Store { table: pfn(table), index, value }
    }

    fn call(vmid: Vmid, function: u32) -> Event {
        Event::Quiet(Cause { vmid, esr: 0x16 << 26, x0: function.into() })
    }

    fn table(number: u64) -> u64 {
        number << 12 | 0b11
    }

    /// A guest with page 0 at frame 0x80000 and page 1 at 0x80001, of which
    /// the host reaches what `host` says.
    fn records(host: &[Event]) -> Vec<Record> {
        let mut events = vec![
            Event::Attach(Regime { vmid: Vmid::HOST, root: pfn(HOST) }),
            // The host's second gigabyte, by tables down to the first 2 MiB.
            store(HOST, 2, table(HOST + 1)),
            store(HOST + 1, 0, table(HOST + 2)),
            Event::Wipe(PfnRange::new(GUEST, 3).unwrap()),
            // RAM begins at 1 GiB.
            store(GUEST, 1, table(GUEST + 1)),
            store(GUEST + 1, 0, table(GUEST + 2)),
            store(GUEST + 2, 0, 0x8_0000 << 12 | 0x7ff),
            call(Vmid::HOST, abi::host::FRAME_DONATE),
            store(GUEST + 2, 1, 0x8_0001 << 12 | 0x7ff),
            call(Vmid::HOST, abi::host::FRAME_DONATE),
            Event::Attach(Regime { vmid: GUEST_0, root: pfn(GUEST) }),
            call(Vmid::HOST, abi::host::VCPU_RUN),
        ];
        events.extend(host);
        (0..).zip(events).map(|(number, event)| Record { number, cpu: 0, event }).collect()
    }

    #[test]
    fn a_page_is_given_lent_and_taken_back() {
        let share = [
            store(HOST + 2, 1, 0x8_0001 << 12 | 0x7ff),
            call(GUEST_0, abi::guest::MEM_SHARE),
            store(HOST + 2, 1, 0),
            call(GUEST_0, abi::guest::MEM_UNSHARE),
        ];
        let step = |cause: &str, absent: &[Range], ram: &[Range]| Step {
            cause: cause.into(),
            absent: absent.into(),
            ram: ram.into(),
            ..Step::default()
        };
        let expected = [
            step("the host calls FRAME_DONATE", &[(1, 3)], &[]),
            step("the host calls FRAME_DONATE", &[(2, 3)], &[]),
            step("the guest calls MEM_SHARE", &[(2, 3)], &[(1, 2)]),
            step("the guest calls MEM_UNSHARE", &[(2, 3)], &[]),
        ];
        assert_eq!(steps(&records(&share), GUEST_0, 3), expected);
        assert_eq!(steps(&records(&share), Vmid(3), 3), [], "a guest that never ran");
    }

    /// In a window a frame is at an address of the device's.
    #[test]
    fn a_page_in_a_window_is_not_in_ram() {
        let first = (WINDOWS.number() >> 18) as u16;
        let refresh = [
            store(HOST, first, table(HOST + 3)),
            store(HOST + 3, 0, table(HOST + 4)),
            store(HOST + 4, 7, 0x8_0000 << 12 | 0x7ff),
            call(GUEST_0, abi::guest::REFRESH),
        ];
        let steps = steps(&records(&refresh), GUEST_0, 2);
        let last = steps.last().unwrap();
        assert_eq!((&last.ram[..], &last.window[..]), (&[][..], &[(7, 8)][..]));
        assert_eq!(last.cause, "the guest calls REFRESH");
    }

    /// A page of the host's that the guest reaches is brought, and a trap that
    /// is no call says so.
    #[test]
    fn what_a_device_brings_is_counted() {
        let abort = Event::Quiet(Cause { vmid: GUEST_0, esr: 0x24 << 26, x0: 0 });
        let bar = [store(GUEST + 1, 1, table(GUEST + 3)), store(GUEST + 3, 0, 0x9_07ff), abort];
        let steps = steps(&records(&bar), GUEST_0, 2);
        assert_eq!(steps.last().map(|step| step.brought), Some(1));
        assert_eq!(steps.last().unwrap().cause, "the guest has a page fault");
    }
}
