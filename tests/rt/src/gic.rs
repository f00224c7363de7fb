//! A small GICv3 driver (Arm IHI 0069): group 1 interrupts, no LPIs.

#![allow(unsafe_code)]

use crate::{MAX_CPUS, cpu, mmio};
use core::arch::asm;
use core::sync::atomic::{AtomicUsize, Ordering};

const GICD_CTLR: usize = 0x0000;
const GICD_TYPER: usize = 0x0004;
const GICR_TYPER: usize = 0x0008;
const GICR_WAKER: usize = 0x0014;
/// The same offsets in the distributor and in a redistributor's SGI frame.
const IGROUPR: usize = 0x0080;
const ISENABLER: usize = 0x0100;
const ICENABLER: usize = 0x0180;
const ISPENDR: usize = 0x0200;
const ICPENDR: usize = 0x0280;
const IPRIORITYR: usize = 0x0400;
const ICFGR: usize = 0x0c00;
const IROUTER: usize = 0x6000;
const SGI_FRAME: usize = 0x1_0000;
const STRIDE: usize = 0x2_0000;
/// Priority every interrupt gets; the mask lets all through.
const PRIORITY: u32 = 0xa0a0_a0a0;

static GICD: AtomicUsize = AtomicUsize::new(0);
/// First redistributor of each region; zero for none.
static GICR: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
static MY_GICR: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

fn read(address: usize) -> u32 {
    // SAFETY: only addresses of the GIC that `init` was given are read.
    unsafe { mmio::read32(address) }
}

fn write(address: usize, value: u32) {
    // SAFETY: only addresses of the GIC that `init` was given are written.
    unsafe { mmio::write32(address, value) };
}

/// Initialises the distributor, this CPU's redistributor and its interface.
/// `regions` are the first redistributors of the regions. Call on the boot
/// CPU; the others call [`init_cpu`].
pub fn init(gicd: usize, regions: impl Iterator<Item = usize>) {
    GICD.store(gicd, Ordering::Release);
    for (slot, gicr) in GICR.iter().zip(regions) {
        slot.store(gicr, Ordering::Release);
    }
    write(gicd + GICD_CTLR, 0);
    let words = (read(gicd + GICD_TYPER) as usize & 31) + 1;
    for word in 1..words {
        write(gicd + ICENABLER + 4 * word, !0);
        write(gicd + IGROUPR + 4 * word, !0);
    }
    for word in 8..8 * words {
        write(gicd + IPRIORITYR + 4 * word, PRIORITY);
    }
    // ARE_NS and EnableGrp1(NS); with one security state the same bits.
    write(gicd + GICD_CTLR, 1 << 4 | 1 << 1);
    init_cpu();
}

/// Initialises this CPU's redistributor and interface; false if there is no
/// redistributor with its affinity.
pub fn init_cpu() -> bool {
    let mpidr = cpu::mpidr();
    let affinity = (mpidr >> 8 & 0xff00_0000) | (mpidr & 0xff_ffff);
    let Some(gicr) = find(affinity) else { return false };
    MY_GICR[cpu::index()].store(gicr, Ordering::Release);
    // Wake it: clear ProcessorSleep, wait for ChildrenAsleep to follow.
    write(gicr + GICR_WAKER, read(gicr + GICR_WAKER) & !2);
    while read(gicr + GICR_WAKER) & 4 != 0 {
        core::hint::spin_loop();
    }
    let sgi = gicr + SGI_FRAME;
    write(sgi + ICENABLER, !0);
    write(sgi + IGROUPR, !0);
    for word in 0..8 {
        write(sgi + IPRIORITYR + 4 * word, PRIORITY);
    }
    // SAFETY: the CPU interface of this CPU is the payload's: system register
    // access, all priorities, group 1 on.
    unsafe {
        asm!(
            "mrs {t}, S3_0_C12_C12_5", // ICC_SRE_EL1
            "orr {t}, {t}, #1",
            "msr S3_0_C12_C12_5, {t}",
            "isb",
            "mov {t}, #0xff",
            "msr S3_0_C4_C6_0, {t}", // ICC_PMR_EL1
            "mov {t}, #1",
            "msr S3_0_C12_C12_7, {t}", // ICC_IGRPEN1_EL1
            "isb",
            t = out(reg) _,
            options(nostack)
        );
    }
    true
}

/// The redistributor with this affinity. Like Linux this looks at each one of
/// each region, as far as the one that calls itself the last: none of them may
/// fail to answer.
fn find(affinity: u64) -> Option<usize> {
    let mut found = None;
    for region in &GICR {
        let mut gicr = region.load(Ordering::Acquire);
        while gicr != 0 {
            let typer = read(gicr + GICR_TYPER);
            if u64::from(read(gicr + GICR_TYPER + 4)) == affinity {
                found = Some(gicr);
            }
            // With VLPIS (bit 1) there are two frames more.
            let pitch = if typer & 2 != 0 { 2 * STRIDE } else { STRIDE };
            gicr = if typer & 1 << 4 != 0 { 0 } else { gicr + pitch };
        }
    }
    found
}

/// Frame and word of an interrupt's bit in a register bank.
fn bank(intid: u32) -> (usize, usize) {
    let base = if intid < 32 {
        MY_GICR[cpu::index()].load(Ordering::Acquire) + SGI_FRAME
    } else {
        GICD.load(Ordering::Acquire)
    };
    (base, intid as usize / 32 * 4)
}

fn set_bit(register: usize, intid: u32) {
    let (base, word) = bank(intid);
    write(base + register + word, 1 << (intid % 32));
}

/// Enables an interrupt; an SPI goes to this CPU.
pub fn enable(intid: u32) {
    if intid >= 32 {
        let mpidr = cpu::mpidr();
        let router = GICD.load(Ordering::Acquire) + IROUTER + 8 * intid as usize;
        write(router, mpidr as u32 & 0xff_ffff);
        write(router + 4, (mpidr >> 32) as u32);
    }
    set_bit(ISENABLER, intid);
}

/// Disables it.
pub fn disable(intid: u32) {
    set_bit(ICENABLER, intid);
}

/// Makes it pending, as if its line had risen.
pub fn set_pending(intid: u32) {
    set_bit(ISPENDR, intid);
}

/// Takes that back.
pub fn clear_pending(intid: u32) {
    set_bit(ICPENDR, intid);
}

/// Is it pending?
pub fn is_pending(intid: u32) -> bool {
    let (base, word) = bank(intid);
    read(base + ISPENDR + word) & 1 << (intid % 32) != 0
}

/// Makes an SPI or PPI edge-triggered (MSIs are) or level-sensitive.
pub fn set_edge(intid: u32, edge: bool) {
    let (base, _) = bank(intid);
    let register = base + ICFGR + intid as usize / 16 * 4;
    let bit = 2 << (intid % 16 * 2);
    let value = read(register);
    write(register, if edge { value | bit } else { value & !bit });
}

/// Sends SGI `intid` (0 to 15) to the CPU with affinity `mpidr`.
pub fn send_sgi(intid: u32, mpidr: u64) {
    let value = 1 << (mpidr & 15)
        | (mpidr >> 8 & 0xff) << 16
        | u64::from(intid & 15) << 24
        | (mpidr >> 16 & 0xff) << 32
        | (mpidr >> 4 & 15) << 44
        | (mpidr >> 32 & 0xff) << 48;
    // SAFETY: ICC_SGI1R_EL1 raises an interrupt; stores before it are visible
    // to its target first.
    unsafe {
        asm!("dsb ishst", "msr S3_0_C12_C11_5, {}", "isb", in(reg) value, options(nostack));
    }
}

/// Takes the highest pending interrupt; `None` if spurious.
pub(crate) fn acknowledge() -> Option<u32> {
    let intid: u64;
    // SAFETY: ICC_IAR1_EL1, read once per interrupt taken.
    unsafe { asm!("mrs {}, S3_0_C12_C12_0", "dsb sy", out(reg) intid, options(nostack)) };
    // 1020 to 1023 are special (IHI 0069, 2.2.1).
    if (1020..1024).contains(&intid) { None } else { Some(intid as u32) }
}

/// Drops its priority and deactivates it.
pub(crate) fn end_of_interrupt(intid: u32) {
    // SAFETY: ICC_EOIR1_EL1, with the value acknowledged.
    unsafe { asm!("msr S3_0_C12_C12_1, {}", "isb", in(reg) u64::from(intid), options(nostack)) };
}
