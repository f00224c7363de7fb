//! The scan on the CPU.

#![allow(unsafe_code)]

use super::{ENCODINGS, Name, pattern, special};
use crate::{cpu, exception};
use alloc::vec::Vec;
use core::arch::asm;

/// `MRS x0, S3_0_C0_C0_0`, `MSR S3_0_C0_C0_0, x0` and `RET`; the fields of the
/// register are bits 5 to 18.
const MRS: u32 = 0xd538_0000;
const MSR: u32 = 0xd518_0000;
const RET: u32 = 0xd65f_03c0;

/// A register that can be read.
#[derive(Clone, Copy, Default)]
struct Register {
    code: u16,
    /// Bits that a write changes.
    writable: u64,
    /// Bits that are always written as ones.
    set: u64,
    /// Bits that change by themselves.
    volatile: u64,
    /// Before anything was written.
    first: u64,
    original: u64,
    before: u64,
    after: u64,
}

/// A register that is not as it was.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// Which.
    pub register: Name,
    /// What was read before.
    pub before: u64,
    /// And afterwards.
    pub after: u64,
    /// Bits that can be written.
    pub writable: u64,
}

impl Difference {
    /// Is what it holds `seed`'s?
    pub fn is_of(&self, seed: u64) -> bool {
        (self.after ^ pattern(self.register.0, seed)) & self.writable == 0
    }
}

/// One function per encoding and direction, in memory. They are made once and
/// not patched: an emulator translates each of them once.
struct Probes(Vec<[u32; 2]>);

impl Probes {
    fn new() -> Self {
        let codes = 0..u32::from(ENCODINGS);
        let probe = |base: u32| codes.clone().map(move |code| [base | code << 5, RET]);
        let probes: Vec<[u32; 2]> = probe(MRS).chain(probe(MSR)).collect();
        let bytes = probes.as_ptr_range();
        let (start, end) = (bytes.start as usize, bytes.end as usize);
        for line in (start & !15..end).step_by(16) {
            // SAFETY: cleans own memory to where instructions are fetched
            // from (Arm ARM B2.7.4.2).
            unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack)) };
        }
        // SAFETY: as above.
        unsafe { asm!("dsb ish", "ic iallu", "dsb ish", "isb", options(nostack)) };
        exception::set_probes(start..end);
        Self(probes)
    }

    /// Calls function `index` with x0 = `value`: its x0, or `None` if the
    /// instruction was refused.
    fn call(&self, index: usize, value: u64) -> Option<u64> {
        let function = self.0.get(index)?.as_ptr();
        let (result, refused): (u64, u64);
        // SAFETY: one MRS or MSR and a RET; the handler of a refusal goes on
        // at the RET with x1 = 1 and changes x2, x3 and x5. What a write may
        // change is what `Scan` has made sure of.
        unsafe {
            asm!(
                "blr {function}",
                "isb",
                function = in(reg) function,
                inout("x0") value => result,
                inout("x1") 0u64 => refused,
                out("x2") _, out("x3") _, out("x5") _, out("x30") _,
            );
        }
        (refused == 0).then_some(result)
    }

    fn read(&self, code: u16) -> Option<u64> {
        self.call(code.into(), 0)
    }

    fn write(&self, code: u16, value: u64) -> Option<()> {
        self.call(usize::from(ENCODINGS) + usize::from(code), value).map(|_| ())
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        exception::set_probes(0..0);
    }
}

/// What this CPU's registers are to the program that runs here.
pub struct Scan {
    probes: Probes,
    registers: Vec<Register>,
    write_only: Vec<Name>,
}

impl Scan {
    /// Reads every encoding and finds the bits that can be written. There
    /// must be one scan at a time.
    #[allow(clippy::new_without_default)] // It takes a second.
    pub fn new() -> Self {
        let probes = Probes::new();
        let interrupts = cpu::mask_interrupts();
        let may_read = |code: &u16| special(*code).is_none_or(|special| special.read);
        // All are read before the first is written: what they hold now may be
        // somebody else's.
        let mut registers: Vec<Register> = (0..ENCODINGS)
            .filter(may_read)
            .filter_map(|code| probes.read(code).map(|first| (code, first)))
            .map(|(code, first)| Register { code, first, ..Register::default() })
            .collect();
        registers.iter_mut().for_each(|register| find_writable(&probes, register));
        let known = |code: u16| {
            special(code).is_some() || registers.binary_search_by_key(&code, |it| it.code).is_ok()
        };
        let write_only = (0..ENCODINGS)
            .filter(|code| !known(*code) && probes.write(*code, 0).is_some())
            .map(Name)
            .collect();
        cpu::restore_interrupts(interrupts);
        Self { probes, registers, write_only }
    }

    /// How many registers can be read, and how many of their bits written.
    pub fn extent(&self) -> (usize, u32) {
        let bits = self.registers.iter().map(|register| register.writable.count_ones()).sum();
        (self.registers.len(), bits)
    }

    /// A register that can be read or written and for whose encoding `which`
    /// holds.
    pub fn found(&self, which: impl Fn(u16) -> bool) -> Option<Name> {
        let read = self.registers.iter().map(|register| Name(register.code));
        read.chain(self.write_only.iter().copied()).find(|name| which(name.0))
    }

    /// Registers that can be written, not read, and are not in the table:
    /// nobody has thought about what they do.
    pub fn unlisted(&self) -> &[Name] {
        &self.write_only
    }

    /// A register that held `seed`'s pattern before anything was written.
    pub fn found_first(&self, seed: u64) -> Option<Name> {
        /// Fewer bits may be equal by chance.
        const ENOUGH: u32 = 12;
        let holds = |register: &&Register| {
            let mask = register.writable & !register.volatile;
            mask.count_ones() >= ENOUGH
                && (register.first ^ pattern(register.code, seed)) & mask == 0
        };
        self.registers.iter().find(holds).map(|register| Name(register.code))
    }

    /// Puts `seed`'s pattern into every register, does `act`, which lets
    /// somebody else run, looks at them all, and puts everything back.
    /// [`Self::differences`] then says what has changed.
    ///
    /// `act` must not take an exception, ask for the CPU's index or print:
    /// for that the program needs registers that hold patterns.
    pub fn exposed<R>(&mut self, seed: u64, act: impl FnOnce() -> R) -> R {
        let Self { probes, registers, .. } = self;
        let interrupts = cpu::mask_interrupts();
        for register in registers.iter_mut() {
            register.original = probes.read(register.code).unwrap_or(0);
        }
        for register in registers.iter().filter(|register| register.writable != 0) {
            let mask = register.writable;
            let value = register.original & !mask | pattern(register.code, seed) & mask;
            probes.write(register.code, value | register.set);
        }
        for register in registers.iter_mut() {
            register.before = probes.read(register.code).unwrap_or(0);
        }
        let result = act();
        for register in registers.iter_mut() {
            register.after = probes.read(register.code).unwrap_or(0);
        }
        // Twice: some are written in vain while another holds its pattern.
        for _ in 0..2 {
            for register in registers.iter().filter(|register| register.writable != 0) {
                probes.write(register.code, register.original);
            }
        }
        cpu::restore_interrupts(interrupts);
        result
    }

    /// What changed during the last [`Self::exposed`].
    pub fn differences(&self) -> impl Iterator<Item = Difference> {
        let changed = |it: &&Register| (it.before ^ it.after) & !it.volatile != 0;
        self.registers.iter().filter(changed).map(|register| Difference {
            register: Name(register.code),
            before: register.before,
            after: register.after,
            writable: register.writable & !register.volatile,
        })
    }
}

/// Flips every bit that may be flipped, sees which do, and flips them back.
fn find_writable(probes: &Probes, register: &mut Register) {
    let code = register.code;
    let mut may_flip = u64::MAX;
    if let Some(special) = special(code) {
        (may_flip, register.set) = (!special.keep, special.set);
        register.volatile = special.volatile;
    }
    let Some(value) = probes.read(code).filter(|_| may_flip != 0) else { return };
    if probes.write(code, value ^ may_flip | register.set).is_none() {
        return;
    }
    let flipped = probes.read(code).unwrap_or(value);
    probes.write(code, value);
    register.writable = (value ^ flipped) & may_flip;
}
