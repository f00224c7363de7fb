//! A program for a Linux guest that is debugged, and its debugger: what
//! ptrace does by hardware (single step, breakpoints, watchpoints), and a
//! function to probe. No library: a test compiles this one file.
//!
//! `debugged`: the checks, one line each. `debugged where`: offset of the
//! function in the file. `debugged probe`: calls it five times.

#![no_std]
#![no_main]
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// System calls (arm64).
mod call {
    pub const WRITE: u64 = 64;
    pub const EXIT: u64 = 94;
    pub const PTRACE: u64 = 117;
    pub const KILL: u64 = 129;
    pub const GETPID: u64 = 172;
    pub const CLONE: u64 = 220;
    pub const WAIT4: u64 = 260;
}

/// Requests of ptrace, and register sets (elf.h).
const TRACEME: u64 = 0;
const CONT: u64 = 7;
const STEP: u64 = 9;
const GET_SET: u64 = 0x4204;
const PUT_SET: u64 = 0x4205;
const GENERAL: u64 = 1;
const BREAKPOINTS: u64 = 0x402;
const WATCHPOINTS: u64 = 0x403;
/// Index of the PC in the general registers.
const PC: usize = 32;

const SIGTRAP: u64 = 5;
const SIGKILL: u64 = 9;
const SIGCHLD: u64 = 17;
const SIGSTOP: u64 = 19;

/// Enabled, at EL0; four bytes of an instruction, or stores to eight bytes.
const AT_EL0: u64 = 1 | 2 << 1;
const BREAK: u64 = AT_EL0 | 0xf << 5;
const WATCH: u64 = AT_EL0 | 2 << 3 | 0xff << 5;
const STEPS: u64 = 20;

static WATCHED: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

global_asm!(
    ".global _start, sites, probed",
    "_start:",
    "mov x0, sp",
    "bl start",
    // Sixteen places to stop at, in a row.
    ".balign 4",
    "sites:",
    ".rept 16",
    "nop",
    ".endr",
    "ret",
    "probed:",
    "add x0, x0, #7",
    "ret",
);

unsafe extern "C" {
    fn sites();
    fn probed(value: u64) -> u64;
    static __ehdr_start: [u64; 8];
}

/// struct iovec.
#[repr(C)]
struct Vector {
    base: *mut u64,
    bytes: u64,
}

fn system(number: u64, arguments: [u64; 5]) -> u64 {
    let result;
    let [a, b, c, d, e] = arguments;
    // SAFETY: the kernel writes only where the caller's pointers point, which
    // are to arrays of this program's.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c,
             in("x3") d, in("x4") e, options(nostack));
    }
    result
}

fn exit(status: u64) -> ! {
    loop {
        system(call::EXIT, [status, 0, 0, 0, 0]);
    }
}

fn print(text: &[u8]) {
    system(call::WRITE, [1, text.as_ptr() as u64, text.len() as u64, 0, 0]);
}

fn print_number(mut value: u64) {
    let mut text = [b'0'; 20];
    let mut first = text.len();
    loop {
        first -= 1;
        text[first] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 || first == 0 {
            return print(&text[first..]);
        }
    }
}

fn tell(name: &[u8], value: u64) {
    print(name);
    print_number(value);
    print(b"\n");
}

/// The child: stops, then comes by all sites and stores everywhere.
fn debuggee() -> ! {
    system(call::PTRACE, [TRACEME, 0, 0, 0, 0]);
    system(call::KILL, [system(call::GETPID, [0; 5]), SIGSTOP, 0, 0, 0]);
    loop {
        // SAFETY: it does nothing.
        unsafe { sites() };
        WATCHED.iter().for_each(|word| word.store(1, SeqCst));
    }
}

/// A child that has stopped.
struct Child(u64);

impl Child {
    fn new() -> Self {
        let pid = system(call::CLONE, [SIGCHLD, 0, 0, 0, 0]);
        if pid == 0 {
            debuggee();
        }
        let child = Self(pid);
        child.wait();
        child
    }

    /// The signal that stopped it.
    fn wait(&self) -> u64 {
        let mut status = [0u64; 1];
        system(call::WAIT4, [self.0, status.as_mut_ptr() as u64, 0, 0, 0]);
        if status[0] & 0xff == 0x7f { status[0] >> 8 & 0xff } else { 0 }
    }

    fn go(&self, how: u64) -> bool {
        system(call::PTRACE, [how, self.0, 0, 0, 0]) == 0 && self.wait() == SIGTRAP
    }

    fn set(&self, request: u64, kind: u64, words: &mut [u64]) -> bool {
        let mut vector = Vector { base: words.as_mut_ptr(), bytes: 8 * words.len() as u64 };
        let vector = &raw mut vector as u64;
        system(call::PTRACE, [request, self.0, kind, vector, 0]) == 0
    }

    fn pc(&self) -> u64 {
        let mut general = [0; 34];
        self.set(GET_SET, GENERAL, &mut general);
        general[PC]
    }

    /// How many breakpoints or watchpoints the kernel offers.
    fn slots(&self, kind: u64) -> usize {
        let mut state = [0; 33];
        self.set(GET_SET, kind, &mut state);
        (state[0] & 0xff).min(16) as usize
    }

    /// Puts the pair into slot `slot` alone.
    fn arm(&self, kind: u64, slots: usize, slot: usize, address: u64, control: u64) -> bool {
        let mut state = [0; 33];
        state[1 + 2 * slot] = address;
        state[2 + 2 * slot] = control;
        self.set(PUT_SET, kind, &mut state[..1 + 2 * slots])
    }

    fn end(self) {
        system(call::KILL, [self.0, SIGKILL, 0, 0, 0]);
        self.wait();
    }
}

/// Instructions that were stepped, each to another place.
fn stepped() -> u64 {
    let child = Child::new();
    let mut last = child.pc();
    let mut steps = 0;
    for _ in 0..STEPS {
        let stopped = child.go(STEP);
        let now = child.pc();
        steps += u64::from(stopped && now != last);
        last = now;
    }
    child.end();
    steps
}

/// Slots whose breakpoint stopped the child where it should.
fn broken() -> (u64, u64) {
    let child = Child::new();
    let slots = child.slots(BREAKPOINTS);
    let hits = (0..slots).filter(|slot| {
        let place = sites as *const () as u64 + 4 * *slot as u64;
        child.arm(BREAKPOINTS, slots, *slot, place, BREAK) && child.go(CONT) && child.pc() == place
    });
    let hits = hits.count() as u64;
    child.end();
    (hits, slots as u64)
}

/// Slots whose watchpoint stopped the child.
fn watched() -> (u64, u64) {
    let child = Child::new();
    let slots = child.slots(WATCHPOINTS);
    let hits = (0..slots).filter(|slot| {
        let place = &raw const WATCHED[*slot] as u64;
        child.arm(WATCHPOINTS, slots, *slot, place, WATCH) && child.go(CONT)
    });
    let hits = hits.count() as u64;
    child.end();
    (hits, slots as u64)
}

/// Offset of `probed` in the file: its segment's program header knows.
fn offset() -> u64 {
    let place = probed as *const () as u64;
    // SAFETY: the linker puts the ELF header, and behind it the program
    // headers, at the start of the image.
    unsafe {
        let header = &raw const __ehdr_start as *const u64;
        let count = header.byte_add(56).cast::<u16>().read();
        let first = header.byte_add(header.add(4).read() as usize);
        for index in 0..usize::from(count) {
            let segment = first.add(7 * index);
            let (offset, start, size) =
                (segment.add(1).read(), segment.add(2).read(), segment.add(4).read());
            if (segment.read() as u32) == 1 && place >= start && place - start < size {
                return place - start + offset;
            }
        }
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn start(stack: *const u64) -> ! {
    // SAFETY: the kernel puts argc and argv there.
    let first =
        unsafe { if stack.read() > 1 { (*stack.add(2).cast::<*const u8>()).read() } else { 0 } };
    match first {
        b'w' => tell(b"", offset()),
        b'p' => {
            // SAFETY: it adds.
            let sum = (0..5).fold(0, |sum, _| unsafe { probed(sum) });
            tell(b"sum=", sum);
        }
        _ => {
            tell(b"steps=", stepped());
            let (hits, slots) = broken();
            tell(b"breakpoints=", hits);
            tell(b"of=", slots);
            let (hits, slots) = watched();
            tell(b"watchpoints=", hits);
            tell(b"of=", slots);
        }
    }
    exit(0)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}
