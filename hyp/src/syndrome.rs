//! ESR_EL2, decoded: from a number to what happened (Arm ARM D24.2.45).

use crate::addr::Gfn;
use crate::trap::Trap;

/// Exception classes EL2 acts on.
mod class {
    pub(super) const WFX: u64 = 0x01;
    pub(super) const HVC64: u64 = 0x16;
    pub(super) const SMC64: u64 = 0x17;
    pub(super) const SYSTEM_REGISTER: u64 = 0x18;
    pub(super) const INSTRUCTION_ABORT_LOWER: u64 = 0x20;
    pub(super) const DATA_ABORT_LOWER: u64 = 0x24;
}

/// A synchronous exception from EL1 or EL0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exception {
    /// WFI or WFE.
    Wait {
        /// WFE (or WFET) rather than WFI.
        event: bool,
    },
    /// HVC with its immediate.
    Hvc(u16),
    /// SMC with its immediate; ELR is *on* the instruction.
    Smc(u16),
    /// MRS, MSR or SYS that is trapped.
    SystemRegister(SystemRegisterAccess),
    /// Stage-2 fault or external abort on a fetch or a data access.
    Abort(Abort),
    /// Anything else: an instruction or feature that is withheld.
    Undefined,
}

/// A trapped system register access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemRegisterAccess {
    /// Which register.
    pub register: SystemRegister,
    /// General register read or written; 31 is XZR.
    pub rt: u8,
    /// MRS rather than MSR.
    pub read: bool,
}

/// A system register by its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The encoding's own field names.
pub struct SystemRegister {
    pub op0: u8,
    pub op1: u8,
    pub crn: u8,
    pub crm: u8,
    pub op2: u8,
}

impl SystemRegister {
    /// The register with this encoding.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self { op0, op1, crn, crm, op2 }
    }
}

/// What kind of fault stage 2 reported (DFSC/IFSC without the level).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultStatus {
    /// No valid entry, or an address beyond the table: also address size.
    Translation,
    /// The entry does not allow the access, or its access flag is clear.
    Permission,
    /// External abort, parity, TLB conflict and what else is not stage 2's.
    Other,
}

/// A data access that the syndrome describes fully (ISV = 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// The load sign-extends.
    pub sign_extend: bool,
    /// Register transferred; 31 is XZR.
    pub register: u8,
    /// The destination is a 64-bit register (else its upper half is zeroed).
    pub wide: bool,
}

/// An abort from a lower exception level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// Faulting intermediate physical address: the page from HPFAR_EL2, the
    /// offset from FAR_EL2. [`Abort::NOWHERE`] if the hardware does not say.
    pub ipa: u64,
    /// Virtual address (FAR_EL2).
    pub va: u64,
    /// Instruction fetch rather than data access.
    pub instruction: bool,
    /// Write (also cache maintenance that needs write access).
    pub write: bool,
    /// The stage-1 walk itself faulted, not the access.
    pub table_walk: bool,
    /// Kind of fault.
    pub status: FaultStatus,
    /// The access, if the syndrome describes it.
    pub transfer: Option<Transfer>,
}

impl Abort {
    /// No intermediate physical address: outside every address space.
    pub const NOWHERE: u64 = u64::MAX;

    /// The page that faulted; `None` beyond the 39-bit space.
    pub fn gfn(&self) -> Option<Gfn> {
        Gfn::containing(self.ipa)
    }

    /// Does it name an address that no page of a guest has? One that names none
    /// does not.
    pub fn is_beyond_the_address_space(&self) -> bool {
        self.status == FaultStatus::Translation && self.gfn().is_none()
    }
}

/// Decodes a synchronous trap.
pub fn decode(trap: &Trap) -> Exception {
    let iss = trap.esr & 0x1ff_ffff;
    match (trap.esr >> 26) & 0x3f {
        class::WFX => Exception::Wait { event: iss & 1 == 1 },
        class::HVC64 => Exception::Hvc(iss as u16),
        class::SMC64 => Exception::Smc(iss as u16),
        class::SYSTEM_REGISTER => Exception::SystemRegister(system_register(iss)),
        class::INSTRUCTION_ABORT_LOWER => Exception::Abort(abort(trap, iss, true)),
        class::DATA_ABORT_LOWER => Exception::Abort(abort(trap, iss, false)),
        _ => Exception::Undefined,
    }
}

fn system_register(iss: u64) -> SystemRegisterAccess {
    let field = |shift: u32, mask: u64| ((iss >> shift) & mask) as u8;
    SystemRegisterAccess {
        register: SystemRegister {
            op0: field(20, 3),
            op2: field(17, 7),
            op1: field(14, 7),
            crn: field(10, 15),
            crm: field(1, 15),
        },
        rt: field(5, 31),
        read: iss & 1 == 1,
    }
}

fn abort(trap: &Trap, iss: u64, instruction: bool) -> Abort {
    // HPFAR_EL2.FIPA holds address bits 47:12 at bits 43:4.
    let page = (trap.hpfar & 0xfff_ffff_fff0) << 8;
    let maintenance = iss & (1 << 8) != 0;
    let described = !instruction && iss & (1 << 24) != 0 && !maintenance;
    let table_walk = iss & (1 << 7) != 0;
    // Arm ARM D24.2.67: only stage 2's own faults write HPFAR_EL2, of address
    // size, translation and access flag, and a permission fault if the access
    // was a stage-1 walk. For others, permission faults and what the bus or an
    // exclusive of Device memory meets, it may hold an earlier fault's address.
    let told = match iss & 0x3f {
        0x00..=0x0b | 0x29..=0x2b => true,
        0x0c..=0x0f => table_walk,
        _ => false,
    };
    Abort {
        ipa: if told { page | (trap.far & 0xfff) } else { Abort::NOWHERE },
        va: trap.far,
        instruction,
        write: !instruction && iss & (1 << 6) != 0,
        table_walk,
        status: match iss & 0x3f {
            0x00..=0x07 | 0x29..=0x2b => FaultStatus::Translation,
            0x08..=0x0f => FaultStatus::Permission,
            _ => FaultStatus::Other,
        },
        transfer: described.then(|| Transfer {
            size: 1 << ((iss >> 22) & 3),
            sign_extend: iss & (1 << 21) != 0,
            register: ((iss >> 16) & 31) as u8,
            wide: iss & (1 << 15) != 0,
        }),
    }
}

impl Transfer {
    /// The value a store of `register_value` puts on the bus.
    pub fn stored(&self, register_value: u64) -> u64 {
        register_value & self.mask()
    }

    /// What the destination register holds after a load that read `value`:
    /// masked to the access size whatever the responder says, sign-extended
    /// and truncated to the register's width as the instruction asks.
    pub fn loaded(&self, value: u64) -> u64 {
        let value = value & self.mask();
        let bits = u32::from(self.size) * 8;
        let extended = if self.sign_extend && bits < 64 {
            let shift = 64 - bits;
            (((value << shift) as i64) >> shift) as u64
        } else {
            value
        };
        if self.wide { extended } else { extended & 0xffff_ffff }
    }

    fn mask(&self) -> u64 {
        match self.size {
            1 => 0xff,
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trap::TrapKind;

    fn sync(esr: u64, far: u64, hpfar: u64) -> Exception {
        decode(&Trap { kind: TrapKind::Sync, esr, far, hpfar })
    }

    #[test]
    fn a_store_is_described_with_its_address_size_and_register() {
        // STR W3, [..]: EC 0x24, IL, ISV, SAS = word, SRT = 3, WnR, translation level 3.
        let esr = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 3 << 16 | 1 << 6 | 7;
        let Exception::Abort(abort) = sync(esr, 0xffff_0000_0900_0018, 0x0900_0000 >> 8) else {
            panic!("not an abort");
        };
        assert_eq!(abort.ipa, 0x0900_0018);
        assert!(abort.write && !abort.instruction && !abort.table_walk);
        assert_eq!(abort.status, FaultStatus::Translation);
        let transfer = abort.transfer.unwrap();
        assert_eq!((transfer.size, transfer.register, transfer.wide), (4, 3, false));
    }

    #[test]
    fn cache_maintenance_and_fetches_are_never_taken_for_mmio() {
        let maintenance = 0x24 << 26 | 1 << 24 | 1 << 8 | 7;
        let fetch = 0x20 << 26 | 1 << 24 | 7;
        for esr in [maintenance, fetch] {
            let Exception::Abort(abort) = sync(esr, 0, 0) else { panic!("not an abort") };
            assert_eq!(abort.transfer, None);
        }
    }

    #[test]
    fn a_reply_changes_only_the_bytes_that_the_load_asked_for() {
        let transfer = |size, sign_extend, wide| Transfer { size, sign_extend, register: 0, wide };
        assert_eq!(transfer(1, false, true).loaded(u64::MAX), 0xff);
        assert_eq!(transfer(2, false, true).loaded(u64::MAX), 0xffff);
        assert_eq!(transfer(4, false, true).loaded(u64::MAX), 0xffff_ffff);
        assert_eq!(transfer(8, false, true).loaded(u64::MAX), u64::MAX);
        assert_eq!(transfer(1, true, true).loaded(0x180), 0xffff_ffff_ffff_ff80);
        assert_eq!(transfer(1, true, false).loaded(0x80), 0xffff_ff80);
        assert_eq!(transfer(4, true, true).loaded(0x8000_0000), 0xffff_ffff_8000_0000);
        assert_eq!(transfer(2, false, true).stored(0x1234_5678), 0x5678);
    }

    #[test]
    fn system_register_fields_come_from_their_own_bits() {
        // MRS x7, ID_AA64PFR0_EL1 (3, 0, 0, 4, 0).
        let esr = 0x18 << 26 | 3 << 20 | 7 << 5 | 4 << 1 | 1;
        let Exception::SystemRegister(access) = sync(esr, 0, 0) else { panic!("not a register") };
        assert_eq!(access.register, SystemRegister::new(3, 0, 0, 4, 0));
        assert_eq!((access.rt, access.read), (7, true));
    }

    #[test]
    fn every_syndrome_decodes_to_something() {
        for class in 0..64u64 {
            for iss in [0, 0x1ff_ffff, 0x155_5555, 0xaa_aaaa] {
                let _ = sync(class << 26 | iss, u64::MAX, u64::MAX);
            }
        }
    }

    #[test]
    fn each_field_of_a_system_register_access_is_its_own() {
        let access = |iss: u64| match sync(0x18 << 26 | iss, 0, 0) {
            Exception::SystemRegister(access) => access,
            other => panic!("{other:?}"),
        };
        let none = SystemRegister::new(0, 0, 0, 0, 0);
        let nothing = SystemRegisterAccess { register: none, rt: 0, read: false };
        assert_eq!(access(0), nothing);
        let with = |register| SystemRegisterAccess { register, ..nothing };
        assert_eq!(access(3 << 20), with(SystemRegister { op0: 3, ..none }));
        assert_eq!(access(7 << 17), with(SystemRegister { op2: 7, ..none }));
        assert_eq!(access(7 << 14), with(SystemRegister { op1: 7, ..none }));
        assert_eq!(access(15 << 10), with(SystemRegister { crn: 15, ..none }));
        assert_eq!(access(31 << 5), SystemRegisterAccess { rt: 31, ..nothing });
        assert_eq!(access(15 << 1), with(SystemRegister { crm: 15, ..none }));
        assert_eq!(access(1), SystemRegisterAccess { read: true, ..nothing });
        // Bits 24:22 are RES0.
        assert_eq!(access(7 << 22), nothing);
    }

    #[test]
    fn each_field_of_an_abort_is_its_own() {
        let abort = |class: u64, iss: u64| match sync(class << 26 | iss, 0, 0) {
            Exception::Abort(abort) => abort,
            other => panic!("{other:?}"),
        };
        let (data, fetch) = (0x24, 0x20);
        let plain = Transfer { size: 1, sign_extend: false, register: 0, wide: false };
        let bare = abort(data, 0);
        assert_eq!((bare.transfer, bare.write, bare.table_walk), (None, false, false));
        let described = |iss: u64| abort(data, 1 << 24 | iss).transfer;
        assert_eq!(described(0), Some(plain));
        assert_eq!(described(1 << 22), Some(Transfer { size: 2, ..plain }));
        assert_eq!(described(2 << 22), Some(Transfer { size: 4, ..plain }));
        assert_eq!(described(3 << 22), Some(Transfer { size: 8, ..plain }));
        assert_eq!(described(1 << 21), Some(Transfer { sign_extend: true, ..plain }));
        assert_eq!(described(31 << 16), Some(Transfer { register: 31, ..plain }));
        assert_eq!(described(1 << 15), Some(Transfer { wide: true, ..plain }));
        assert_eq!(described(1 << 8), None, "cache maintenance");
        assert!(abort(data, 1 << 6).write && !abort(fetch, 1 << 6).write);
        assert!(abort(data, 1 << 7).table_walk && abort(fetch, 1 << 7).table_walk);
        assert!(abort(fetch, 0).instruction && !bare.instruction);
        // Bits 14 to 9 (acquire/release, VNCR, SET, FnV, EA) change none of it.
        assert_eq!(abort(data, 0x7e00), bare);
    }

    #[test]
    fn every_fault_status_is_told_from_the_others() {
        for status in 0..64 {
            let Exception::Abort(abort) = sync(0x24 << 26 | status, 0, 0) else { panic!() };
            let expected = match status {
                0..=7 | 0x29 | 0x2a | 0x2b => FaultStatus::Translation,
                8..=15 => FaultStatus::Permission,
                _ => FaultStatus::Other,
            };
            assert_eq!(abort.status, expected, "{status:#x}");
        }
    }

    #[test]
    fn only_stage_2s_own_faults_have_an_address() {
        let stage_2 = |status| matches!(status, 0..=11 | 0x29..=0x2b);
        for (status, walk) in (0..64).flat_map(|status| [(status, 0), (status, 1)]) {
            let told = stage_2(status) || matches!(status, 12..=15) && walk == 1;
            let esr = class::DATA_ABORT_LOWER << 26 | walk << 7 | status;
            let Exception::Abort(fault) = sync(esr, 0xabc, 0x4_0000 << 4) else { panic!() };
            let address = if told { 0x4000_0abc } else { Abort::NOWHERE };
            assert_eq!(fault.ipa, address, "{status:#x}, walk {walk}");
            assert_eq!(fault.gfn().is_some(), told);
        }
    }

    #[test]
    fn the_address_is_the_page_of_hpfar_and_the_offset_of_far() {
        let Exception::Abort(abort) = sync(0x24 << 26, u64::MAX, u64::MAX) else { panic!() };
        // FIPA is 40 bits of page number; NS (63) and RES0 are none of it.
        assert_eq!((abort.ipa, abort.va), (0x000f_ffff_ffff_ffff, u64::MAX));
        let Exception::Abort(abort) = sync(0x24 << 26, 0x123, 0x45670) else { panic!() };
        assert_eq!(abort.ipa, 0x0456_7123);
    }

    #[test]
    fn immediates_and_wfe_are_read_off_the_syndrome() {
        assert_eq!(sync(0x16 << 26 | 0x1_8001, 0, 0), Exception::Hvc(0x8001));
        assert_eq!(sync(0x17 << 26 | 0x1_8001, 0, 0), Exception::Smc(0x8001));
        assert_eq!(sync(0x01 << 26, 0, 0), Exception::Wait { event: false });
        assert_eq!(sync(0x01 << 26 | 1, 0, 0), Exception::Wait { event: true });
        assert_eq!(sync(0x01 << 26 | 2, 0, 0), Exception::Wait { event: false }, "WFIT");
        assert_eq!(sync(0x21 << 26, 0, 0), Exception::Undefined, "not from a lower level");
        assert_eq!(sync(0x25 << 26, 0, 0), Exception::Undefined);
        // Bits above the class (ISS2) do not change it.
        assert_eq!(sync(1 << 32 | 0x16 << 26, 0, 0), Exception::Hvc(0));
    }
}
