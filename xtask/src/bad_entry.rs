//! A loader that leaves everything in a bad state, and then enters bouncer.
//!
//! Linux's arm64 boot protocol says little about system registers at entry:
//! MMU off, interrupts masked, x0 the tree. All else may hold what the loader,
//! or what ran before it, has left there. So this program leaves there what
//! hurts most: traps on, timers that have fired, interrupts enabled, EL2 on
//! the wrong stack pointer, and in all other registers a pattern; devices that
//! may write to memory.

use crate::story::BOUNCER;
use crate::tiny::{Program, RAM, SystemRegister};

/// Where it wants to lie in RAM, out of everybody's way.
const PLACE: u64 = 32 << 20;
/// What registers that are a value and no switch are left with.
const PATTERN: u64 = 0xbad0_bad1_bad2_bad8;

/// How interrupts are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupts {
    /// Some are pending, and would be taken in EL2 if they were not masked.
    Pending,
    /// None is pending, and none is masked.
    Unmasked,
}

/// Registers of every CPU with EL2 and a GICv3 that have any 64 bits.
/// (Encodings: Arm ARM D24.2, IHI 0069 12.2.)
const VALUES: [SystemRegister; 33] = [
    (3, 4, 1, 1, 7),   // HACR_EL2
    (3, 4, 2, 0, 0),   // TTBR0_EL2
    (3, 4, 2, 0, 2),   // TCR_EL2
    (3, 4, 2, 1, 0),   // VTTBR_EL2
    (3, 4, 2, 1, 2),   // VTCR_EL2
    (3, 4, 4, 0, 0),   // SPSR_EL2
    (3, 4, 4, 0, 1),   // ELR_EL2
    (3, 4, 5, 1, 0),   // AFSR0_EL2
    (3, 4, 5, 1, 1),   // AFSR1_EL2
    (3, 4, 5, 2, 0),   // ESR_EL2
    (3, 4, 6, 0, 0),   // FAR_EL2
    (3, 4, 6, 0, 4),   // HPFAR_EL2
    (3, 4, 10, 2, 0),  // MAIR_EL2
    (3, 4, 10, 3, 0),  // AMAIR_EL2
    (3, 4, 12, 0, 0),  // VBAR_EL2
    (3, 4, 13, 0, 2),  // TPIDR_EL2
    (3, 4, 14, 0, 3),  // CNTVOFF_EL2
    (3, 4, 0, 0, 0),   // VPIDR_EL2
    (3, 4, 0, 0, 5),   // VMPIDR_EL2
    (3, 0, 4, 1, 0),   // SP_EL0
    (3, 4, 4, 1, 0),   // SP_EL1
    (3, 0, 4, 0, 0),   // SPSR_EL1
    (3, 0, 4, 0, 1),   // ELR_EL1
    (3, 0, 2, 0, 0),   // TTBR0_EL1
    (3, 0, 2, 0, 1),   // TTBR1_EL1
    (3, 0, 2, 0, 2),   // TCR_EL1
    (3, 0, 10, 2, 0),  // MAIR_EL1
    (3, 0, 12, 0, 0),  // VBAR_EL1
    (3, 0, 13, 0, 1),  // CONTEXTIDR_EL1
    (3, 3, 13, 0, 2),  // TPIDR_EL0
    (3, 3, 13, 0, 3),  // TPIDRRO_EL0
    (3, 0, 13, 0, 4),  // TPIDR_EL1
    (3, 4, 12, 12, 1), // ICH_LR1_EL2
];

/// Switches, and how they are left. Later ones may change what the earlier
/// ones mean (HCR_EL2.E2H), so the order matters.
const SWITCHES: [(SystemRegister, u64); 26] = [
    ((2, 0, 1, 0, 4), 0),                        // OSLAR_EL1: unlocked
    ((2, 0, 0, 2, 2), 1 << 15 | 1 << 13 | 1),    // MDSCR_EL1: MDE, KDE, SS
    ((2, 0, 0, 0, 4), BOUNCER + 64),             // DBGBVR0_EL1
    ((2, 0, 0, 0, 5), 1 << 13 | 0xf << 5 | 7),   // DBGBCR0_EL1: at every EL
    ((3, 3, 9, 12, 0), 0b11),                    // PMCR_EL0: counting
    ((3, 3, 9, 14, 0), 0xf),                     // PMUSERENR_EL0
    ((3, 0, 1, 0, 0), !0),                       // SCTLR_EL1: MMU on
    ((3, 0, 1, 0, 2), 0),                        // CPACR_EL1: all trapped
    ((3, 0, 14, 1, 0), 0x3ff),                   // CNTKCTL_EL1
    ((3, 3, 14, 2, 1), 1),                       // CNTP_CTL_EL0: on
    ((3, 3, 14, 3, 1), 1),                       // CNTV_CTL_EL0: on
    ((3, 4, 14, 2, 2), 0),                       // CNTHP_CVAL_EL2: passed
    ((3, 4, 12, 9, 5), 0xf),                     // ICC_SRE_EL2
    ((3, 0, 12, 12, 5), 0x7),                    // ICC_SRE_EL1
    ((3, 0, 4, 6, 0), 0xff),                     // ICC_PMR_EL1: all pass
    ((3, 0, 12, 12, 7), 1),                      // ICC_IGRPEN1_EL1
    ((3, 4, 12, 11, 7), !0),                     // ICH_VMCR_EL2
    ((3, 4, 12, 8, 0), !0),                      // ICH_AP0R0_EL2
    ((3, 4, 12, 9, 0), !0),                      // ICH_AP1R0_EL2
    ((3, 4, 12, 12, 0), 1 << 62 | 1 << 60 | 42), // ICH_LR0_EL2: pending
    ((3, 4, 12, 11, 0), 0xff),                   // ICH_HCR_EL2: all on
    ((3, 4, 1, 1, 2), !0),                       // CPTR_EL2: all trapped
    ((3, 4, 1, 1, 3), !0),                       // HSTR_EL2
    ((3, 4, 1, 1, 1), !(1 << 8)),                // MDCR_EL2, but for TDE
    ((3, 4, 14, 1, 0), 0xff),                    // CNTHCTL_EL2: events
    ((3, 4, 1, 1, 0), !0),                       // HCR_EL2: VM, TGE, E2H, …
];

/// SCTLR_EL2: everything but the MMU.
const SCTLR_EL2: (SystemRegister, u64) = ((3, 4, 1, 0, 0), !1);
const CNTHP_CTL_EL2: SystemRegister = (3, 4, 14, 2, 1);
const ISB: u32 = 0xd503_3fdf;
const SPSEL_0: u32 = 0xd500_40bf;
/// SError, IRQ and FIQ. With debug exceptions unmasked the next instruction
/// would not be bouncer's: stepping is on.
const DAIFCLR_AIF: u32 = 0xd503_47ff;
/// SGI frame of CPU 0's redistributor, and two of its registers.
const SGI_FRAME: u64 = 0x080b_0000;
const IGROUPR0: u32 = 0x80;
const ISENABLER0: u32 = 0x100;
const GICD: u64 = 0x0800_0000;

/// Configuration space of bus 0, and of the bus behind the bridge.
const ECAM: u64 = 0x40_1000_0000;
const BEHIND: u64 = ECAM + (1 << 20);
/// The last transport, which a first virtio-mmio device gets.
const TRANSPORT: u64 = 0x0a00_3e00;

/// Devices that may do DMA, for QEMU's command line.
const DEVICES: [&str; 4] = [
    "virtio-rng-pci,addr=2,romfile=",
    "pcie-root-port,id=behind,chassis=1,addr=3",
    "virtio-rng-pci,bus=behind,romfile=",
    "virtio-rng-device",
];

/// How the program leaves them: register and value. I/O, memory decoding and
/// bus mastering on; a driver that says it is there.
const LEFT: [(u64, u32); 5] = [
    (ECAM + (2 << 15) + 4, 7),
    (ECAM + (3 << 15) + 0x18, 0x01_0100),
    (ECAM + (3 << 15) + 4, 7),
    (BEHIND + 4, 7),
    (TRANSPORT + 0x70, 3),
];

/// Registers, and what of them must not be on any more once bouncer is there.
pub const MUST_BE_OFF: [(&str, u64, u32); 4] = [
    ("a PCI function", ECAM + (2 << 15) + 4, 4),
    ("a PCI bridge", ECAM + (3 << 15) + 4, 4),
    ("a PCI function behind a bridge", BEHIND + 4, 4),
    ("a virtio-mmio device", TRANSPORT + 0x70, !0),
];

/// The arguments that give QEMU the devices that the program leaves on.
pub fn devices() -> impl Iterator<Item = String> {
    DEVICES.iter().flat_map(|device| ["-device".to_owned(), (*device).to_owned()])
}

/// The program, as a flat Image to be entered in bouncer's place.
#[must_use]
pub fn image(interrupts: Interrupts) -> Vec<u8> {
    let mut program = Program::default();
    for (register, value) in LEFT {
        program = program.set(1, register).set(2, value.into()).store(2, 1, 0);
    }
    if interrupts == Interrupts::Pending {
        // EL2's timer has fired (PPI 26) and nothing but PSTATE holds it back.
        program = program.set(1, GICD).set(2, 0x12).store(2, 1, 0).set(1, SGI_FRAME).set(2, !0);
        program = program.store(2, 1, IGROUPR0).store(2, 1, ISENABLER0);
        program = program.set(2, 1).system(CNTHP_CTL_EL2, 2);
    }
    program = program.set(2, PATTERN);
    for register in VALUES {
        program = program.system(register, 2);
    }
    for (register, value) in SWITCHES {
        program = program.set(2, value).system(register, 2);
    }
    program = program.set(2, SCTLR_EL2.1).system(SCTLR_EL2.0, 2).raw(ISB).raw(SPSEL_0);
    // The general registers, but for the tree's address and the way out.
    for register in (1..16).chain(17..31) {
        program = program.set(register, PATTERN ^ u64::from(register));
    }
    if interrupts == Interrupts::Unmasked {
        program = program.raw(DAIFCLR_AIF);
    }
    program.jump(BOUNCER).image(PLACE)
}

const _: () = assert!(BOUNCER < RAM + PLACE);
