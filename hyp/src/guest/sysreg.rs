//! System registers that trap while a guest runs.

use crate::machine::{IdRegister, Machine};
use crate::stats::VmCounter;
use crate::syndrome::{SystemRegister, SystemRegisterAccess};
use crate::vcpu::id_registers::{World, sanitised};
use crate::vcpu::timer::TimerRegister;
use crate::vgic::{VcpuSet, Vgic};
use crate::vm::GuestAbi;

use super::debug::{self, DebugRegister};
use super::{Outcome, Running};

/// ICC_SGI1R_EL1.
const ICC_SGI1R: SystemRegister = SystemRegister::new(3, 0, 12, 11, 5);
/// ICC_ASGI1R_EL1 and ICC_SGI0R_EL1: for groups and states a guest has not.
const ICC_ASGI1R: SystemRegister = SystemRegister::new(3, 0, 12, 11, 6);
const ICC_SGI0R: SystemRegister = SystemRegister::new(3, 0, 12, 11, 7);
/// ICC_DIR_EL1: traps while more interrupts are active than list registers.
const ICC_DIR: SystemRegister = SystemRegister::new(3, 0, 12, 11, 1);
/// ICC_SRE_EL1: system registers, no bypass, and nothing else to choose (SRE
/// is RAO/WI where EL2 has no other interface to offer; IHI 0069, 12.2.8).
const ICC_SRE: SystemRegister = SystemRegister::new(3, 0, 12, 12, 5);
/// Its value: SRE, DFB, DIB.
const SYSTEM_REGISTERS: u64 = 7;
/// INTID in ICC_DIR_EL1.
const INTID: u32 = 0xff_ffff;
/// ACTLR_EL1: implementation defined.
const ACTLR: SystemRegister = SystemRegister::new(3, 0, 1, 0, 1);
/// CNTPCT_EL0 and CNTPCTSS_EL0.
const CNTPCT: SystemRegister = SystemRegister::new(3, 3, 14, 0, 1);
const CNTPCTSS: SystemRegister = SystemRegister::new(3, 3, 14, 0, 5);
/// CNTP_TVAL_EL0, CNTP_CTL_EL0 and CNTP_CVAL_EL0.
const CNTP_TVAL: SystemRegister = SystemRegister::new(3, 3, 14, 2, 0);
const CNTP_CTL: SystemRegister = SystemRegister::new(3, 3, 14, 2, 1);
const CNTP_CVAL: SystemRegister = SystemRegister::new(3, 3, 14, 2, 2);

/// ID_AA64PFR0_EL1.
const PFR0: IdRegister = IdRegister { crm: 4, op2: 0 };
/// Its EL3 field: AArch64 only. SMC is UNDEFINED where EL3 is not implemented
/// (Arm ARM C6.2, SMC), and what a realm reads must be architecturally valid
/// (DEN0137 A2.1.2.3).
const EL3: u64 = 1 << 12;

/// What a trapped register is to a guest.
enum Meaning {
    /// An identification register.
    Identification(IdRegister),
    /// Sends an SGI when written.
    Sgi,
    /// Deactivates an interrupt when written.
    Deactivate,
    /// The physical counter.
    Counter,
    /// The EL1 physical timer.
    Timer(TimerRegister),
    /// A debug register.
    Debug(DebugRegister),
    /// Reads as this value, ignores writes.
    Constant(u64),
    /// Not there.
    Absent,
}

fn meaning(register: SystemRegister) -> Meaning {
    match register {
        SystemRegister { op0: 3, op1: 0, crn: 0, crm: crm @ 1..=7, op2 } => {
            Meaning::Identification(IdRegister { crm, op2 })
        }
        ICC_SGI1R => Meaning::Sgi,
        ICC_DIR => Meaning::Deactivate,
        ICC_ASGI1R | ICC_SGI0R | ACTLR => Meaning::Constant(0),
        CNTPCT | CNTPCTSS => Meaning::Counter,
        CNTP_TVAL => Meaning::Timer(TimerRegister::TimerValue),
        CNTP_CTL => Meaning::Timer(TimerRegister::Control),
        CNTP_CVAL => Meaning::Timer(TimerRegister::CompareValue),
        ICC_SRE => Meaning::Constant(SYSTEM_REGISTERS),
        // DC ISW, CSW, CISW: set/way maintenance has no meaning in a VM.
        SystemRegister { op0: 1, op1: 0, crn: 7, crm: 6 | 10 | 14, op2: 2 } => Meaning::Constant(0),
        _ => debug::decode(register).map_or(Meaning::Absent, Meaning::Debug),
    }
}

impl<M: Machine> Running<'_, M> {
    pub(super) fn system_register(&mut self, access: SystemRegisterAccess) -> Outcome {
        self.count(VmCounter::SystemRegisters);
        match (meaning(access.register), access.read) {
            (Meaning::Identification(id), true) => {
                let real = self.hyp.machine.id_register(id);
                let shown = sanitised(World::Guest, id, real);
                // A realm calls by SMC, which only a CPU with EL3 has.
                let smc = if self.abi == GuestAbi::Rsi && id == PFR0 { EL3 } else { 0 };
                self.read(access.rt, shown | smc)
            }
            (Meaning::Counter, true) => self.read(access.rt, self.guest_time()),
            (Meaning::Timer(register), true) => {
                let value = self.vcpu.state.timer.read(register, self.guest_time());
                self.read(access.rt, value)
            }
            (Meaning::Timer(register), false) => self.write_timer(register, access.rt),
            (Meaning::Debug(register), read) => self.debug_register(register, access.rt, read),
            (Meaning::Constant(value), true) => self.read(access.rt, value),
            (Meaning::Constant(_), false) => {
                self.advance();
                Outcome::Resume
            }
            (Meaning::Sgi, false) => {
                self.interrupts(access.rt, |vgic, sender, value| vgic.send_sgi(sender, value))
            }
            (Meaning::Deactivate, false) => self.interrupts(access.rt, |vgic, vcpu, value| {
                vgic.deactivate(vcpu, value as u32 & INTID)
            }),
            _ => self.undefined(),
        }
    }

    fn guest_time(&self) -> u64 {
        self.vcpu.state.guest_time(self.hyp.machine.counter())
    }

    /// The next entry looks at the timer's output and sets the alarm.
    fn write_timer(&mut self, register: TimerRegister, rt: u8) -> Outcome {
        let (now, value) = (self.guest_time(), self.vcpu.state.frame.get(rt));
        self.unlist();
        self.vcpu.state.timer.write(register, value, now);
        self.advance();
        Outcome::Resume
    }

    fn read(&mut self, rt: u8, value: u64) -> Outcome {
        self.vcpu.state.frame.set(rt, value);
        self.advance();
        Outcome::Resume
    }

    /// A write of x`rt` that changes what is pending or active.
    fn interrupts(
        &mut self,
        rt: u8,
        act: impl FnOnce(&mut Vgic, usize, u64) -> VcpuSet,
    ) -> Outcome {
        let value = self.vcpu.state.frame.get(rt);
        self.advance();
        self.unlist();
        let (vcpu, here) = (self.vcpu.index, self.hyp.machine.cpu());
        let kick = self.hyp.with_vm(self.handle, |vm| {
            let targets = act(&mut vm.vgic, vcpu, value);
            Ok(vm.vcpus.to_kick(targets, here))
        });
        Outcome::resume_or_kick(kick.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_performance_monitor_is_absent() {
        let pmccntr = SystemRegister::new(3, 3, 9, 13, 0);
        assert!(matches!(meaning(pmccntr), Meaning::Absent));
    }

    /// Every encoding there is: what it means, in the words of the Arm ARM.
    #[test]
    fn each_register_is_what_it_is_and_the_rest_is_absent() {
        for code in 0..1u32 << 16 {
            let field = |shift: u32, bits: u32| (code >> shift & ((1 << bits) - 1)) as u8;
            let [op0, op1, crn, crm, op2] =
                [field(14, 2), field(11, 3), field(7, 4), field(3, 4), field(0, 3)];
            let constant = match (op0, op1, crn, crm, op2) {
                (3, 0, 0, 1..=7, _) | (3, 0, 12, 11, 1 | 5) => None,
                (2, ..) => continue,
                (3, 3, 14, 0, 1 | 5) | (3, 3, 14, 2, 0..=2) => None,
                (3, 0, 12, 11, 6 | 7) | (3, 0, 1, 0, 1) => Some(0),
                (3, 0, 12, 12, 5) => Some(7),
                (1, 0, 7, 6 | 10 | 14, 2) => Some(0),
                _ => Some(u64::MAX),
            };
            let found = match meaning(SystemRegister::new(op0, op1, crn, crm, op2)) {
                Meaning::Constant(value) => Some(value),
                Meaning::Absent => Some(u64::MAX),
                Meaning::Identification(id) => {
                    assert_eq!((op0, crn, id.crm, id.op2), (3, 0, crm, op2));
                    None
                }
                Meaning::Counter => (op2 != 1 && op2 != 5).then_some(1),
                Meaning::Timer(register) => {
                    let order = [
                        TimerRegister::TimerValue,
                        TimerRegister::Control,
                        TimerRegister::CompareValue,
                    ];
                    (order[usize::from(op2)] != register).then_some(1)
                }
                Meaning::Debug(_) => Some(1),
                Meaning::Sgi => (op2 != 5).then_some(1),
                Meaning::Deactivate => (op2 != 1).then_some(1),
            };
            assert_eq!(found, constant, "{op0} {op1} {crn} {crm} {op2}");
        }
    }
}
