//! I/O tables made of decisions, and the calls about them, against a reading
//! of `docs/iotable.md` that walks the table word by word and keeps a map.
//!
//! The guest writes words into pages that serve as tables of any level, as
//! data, or both, shares them, gives them up, and calls. Now and then another
//! vCPU changes every word right after EL2 has read it.

use super::Choices;
use crate::abi::{self, exit, guest as id, host};
use crate::addr::Pfn;
use crate::hypervisor::{HostPlatform, Hypervisor};
use crate::layout;
use crate::machine::{MAX_CPUS, Vmid};
use crate::sim::{Layout, SimMachine, check};
use crate::trap::{Trap, TrapKind};
use crate::vcpu::state::Frame;
use crate::vm::Handle;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// Pages of RAM, and of those that have a frame at first.
const RAM: u64 = 24;
const DONATED: u64 = 20;
/// The first pages, which serve as tables more often than others.
const TABLES: u64 = 5;
/// Pages of the aperture, and the word of the root behind which it is.
const APERTURE: u64 = 1 << 18;
const ROOT_WORD: usize = 320;
const DENIED: i64 = -4;
const MALFORMED: i64 = -3;

/// Why a call is not answered with success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum No {
    Error(i64),
    /// The host is asked for this page of RAM.
    Asks(u64),
}

/// What a device sees: page of the aperture, page of RAM, may it write.
type View = BTreeMap<u64, (u64, bool)>;
/// What is stored over a word that EL2 has just read.
type Rewrite = Option<fn(u64) -> u64>;

/// A page of RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    frame: Pfn,
    lent: bool,
}

struct Walk<'a> {
    choices: Choices<'a>,
    hyp: Hypervisor<SimMachine>,
    handle: u64,
    /// The window in the host's address space.
    window: u64,
    budget: u64,
    root: Option<u64>,
    pages: BTreeMap<u64, Page>,
    mapped: View,
    seen: Seen,
}

/// How often each thing happened; a test of silence would prove nothing.
#[derive(Default, Debug)]
struct Seen {
    mapped: u64,
    unmapped: u64,
    left_out: u64,
    refused: u64,
    asked: u64,
}

fn hvc(immediate: u16) -> Trap {
    let esr = 0x16 << 26 | 1 << 25 | u64::from(immediate);
    Trap { kind: TrapKind::Sync, esr, far: 0, hpfar: 0 }
}

fn call_host(hyp: &Hypervisor<SimMachine>, function: u32, arguments: &[u64]) -> [u64; 4] {
    let mut frame = Frame::default();
    frame.x[0] = function.into();
    frame.x[1..=arguments.len()].copy_from_slice(arguments);
    hyp.handle_host_trap(&mut frame, hvc(0));
    hyp.machine().settle();
    [0, 1, 2, 3].map(|register| frame.x[register])
}

impl<'a> Walk<'a> {
    fn new(mut choices: Choices<'a>) -> Self {
        let layout = Layout::new(4);
        let platform = HostPlatform { redistributors: [const { None }; MAX_CPUS] };
        let boot = layout.boot();
        let hyp = Hypervisor::new(layout.machine(), layout.frame_table(), &boot, platform).unwrap();
        hyp.machine().attach(hyp.host_regime());
        hyp.machine().attach_dma(hyp.dma_root());
        let first = layout.ram[0].start().number();
        let [code, handle, ..] = call_host(&hyp, host::VM_CREATE, &[first, 64, RAM, 1, 0]);
        assert_eq!(code, 0);
        let regime = hyp.with_vm(Handle::from_raw(handle), |vm| Ok(vm.regime())).unwrap();
        hyp.machine().attach(regime);
        let (ram, frames) = (layout::RAM >> 12, first + 64);
        let budget = 1 + choices.below(40);
        for (function, arguments) in [
            (host::FRAME_DONATE, [handle, frames, ram, DONATED, 0]),
            (host::DEVICE_CREATE, [handle, 2, abi::POLICY_SHADOW_IOMMU, budget, 1]),
            (host::VM_FINALISE, [handle, layout::RAM, 0, 0, 0]),
        ] {
            assert_eq!(call_host(&hyp, function, &arguments)[0], 0);
        }
        let [_, _, _, window] = call_host(&hyp, host::QUEUE_INFO, &[handle, 0, 0, 2]);
        let page = |page| (page, Page { frame: Pfn::new(frames + page).unwrap(), lent: false });
        Self {
            choices,
            hyp,
            handle,
            window: window >> 12,
            budget,
            root: None,
            pages: (0..DONATED).map(page).collect(),
            mapped: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    // ---- the world ------------------------------------------------------------

    /// A call of the guest's: its results, or the page the host is asked for.
    fn call(&self, function: u32, arguments: &[u64]) -> Result<[u64; 3], No> {
        let results = Arc::new(Mutex::new([0; 4]));
        let (sink, arguments) = (results.clone(), arguments.to_vec());
        let interrupt = Trap { kind: TrapKind::Interrupt, ..hvc(0) };
        self.hyp.machine().world().script(0, move |vcpu| {
            vcpu.frame.x[0] = function.into();
            vcpu.frame.x[1..=arguments.len()].copy_from_slice(&arguments);
            hvc(0)
        });
        self.hyp.machine().world().script(0, move |vcpu| {
            *sink.lock().unwrap() = [0, 1, 2, 3].map(|register| vcpu.frame.x[register]);
            interrupt
        });
        let [code, reason, page, _] = call_host(&self.hyp, host::VCPU_RUN, &[self.handle, 0, 0]);
        assert_eq!(code, 0);
        if reason & 0xff == exit::MEM_FAULT {
            self.hyp.machine().world().clear_script(0);
            return Err(No::Asks((page >> 12) - (layout::RAM >> 12)));
        }
        assert_eq!(reason & 0xff, exit::INTERRUPT);
        match *results.lock().unwrap() {
            [0, values @ ..] => Ok(values),
            [code, values @ ..] => {
                assert_eq!(values, [0; 3]);
                Err(No::Error(code as i64))
            }
        }
    }

    fn word(&self, page: u64, index: usize) -> u64 {
        self.hyp.machine().peek(self.pages[&page].frame, index)
    }

    // ---- what the page says -----------------------------------------------------

    fn mappings_of(&self, page: u64) -> usize {
        self.mapped.values().filter(|(mapped, _)| *mapped == page).count()
    }

    /// Where a word leads, and may the device write there?
    fn decode(word: u64, last: bool) -> Result<Option<(u64, bool)>, No> {
        if word == 0 {
            return Ok(None);
        }
        let meant = 1 | 0x7f_ffff_f000 | if last { 2 } else { 0 };
        if word & 1 == 0 || word & !meant != 0 {
            return Err(No::Error(MALFORMED));
        }
        Ok(Some((word & 0x7f_ffff_f000, word & 2 != 0)))
    }

    /// The number of an address in RAM.
    fn ram_number(address: u64) -> Result<u64, No> {
        let page = (address >> 12).checked_sub(layout::RAM >> 12).filter(|page| *page < RAM);
        page.ok_or(No::Error(MALFORMED))
    }

    /// The page of RAM at an address, which must be there.
    fn ram_page(&self, address: u64) -> Result<u64, No> {
        let page = Self::ram_number(address)?;
        if self.pages.contains_key(&page) { Ok(page) } else { Err(No::Asks(page)) }
    }

    /// A table, which is the guest's alone.
    fn table(&self, address: u64, above: &[u64]) -> Result<u64, No> {
        let page = self.ram_page(address)?;
        if self.pages[&page].lent || self.mappings_of(page) > 0 {
            return Err(No::Error(DENIED));
        }
        if above.contains(&page) { Err(No::Error(MALFORMED)) } else { Ok(page) }
    }

    /// REFRESH of pages `start` to `end` - 1: the pages it does, those it
    /// leaves out, and what the device sees then.
    fn refreshed(&self, start: u64, end: u64) -> Result<(u64, u64, View), No> {
        let root = self.root.ok_or(No::Error(-8))?;
        let root = self.table(layout::RAM + (root << 12), &[])?;
        let middle = match Self::decode(self.word(root, ROOT_WORD), false)? {
            Some((address, _)) => Some(self.table(address, &[root])?),
            None => None,
        };
        for index in start / 512..end.div_ceil(512) {
            let word = middle.map_or(0, |middle| self.word(middle, index as usize));
            let leads = Self::decode(word, false)?;
            let part = start.max(index * 512)..end.min((index + 1) * 512);
            let has_table = self.mapped.range(index * 512..(index + 1) * 512).next().is_some();
            if leads.is_none() && !has_table {
                continue;
            }
            let above: Vec<u64> = [root].into_iter().chain(middle).collect();
            let last = match leads {
                Some((address, _)) => Some(self.table(address, &above)?),
                None => None,
            };
            let wanted = |page: u64| {
                let word = last.map_or(0, |last| self.word(last, (page % 512) as usize));
                Self::decode(word, true)
            };
            // All words first, then where they lead: in RAM at all, and is the
            // page there; then whose that is.
            part.clone().try_for_each(|page| wanted(page).map(|_| ()))?;
            part.clone().try_for_each(|page| match wanted(page)? {
                Some((address, _)) => Self::ram_number(address).map(|_| ()),
                None => Ok(()),
            })?;
            let mut want = BTreeMap::new();
            for page in part.clone() {
                if let Some((address, right)) = wanted(page)? {
                    want.insert(page, (self.ram_page(address)?, right));
                }
            }
            let mut after = self.mapped.clone();
            after.retain(|page, seen| !part.contains(page) || want.get(page) == Some(seen));
            let mut left_out = 0;
            for (page, view) in want {
                if after.contains_key(&page) {
                    continue;
                }
                let mappings = after.values().filter(|(mapped, _)| *mapped == view.0).count();
                if self.pages[&view.0].lent || mappings == 255 {
                    return Err(No::Error(DENIED));
                }
                match after.len() as u64 == self.budget {
                    true => left_out += 1,
                    false => _ = after.insert(page, view),
                }
            }
            return Ok((part.end - start, left_out, after));
        }
        Ok((end - start, 0, self.mapped.clone()))
    }

    // ---- steps --------------------------------------------------------------------

    /// A word as a table may have it, or not.
    fn some_word(&mut self) -> u64 {
        let page = match self.choices.below(8) {
            0 => self.choices.below(RAM + 2),
            1..4 => self.choices.below(TABLES),
            _ => TABLES + self.choices.below(DONATED - TABLES),
        };
        let good = (layout::RAM + (page << 12)) | 1 | self.choices.below(2) << 1;
        match self.choices.below(24) {
            0 | 1 => 0,
            2 => good ^ 1 << self.choices.below(64),
            3 => self.choices.pick(&[layout::PCI_MEM64 | 1, layout::APERTURE | 1, 1, u64::MAX]),
            4..8 => good & !2,
            _ => good,
        }
    }

    fn write_word(&mut self) {
        let page = self.choices.below(TABLES);
        let index = self.choices.pick(&[ROOT_WORD, 0, 0, 1, 2, 3, 4, 5, 511]);
        let mut word = self.some_word();
        if index == ROOT_WORD || self.choices.one_in(3) {
            word &= !2;
        }
        if let Some(page) = self.pages.get(&page) {
            self.choices.note(format_args!("{page:x?} word {index} becomes {word:#x}"));
            self.hyp.machine().poke(page.frame, index, word);
        }
    }

    /// A table that works, in the first three pages that are good for one.
    fn make_table(&mut self) {
        let good = |page: &u64| !self.pages[page].lent && self.mappings_of(*page) == 0;
        let tables: Vec<u64> = self.pages.keys().copied().filter(good).take(3).collect();
        let [root, middle, last] = tables[..] else { return };
        let address = |page: u64| (layout::RAM + (page << 12)) | 1;
        let to = self.choices.pick(&[0, 0, 1, 511]);
        for table in [middle, last] {
            self.hyp.machine().plant(self.pages[&table].frame, 0);
        }
        for (page, index, word) in [(root, ROOT_WORD, address(middle)), (middle, to, address(last))]
        {
            self.hyp.machine().poke(self.pages[&page].frame, index, word);
        }
        let pages = self.choices.below(24) as usize;
        for index in 0..pages {
            let page = TABLES + self.choices.below(DONATED - TABLES);
            let right = self.choices.below(2) << 1;
            // Mostly one that may be mapped, or all would be refused.
            if self.pages.get(&page).is_some_and(|page| !page.lent) || self.choices.one_in(32) {
                self.hyp.machine().poke(self.pages[&last].frame, index, address(page) | right);
            }
        }
        if self.root != Some(root) {
            while self.root.is_some() || !self.mapped.is_empty() {
                self.take_root_away();
            }
            assert_eq!(self.call(id::IOTABLE_SET, &[0, address(root) - 1]), Ok([0; 3]));
            self.root = Some(root);
        }
    }

    /// What is mapped goes with it, 2 MiB of addresses in a call.
    fn take_root_away(&mut self) {
        let first = self.mapped.keys().next().map(|page| page & !511);
        self.mapped.retain(|page, _| Some(page & !511) != first);
        self.root = None;
        let left = self.mapped.len() as u64;
        assert_eq!(self.call(id::IOTABLE_SET, &[0, 0]), Ok([left, 0, 0]));
    }

    fn refresh(&mut self) {
        let start =
            self.choices.pick(&[0, 0, 0, 0, 0, 1, 3, 512, 511, APERTURE - 512, APERTURE - 1]);
        let pages = self.choices.pick(&[1, 2, 5, 24, 512, 512, APERTURE, 24]);
        let pages = match self.choices.below(16) {
            0 => pages + self.choices.below(2) * APERTURE,
            1 => 0,
            _ => pages.min(APERTURE - start),
        };
        let rewrites: [Rewrite; 8] =
            [None, None, None, None, None, None, Some(|word| word ^ 0x1002), Some(|_| u64::MAX)];
        let rewrite = self.choices.pick(&rewrites);
        let expected = match pages == 0 || start + pages > APERTURE {
            true => Err(No::Error(MALFORMED)),
            false => self.refreshed(start, start + pages),
        };
        self.choices.note(format_args!("refresh {start:#x}, {pages:#x}: {expected:x?}"));
        self.hyp.machine().set_rewriter(rewrite);
        let found = self.call(id::REFRESH, &[0, layout::APERTURE + (start << 12), pages]);
        self.hyp.machine().set_rewriter(None);
        match expected {
            Ok((done, left_out, after)) => {
                assert_eq!(found, Ok([done, left_out, after.len() as u64]));
                let same = |page: &&u64| self.mapped.get(page) == after.get(page);
                let stay = self.mapped.keys().filter(same).count() as u64;
                self.seen.unmapped += self.mapped.len() as u64 - stay;
                self.seen.mapped += after.len() as u64 - stay;
                self.seen.left_out += left_out;
                self.mapped = after;
            }
            Err(no) => {
                assert_eq!(found, Err(no));
                match no {
                    No::Error(_) => self.seen.refused += 1,
                    No::Asks(_) => self.seen.asked += 1,
                }
            }
        }
    }

    fn set_root(&mut self) {
        if self.choices.one_in(2) {
            return self.take_root_away();
        }
        let page = self.choices.below(RAM + 2);
        let expected = if page >= RAM {
            Err(No::Error(MALFORMED))
        } else if self.root != Some(page) && !self.mapped.is_empty() {
            Err(No::Error(-6))
        } else {
            self.root = Some(page);
            Ok([self.mapped.len() as u64, 0, 0])
        };
        let root = layout::RAM + (page << 12);
        assert_eq!(self.call(id::IOTABLE_SET, &[0, root]), expected, "root {root:#x}");
    }

    /// The calls of a guest that may meet a page of a device.
    fn move_page(&mut self) {
        let page = self.choices.below(RAM);
        let (function, wants_lent) = self.choices.pick(&[
            (id::MEM_SHARE, false),
            (id::MEM_UNSHARE, true),
            (id::MEM_RELINQUISH, false),
        ]);
        let address = layout::RAM + (page << 12);
        let arguments: &[u64] =
            if function == id::MEM_RELINQUISH { &[address] } else { &[address, 1, 0] };
        let found = self.call(function, arguments).map(|_| ());
        let in_window = self.mappings_of(page) > 0;
        let Some(known) = self.pages.get_mut(&page) else {
            assert_eq!(found, Err(No::Error(-5)));
            return;
        };
        if in_window || known.lent != wants_lent {
            assert_eq!(found, Err(No::Error(DENIED)), "{function:#x} of page {page}");
            return;
        }
        assert_eq!(found, Ok(()));
        match function {
            id::MEM_RELINQUISH => _ = self.pages.remove(&page),
            _ => known.lent = !wants_lent,
        }
    }

    /// The host gives a page that is not there.
    fn donate(&mut self) {
        let missing = (0..RAM).find(|page| !self.pages.contains_key(page));
        let frames = (self.pages.values().map(|page| page.frame.number()).max().unwrap_or(0)..)
            .find(|frame| self.hyp.view_entry(Pfn::new(*frame).unwrap()).raw() == 2);
        if let (Some(page), Some(frame)) = (missing, frames) {
            let arguments = [self.handle, frame, (layout::RAM >> 12) + page, 1, 0];
            assert_eq!(call_host(&self.hyp, host::FRAME_DONATE, &arguments)[0], 0);
            self.pages.insert(page, Page { frame: Pfn::new(frame).unwrap(), lent: false });
        }
    }

    fn step(&mut self) {
        match self.choices.below(16) {
            0 => self.write_word(),
            1..5 => self.make_table(),
            5..12 => self.refresh(),
            12 if self.choices.one_in(4) => self.set_root(),
            12 | 13 => self.move_page(),
            _ => self.donate(),
        }
        self.compare();
    }

    /// The device sees what the map says, with that right, and nothing more;
    /// and the rules hold.
    fn compare(&self) {
        let machine = self.hyp.machine();
        let leaves = machine.leaves(Vmid::HOST);
        let found = leaves
            .iter()
            .filter(|leaf| leaf.gfn.number() >= self.window)
            .map(|leaf| (leaf.gfn.number() - self.window, leaf.pfn, leaf.word >> 7 & 1 != 0));
        let expected =
            self.mapped.iter().map(|(page, (ram, right))| (*page, self.pages[ram].frame, *right));
        assert!(found.eq(expected));
        for (number, page) in &self.pages {
            let at_home = machine.access(Vmid::HOST, page.frame.identity());
            assert_eq!(!at_home.is_empty(), page.lent, "page {number}");
        }
        let result = self.hyp.with_memory_and_vm(Handle::from_raw(self.handle), |memory, vm| {
            check(machine, memory, &[&vm.memory]);
            let window = vm.memory.window(0).map(|window| window.mapped());
            assert_eq!(window, Some(self.mapped.len() as u64));
            Ok(())
        });
        assert_eq!(result, Ok(()));
    }
}

fn walk(choices: Choices<'_>, steps: usize) -> Seen {
    let mut walk = Walk::new(choices);
    for _ in 0..steps {
        if walk.choices.is_over() {
            break;
        }
        walk.step();
    }
    let Walk { hyp, seen, .. } = walk;
    Layout::reuse(hyp.into_frame_table());
    seen
}

/// Writes tables and makes calls as `choices` say, as long as there are any.
///
/// # Panics
/// If a call or the device's view is not what `docs/iotable.md` says, or a rule
/// is broken.
pub fn run(choices: Choices<'_>) {
    walk(choices, 300);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_and_no_sequence_of_calls_gives_a_device_more_than_it_should() {
        let mut all = Seen::default();
        for seed in [1, 2] {
            let seen = walk(Choices::seed(seed), 500);
            all.mapped += seen.mapped;
            all.unmapped += seen.unmapped;
            all.left_out += seen.left_out;
            all.refused += seen.refused;
            all.asked += seen.asked;
        }
        // Each of the outcomes, often enough to mean something.
        assert!(all.mapped > 150 && all.unmapped > 120 && all.left_out > 90, "{all:?}");
        assert!(all.refused > 50 && all.asked > 2, "{all:?}");
    }
}
