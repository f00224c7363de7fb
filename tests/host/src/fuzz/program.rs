//! Guests made of random instructions.
//!
//! A program is a page of A64 code and a page with its exception vectors,
//! which step over whatever went wrong. It keeps a secret in a page that it
//! never shares, calls EL2, touches devices and goes round. It needs no stack,
//! no MMU and no memory but its own.

use alloc::vec::Vec;

use hyp::abi::{guest as id, rsi};
use hyp::layout;

use super::random::Random;

/// Pages of code: the program and its vectors.
pub const PAGES: u64 = 2;
/// What the guest keeps to itself; no program has it as one word.
pub const SECRET: u64 = 0x5ec2_e75e_c2e7_0001;
/// The page of RAM it keeps it in: never an argument of MEM_SHARE.
const SECRET_PAGE: u64 = 2;
/// First page of RAM that may be shared or given back.
const FREE_PAGE: u64 = 3;
/// Instructions in a page.
const WORDS: usize = 1024;
/// Longest program, leaving room for its end.
const LONGEST: usize = WORDS - 32;

const NOP: u32 = 0xd503_201f;
const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;
const WFI: u32 = 0xd503_207f;
const ISB: u32 = 0xd503_3fdf;

/// The code of a guest with `pages` pages of RAM: [`PAGES`] pages of words.
pub fn code(random: &mut Random, pages: u64) -> Vec<u32> {
    let mut program = Vec::with_capacity(PAGES as usize * WORDS);
    // Vectors in the second page.
    set(&mut program, 0, layout::RAM + 4096);
    program.extend([0xd518_c000, ISB]); // msr vbar_el1, x0
    set(&mut program, 4, layout::RAM + (SECRET_PAGE << 12));
    set(&mut program, 5, SECRET);
    // str x5, [x4]; stp x5, x5, [x4, #64]
    program.extend([0xf900_0085, 0xa904_1485]);
    let again = program.len();
    for _ in 0..4 + random.below(24) {
        action(&mut program, random, pages);
    }
    program.truncate(LONGEST);
    let back = again as i64 - program.len() as i64;
    program.push(0x1400_0000 | (back as u32 & 0x3ff_ffff));
    program.resize(WORDS, NOP);
    for _ in 0..WORDS / 32 {
        // Every vector: mrs x29, elr_el1; add x29, x29, #4; msr elr_el1, x29;
        // eret.
        program.extend([0xd538_403d, 0x9100_13bd, 0xd518_403d, 0xd69f_03e0]);
        program.extend([NOP; 28]);
    }
    program
}

/// xN = value.
fn set(program: &mut Vec<u32>, register: u32, value: u64) {
    let halves = [0xd280_0000_u32, 0xf2a0_0000, 0xf2c0_0000, 0xf2e0_0000];
    for (half, base) in halves.into_iter().enumerate() {
        let bits = (value >> (16 * half)) as u32 & 0xffff;
        if half == 0 || bits != 0 {
            program.push(base | bits << 5 | register);
        }
    }
}

fn action(program: &mut Vec<u32>, random: &mut Random, pages: u64) {
    let page = FREE_PAGE + random.below(pages.saturating_sub(FREE_PAGE).max(1));
    let own = layout::RAM + (page << 12);
    match random.below(9) {
        0..=2 => {
            let calls = [
                id::MEM_SHARE,
                id::MEM_SHARE,
                id::MEM_UNSHARE,
                id::MEM_UNSHARE_ALL,
                id::MEM_RELINQUISH,
                id::MMIO_GUARD_MAP,
                id::MMIO_GUARD_UNMAP,
                id::HYP_MEMINFO,
                id::FEATURES,
                id::EXTENSIONS,
            ];
            set(program, 0, u64::from(*random.pick(&calls)));
            let address = if random.one_in(6) { random.bits() & !0xfff } else { own };
            // Never so many pages that the secret's would be reached by
            // wrapping round.
            let count = *random.pick(&[0, 1, 1, 2, 3, 8, 600, u64::MAX]);
            set(program, 1, address);
            set(program, 2, count);
            set(program, 3, 0);
            program.push(HVC);
        }
        3 => {
            // PSCI: CPU_ON, CPU_OFF (rarely), AFFINITY_INFO, a WFI as a call.
            let calls = [0xc400_0003, 0xc400_0003, 0xc400_0004, 0xc400_0001, 0x8400_0000];
            let call = if random.one_in(40) { 0x8400_0002 } else { *random.pick(&calls) };
            set(program, 0, call);
            set(program, 1, random.below(4));
            set(program, 2, layout::RAM);
            set(program, 3, 7);
            program.push(if random.one_in(8) { SMC } else { HVC });
        }
        4 | 5 => {
            let places = [
                own,
                own + 8 * random.below(512),
                layout::PCI_MEM64 + (random.below(16) << 12),
                layout::PCI_MEM64 + random.below(1 << 16),
                layout::GICD + 4 * random.below(0x400),
                layout::GICR + 4 * random.below(0x4000),
                layout::UART,
                layout::ECAM + 4 * random.below(0x4000),
                layout::PCI_MEM32 + 4 * random.below(0x1000),
                random.bits() & 0x7f_ffff_fff8,
            ];
            set(program, 4, *random.pick(&places));
            set(program, 5, random.bits() & 0xffff_00ff);
            // ldr x5/w5, str x5/w5, ldrb, strb.
            let accesses =
                [0xf940_0086, 0xb940_0086, 0xf900_0085, 0xb900_0085, 0x3940_0086, 0x3900_0085];
            program.push(*random.pick(&accesses));
        }
        6 => {
            // The device's registers: decode on, a BAR over the window.
            let function = layout::ECAM + ((1 + random.below(2)) << 15);
            let writes = [
                (0x04, 0x0006),
                (0x10, layout::PCI_MEM32),
                (0x18, layout::PCI_MEM64),
                (0x1c, layout::PCI_MEM64 >> 32),
                (0x04, 0x0000),
            ];
            for (offset, value) in writes.iter().take(4 + random.below(2) as usize) {
                set(program, 4, function + offset);
                set(program, 5, *value & 0xffff_ffff);
                program.push(0xb900_0085);
            }
        }
        7 => rsi_call(program, random, own),
        // MIDR, ID_AA64MMFR0, an EL2 register, WFI.
        _ => program.push(*random.pick(&[0xd538_0006, 0xd538_0706, 0xd53c_1106, WFI])),
    }
}

/// A call that only a realm can make, and others must be refused.
fn rsi_call(program: &mut Vec<u32>, random: &mut Random, own: u64) {
    let function = u64::from(rsi::VERSION) + random.below(11);
    let alias = if random.one_in(3) { 1 << (rsi::IPA_BITS - 1) } else { 0 };
    // From a page that is free up to any other, so never the secret's.
    let base = own | alias;
    let top = match random.below(6) {
        0 => random.bits() & !0xfff,
        pages => base + ((pages - 1) << 12),
    };
    // An index and a length for the calls that measure.
    let (first, second) =
        if random.one_in(3) { (random.below(6), random.below(80)) } else { (base, top) };
    set(program, 0, function);
    set(program, 1, first);
    set(program, 2, second);
    set(program, 3, random.below(3));
    set(program, 4, random.below(2));
    program.push(if random.one_in(8) { HVC } else { SMC });
}
