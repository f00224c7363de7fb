//! Processes: programs at EL0 that see what they were given and nothing else.
//!
//! A process runs the payload's own code, which is mapped for it a second time,
//! at [`BASE`], to read and to execute. Code finds its constants relative to
//! itself, so a plain function runs there; whatever needs the payload's
//! variables (a lock, the heap, a panic's message) faults, for they are not
//! mapped. It traps by SVC ([`call`]) or by a fault, and the payload goes on
//! where it called [`Process::run`].

#![allow(unsafe_code)]

use alloc::boxed::Box;
use core::arch::{asm, global_asm};

global_asm!(include_str!("user.S"));

/// Where a process's own GiB begins: behind all that the payload maps.
pub const BASE: usize = 480 << 30;
/// Bytes of it that one last table maps.
const PART: usize = 2 << 20;
/// Its memory, after the code; the stack is the first of it.
const MEMORY: usize = BASE + PART;
/// The registers of devices.
const REGISTERS: usize = BASE + 2 * PART;
const PAGE: usize = 4096;
/// Pages of a stack.
const STACK: usize = 4;

/// Descriptor bits (Arm ARM D8.3): a table; a page that has been accessed, of
/// one ASID.
const TABLE: u64 = 3;
const LEAF: u64 = 3 | 1 << 10 | 1 << 11;
const INNER: u64 = 3 << 8;
/// AP bits 2 and 1: EL0 may read and write, or only read.
const READ_WRITE: u64 = 1 << 6;
const READ_ONLY: u64 = 3 << 6;
/// Executable at EL0 only; nowhere. MAIR index 1 is Device-nGnRE.
const PXN: u64 = 1 << 53;
const XN: u64 = 3 << 53;
const DEVICE: u64 = 1 << 2;

/// ESR_EL1.EC of an SVC from AArch64.
const EC_SVC: u64 = 0x15;

type Table = [u64; 512];

/// A process's registers, and why it has trapped, as `user.S` knows them.
#[repr(C)]
struct Context {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    ttbr: u64,
    esr: u64,
    far: u64,
}

/// Why a process has trapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// It asked for something: its x0 to x3.
    Call([u64; 4]),
    /// It did what it may not: ESR_EL1, FAR_EL1 and where.
    Fault {
        /// ESR_EL1.
        syndrome: u64,
        /// FAR_EL1.
        address: u64,
        /// The instruction.
        pc: u64,
    },
}

/// A process.
#[repr(C, align(4096))]
pub struct Process {
    root: Table,
    middle: Table,
    code: Table,
    memory: Table,
    registers: Table,
    stack: [[u8; PAGE]; STACK],
    context: Context,
    /// Pages of memory and of registers that it has.
    used: [usize; 2],
    asid: u64,
}

impl Process {
    /// One that begins at `main`. `asid`, 1 to 255, tells its
    /// translations from other processes'.
    pub fn new(asid: u8, main: extern "C" fn() -> !) -> Box<Self> {
        let mut process = Box::new(Process {
            root: super::mmu::root(),
            middle: [0; 512],
            code: [0; 512],
            memory: [0; 512],
            registers: [0; 512],
            stack: [[0; PAGE]; STACK],
            context: Context { x: [0; 31], sp: 0, pc: 0, ttbr: 0, esr: 0, far: 0 },
            used: [0; 2],
            asid: asid.into(),
        });
        let at = |table: &Table| table.as_ptr() as u64;
        process.root[BASE >> 30] = at(&process.middle) | TABLE;
        process.middle[0] = at(&process.code) | TABLE;
        process.middle[1] = at(&process.memory) | TABLE;
        process.middle[2] = at(&process.registers) | TABLE;
        let constants = super::cpu::constants();
        for (word, page) in process.code.iter_mut().zip(constants.clone().step_by(PAGE)) {
            *word = page as u64 | LEAF | INNER | READ_ONLY | PXN;
        }
        let stack = process.stack.as_ptr() as usize;
        for page in 0..STACK {
            process.map(stack + page * PAGE, true);
        }
        process.context.sp = (MEMORY + STACK * PAGE) as u64;
        process.context.pc = (main as usize - constants.start + BASE) as u64;
        process.context.ttbr = at(&process.root) | process.asid << 48;
        process
    }

    /// Gives it a page of memory; where it sees it.
    ///
    /// # Panics
    /// After 512 pages.
    pub fn map(&mut self, page: usize, writable: bool) -> usize {
        let rights = if writable { READ_WRITE } else { READ_ONLY };
        let index = self.used[0];
        self.memory[index] = page as u64 | LEAF | INNER | rights | XN;
        self.used[0] += 1;
        MEMORY + index * PAGE
    }

    /// Gives it pages of a device's registers; where it sees the first.
    ///
    /// # Panics
    /// After 512 pages.
    pub fn map_registers(&mut self, address: usize, pages: usize) -> usize {
        let first = self.used[1];
        for page in 0..pages {
            let word = (address + page * PAGE) as u64 | LEAF | READ_WRITE | DEVICE | XN;
            self.registers[first + page] = word;
        }
        self.used[1] += pages;
        REGISTERS + first * PAGE
    }

    /// Answers the call with which it trapped.
    pub fn answer(&mut self, value: u64) {
        self.context.x[0] = value;
    }

    /// Lets it run until it traps.
    pub fn run(&mut self) -> Trap {
        unsafe extern "C" {
            fn rt_user_enter(context: *mut Context);
        }
        // SAFETY: the tables map the payload as its own do, and for EL0 only
        // what it was given. They were written by this CPU, which has a barrier
        // before its walker uses them. Interrupts are masked at EL0, so that
        // what comes back is a synchronous exception of the process's.
        unsafe {
            asm!("dsb ishst", options(nostack));
            rt_user_enter(&raw mut self.context);
        }
        let context = &self.context;
        if context.esr >> 26 == EC_SVC {
            return Trap::Call([context.x[0], context.x[1], context.x[2], context.x[3]]);
        }
        Trap::Fault { syndrome: context.esr, address: context.far, pc: context.pc }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: nobody runs on these tables; the next process with this ASID
        // must not meet their translations.
        unsafe {
            asm!("dsb ishst", "tlbi aside1is, {}", "dsb ish", "isb", in(reg) self.asid << 48, options(nostack));
        }
    }
}

/// What a process says to the payload: SVC with these in x0 to x3; the answer.
pub fn call(arguments: [u64; 4]) -> u64 {
    let answer;
    // SAFETY: the payload answers in x0 and changes nothing else of the
    // process's registers; it may change memory that it has given.
    unsafe {
        asm!(
            "svc #0",
            inlateout("x0") arguments[0] => answer,
            in("x1") arguments[1],
            in("x2") arguments[2],
            in("x3") arguments[3],
            options(nostack)
        );
    }
    answer
}
