//! The host calls the firmware, loads and stores, and uses system registers.

use crate::commit::SPOILT;
use crate::firmware::firmware;
use crate::host_turn::{HOST_PC, marked};
use crate::session::{Checker, Inner};
use crate::state::{Page, Refusal};
use crate::traps;
use hyp::addr::Pfn;
use hyp::machine::{El1Register, Machine, Vmid};

impl Inner {
    /// An SMC of the host's.
    pub(crate) fn smc(
        &self,
        cpu: u8,
        function: (u64, u16),
        arguments: [u64; 3],
    ) -> Result<(), String> {
        let mut frame = marked();
        frame.x[0] = function.0;
        frame.x[1..4].copy_from_slice(&arguments);
        let trap = traps::sync(0x17 << 26 | u64::from(function.1));
        let expected = {
            let mut checker = self.lock();
            firmware(&mut checker.state, function, arguments, usize::from(cpu))
        };
        self.host_trap(cpu, &mut frame, trap, &[0, 1, 2, 3])?;
        let mut guard = self.lock();
        let checker = &mut *guard;
        let x0 = frame.x[0] as i64;
        checker.note(|| format!("cpu{cpu} SMC {:#x} {arguments:x?} → {x0}", function.0));
        if frame.pc != HOST_PC + 4 || x0 != expected.unwrap_or(-1) || frame.x[1..4] != [0; 3] {
            return Err(format!("SMC {:#x} gives {x0}, not {expected:?}", function.0));
        }
        if checker.state.off {
            return self.machine_is_off(checker);
        }
        if expected.is_none() {
            let what = 2 | u64::from(cpu) << 8 | trap.esr << 32;
            checker.state.record(Refusal { what, address: function.0, pc: HOST_PC });
        }
        self.compare(checker)
    }

    /// The machine ended. Whatever runs on it next finds nothing of a guest.
    pub(crate) fn machine_is_off(&self, checker: &Checker) -> Result<(), String> {
        let machine = self.booted.hyp().machine();
        if machine.world().power.len() != 1 {
            return Err("the machine goes on".into());
        }
        for (number, page) in checker.state.frames() {
            let lent = match page {
                Page::Guest(_, _, lent) => lent,
                _ => continue,
            };
            let tag = Pfn::new(number).and_then(|pfn| machine.tag(pfn));
            if tag != Some(0) && !(lent && tag == Some(SPOILT)) {
                return Err(format!("the machine ends with {tag:x?} of a guest in {number:#x}"));
            }
        }
        Ok(())
    }

    /// A load or store of the host's.
    pub(crate) fn host_access(
        &self,
        cpu: u8,
        pfn: u64,
        word: u16,
        write: bool,
    ) -> Result<(), String> {
        let machine = self.booted.hyp().machine();
        // What EL2 filters for the host has its own tests.
        if (crate::machine::RD_BASE >> 12..(crate::machine::RD_BASE >> 12) + 16).contains(&pfn) {
            return Ok(());
        }
        let mut guard = self.lock();
        let checker = &mut *guard;
        let reached =
            Pfn::new(pfn).map(|pfn| machine.access(Vmid::HOST, pfn.identity())).unwrap_or_default();
        if let Some(frame) = reached.first() {
            if reached != [*frame] || frame.number() != pfn {
                return Err(format!("the host's {pfn:#x} reaches {reached:x?}"));
            }
            if self.booted.is_host_device(pfn) {
                return Ok(());
            }
            if !checker.state.host_may(pfn) {
                return Err(format!("the host reaches {pfn:#x}: {:?}", checker.state.page(pfn)));
            }
            let found = machine.peek(*frame, usize::from(word) % 512);
            if found != checker.state.content(pfn) {
                return Err(format!("the host reads {found:#x} in {pfn:#x}"));
            }
            if write {
                checker.serial += 1;
                let value = 0x4057_0000_0000_0000 | checker.serial;
                machine.plant(*frame, value);
                checker.state.fill(pfn, value);
            }
            return Ok(());
        }
        if checker.state.host_may(pfn) {
            return Err(format!("the host does not reach its own frame {pfn:#x}"));
        }
        let ipa = ((pfn << 12) | (u64::from(word) % 512 * 8)) & 0xffff_ffff_ffff;
        let trap = traps::abort(ipa, 8, 9, write, true);
        let (owner, what) = {
            let owner = checker.state.owner_code(ipa >> 12);
            (owner, 1 | u64::from(cpu) << 8 | owner << 16 | trap.esr << 32)
        };
        drop(guard);
        let mut frame = marked();
        self.host_trap(cpu, &mut frame, trap, &[])?;
        let mut guard = self.lock();
        let checker = &mut *guard;
        checker.note(|| format!("cpu{cpu} access to {ipa:#x}, which is {owner}'s: abort"));
        checker.stats.aborts += 1;
        if !traps::is_vector(frame.pc) {
            return Err(format!("no abort for {ipa:#x}: pc {:#x}", frame.pc));
        }
        let wanted = if checker.state.alignment_faults { 0x21 } else { 0x10 };
        let here = machine.cpu();
        machine.be_cpu(usize::from(cpu));
        let status = machine.read_el1(El1Register::Esr) & 0x3f;
        machine.be_cpu(here);
        if status != wanted {
            return Err(format!("an abort of status {status:#x} for {ipa:#x}, not {wanted:#x}"));
        }
        checker.state.record(Refusal { what, address: ipa, pc: HOST_PC });
        self.compare(checker)
    }

    /// MRS or MSR of the host's.
    pub(crate) fn host_register(
        &self,
        cpu: u8,
        encoding: (u8, u8, u8, u8, u8),
        read: bool,
    ) -> Result<(), String> {
        let trap = traps::register(encoding, 9, read);
        let (op0, op1, crn, crm, _) = encoding;
        let identification = (op0, op1, crn) == (3, 0, 0) && (1..=7).contains(&crm) && read;
        let mut frame = marked();
        let changes: &[usize] = if identification { &[9] } else { &[] };
        self.host_trap(cpu, &mut frame, trap, changes)?;
        let mut guard = self.lock();
        let checker = &mut *guard;
        checker.note(|| format!("cpu{cpu} system register {encoding:?}"));
        match identification {
            true if frame.pc == HOST_PC + 4 => {}
            false if traps::is_vector(frame.pc) => {
                let what = 4 | u64::from(cpu) << 8 | trap.esr << 32;
                let address = trap.esr & 0x1ff_ffff;
                checker.state.record(Refusal { what, address, pc: HOST_PC });
            }
            _ => return Err(format!("register {encoding:?}: pc {:#x}", frame.pc)),
        }
        self.compare(checker)
    }
}
