//! What is EL2's or a driver's to choose: how many bounce pages a fault maps,
//! where a bounce window is. The model takes it over, within limits.

use crate::expected::Adopt;
use crate::session::{Checker, Inner};
use crate::state::{Device, Page};
use crate::tables::Tables;
use hyp::addr::FRAME_SHIFT;

/// Most pages that one fault in a bounce window maps (docs/trap.md).
const FAULT_AROUND: u64 = 64;

impl Inner {
    /// Takes over what was EL2's or the driver's to choose, within limits.
    pub(crate) fn adopt(
        &self,
        checker: &mut Checker,
        handle: u64,
        adopt: Adopt,
    ) -> Result<(), String> {
        match adopt {
            Adopt::Nothing => Ok(()),
            Adopt::Pages(gfn) => self.adopt_pages(checker, handle, gfn),
            Adopt::Windows => self.adopt_windows(checker, handle),
        }
    }

    /// A fault in a bounce window has mapped its page and perhaps some that
    /// follow, each to the device's frame for it.
    fn adopt_pages(&self, checker: &mut Checker, handle: u64, first: u64) -> Result<(), String> {
        let view = self.booted.hyp().view_vm(handle).ok_or("no VM")?;
        let root = view.regime.root.number();
        let mapped = Tables::read(self.booted.hyp().machine(), root);
        let vm = checker.state.vm(handle).ok_or("no VM")?;
        let slot = vm.slot;
        let window = |device: &&Device| {
            device.window.is_some_and(|(start, end)| (start..end).contains(&first))
        };
        let device = vm.devices.iter().find(window).cloned().ok_or("no window")?;
        let start = device.window.map_or(0, |(start, _)| start);
        for gfn in first..first + FAULT_AROUND {
            let Some((_, pfn, _)) = mapped.pages().find(|(at, _, _)| *at == gfn) else { break };
            let page = device.pages.get((gfn - start) as usize).copied().flatten();
            if page != Some(pfn) || checker.state.page(pfn) != Some(Page::Lent(slot, None)) {
                break;
            }
            checker.state.set(pfn, Page::Lent(slot, Some(gfn)));
        }
        match checker.state.translate(slot, first) {
            Some(_) => Ok(()),
            None => Err(format!("the fault at guest frame {first:#x} has mapped nothing")),
        }
    }

    /// The guest wrote to configuration space: its bounce windows may be
    /// elsewhere, but only where a bridge forwards. What was mapped in one
    /// that has moved is not any more.
    fn adopt_windows(&self, checker: &mut Checker, handle: u64) -> Result<(), String> {
        let Some(view) = self.booted.hyp().view_vm(handle) else { return Ok(()) };
        let Some(vm) = checker.state.vm_mut(handle) else { return Ok(()) };
        let (slot, unlinked) = (vm.slot, vm.unlinked);
        let mut closed = Vec::new();
        for (device, window) in vm.devices.iter_mut().zip(view.windows) {
            let window = window.map(|window| (window.start().number(), window.end()));
            if device.window == window {
                continue;
            }
            if let Some((start, end)) = window
                && (end - start != device.pages.len() as u64 || !is_forwarded(start, end))
            {
                return Err(format!("a bounce window at {start:#x}..{end:#x}"));
            }
            closed.extend(device.window);
            device.window = window;
        }
        if unlinked {
            return Ok(());
        }
        let its: Vec<(u64, u64)> = checker.state.mapped(slot).collect();
        for (gfn, pfn) in its {
            let outside = closed.iter().any(|(start, end)| (*start..*end).contains(&gfn));
            if outside && checker.state.page(pfn) == Some(Page::Lent(slot, Some(gfn))) {
                checker.state.set(pfn, Page::Lent(slot, None));
            }
        }
        Ok(())
    }
}

/// Is this inside a window of the bridge?
fn is_forwarded(start: u64, end: u64) -> bool {
    use hyp::layout::{PCI_MEM32, PCI_MEM32_SIZE, PCI_MEM64, PCI_MEM64_SIZE};
    let within =
        |base: u64, size: u64| start >= base >> FRAME_SHIFT && end <= (base + size) >> FRAME_SHIFT;
    within(PCI_MEM32, PCI_MEM32_SIZE) || within(PCI_MEM64, PCI_MEM64_SIZE)
}
