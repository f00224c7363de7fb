//! Further guests beside the one that has the terminal: the same kernel and
//! ramdisk, memory of their own, and a card on the same network; and, if the
//! ramdisk has it, bouncer's own guest, which speaks pKVM's calls, holds a
//! secret and waits. They run until after its end.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use host::linux::Options;
use host::net::Segment;
use hyp::abi;
use rt::println;
use spin::Mutex;

use super::files::Files;
use super::{counters, plan};
use crate::payload::run::{self, FREE};
use crate::payload::vm::{Input, Part, Plan, Shown, TREE_ROOM, Vm, end};

/// MiB of RAM of bouncer's own guest.
const OWN_MIB: u64 = 32;

/// What bouncer's own guest says once it holds its secret.
const READY: &str = "@guest ready ";

/// They.
pub(super) struct Neighbours {
    vms: Vec<Arc<Vm>>,
    /// Whether the last of them is bouncer's own.
    has_own: bool,
}

impl Neighbours {
    /// Builds and starts them. Their numbers, from 1, are on their command
    /// lines.
    pub(super) fn begin(
        options: &Options,
        files: &mut Files,
        seed: &[u8],
        segment: &Arc<Mutex<Segment>>,
    ) -> Result<Self, String> {
        let mut vms = Vec::new();
        let mut begin = |number, plan| -> Result<(), String> {
            let vm = Vm::build(&FREE, plan)
                .map_err(|problem| format!("cannot build neighbour {number}: {problem}"))?;
            run::admit(Arc::clone(&vm));
            vms.push(vm);
            Ok(())
        };
        for number in 1..=options.neighbours {
            begin(number, plan(options, files, seed, segment, number)?)?;
        }
        if let Some(image) = files.other {
            begin(options.neighbours + 1, own(image))?;
        }
        Ok(Self { vms, has_own: files.other.is_some() })
    }

    /// Ends them, wherever they are, and takes everything back.
    ///
    /// # Errors
    /// When one had ended before, or never come to life, or left something.
    pub(super) fn end(self) -> Result<(), String> {
        let own = self.vms.len().checked_sub(usize::from(self.has_own));
        for (index, vm) in self.vms.into_iter().enumerate() {
            let number = index + 1;
            let how = vm.end();
            run::retire(&vm);
            println!("linux: neighbour {number} {}", counters(&vm));
            vm.hear_the_rest();
            let failed = if how != end::NOT_YET {
                Some("ended before its time")
            } else {
                let lives = own != Some(index)
                    || vm.words.lock().iter().any(|line| line.starts_with(READY));
                (!lives).then_some("never held its secret")
            };
            if let Some(failed) = failed {
                vm.words.lock().iter().for_each(|line| println!("linux: it said: {line}"));
                return Err(format!("neighbour {number} {failed}"));
            }
            let remains = vm
                .tear_down(&FREE)
                .map_err(|problem| format!("cannot take neighbour {number} down: {problem}"))?;
            if let Some(pfn) = remains.leftover {
                return Err(format!(
                    "frame {pfn:#x} came back with bytes of neighbour {number} in it"
                ));
            }
            println!("linux: {} frames of neighbour {number} came back, all zero", remains.frames);
        }
        Ok(())
    }
}

/// The plan of bouncer's own guest.
fn own(image: &[u8]) -> Plan<'_> {
    Plan {
        image: Part { at: TREE_ROOM, bytes: image },
        initrd: Part { at: 0, bytes: &[] },
        dma_pool: 0,
        on_demand: 0,
        flags: 0,
        check_measurement: true,
        shown: Shown::IfAsked,
        input: Input::Uart,
        vcpus: 1,
        ram_mib: OWN_MIB,
        bootargs: "scenario=idle".into(),
        policy: abi::POLICY_BOUNCE_BAR,
        devices: Vec::new(),
    }
}
