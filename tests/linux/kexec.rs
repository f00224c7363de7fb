//! A program for a Linux host: starts another kernel in the place of the one
//! that runs (kexec). No library: a test compiles this one file.
//!
//! `kexec KERNEL INITRD COMMAND-LINE`; it returns only if that was refused.

#![no_std]
#![no_main]
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};

/// System calls (arm64).
mod call {
    pub const OPEN_AT: u64 = 56;
    pub const WRITE: u64 = 64;
    pub const EXIT: u64 = 94;
    pub const REBOOT: u64 = 142;
    pub const KEXEC_FILE_LOAD: u64 = 294;
}

/// openat: paths from the current folder.
const HERE: u64 = -100i64 as u64;
/// reboot(2): two magic numbers, and the command to enter what was loaded.
const MAGIC: [u64; 2] = [0xfee1_dead, 672_274_793];
const ENTER: u64 = 0x4558_4543;

global_asm!(".global _start", "_start:", "mov x0, sp", "bl start");

fn system(number: u64, arguments: [u64; 5]) -> u64 {
    let result;
    let [a, b, c, d, e] = arguments;
    // SAFETY: the kernel writes nothing to this program.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c,
             in("x3") d, in("x4") e, options(nostack));
    }
    result
}

fn exit(status: u64, text: &[u8]) -> ! {
    system(call::WRITE, [2, text.as_ptr() as u64, text.len() as u64, 0, 0]);
    loop {
        system(call::EXIT, [status, 0, 0, 0, 0]);
    }
}

/// Bytes of a string and its end.
fn length(text: *const u8) -> u64 {
    // SAFETY: an argument of the program, which ends with a zero.
    (0..).find(|&at| unsafe { *text.add(at) } == 0).map_or(0, |at| at as u64 + 1)
}

#[unsafe(no_mangle)]
extern "C" fn start(stack: *const [usize; 5]) -> ! {
    // SAFETY: the kernel puts the count and the pointers of the arguments there,
    // and there are as many, as the check comes first.
    let [count, _, kernel, initrd, line] = unsafe { *stack };
    if count != 4 {
        exit(2, b"kexec KERNEL INITRD COMMAND-LINE\n");
    }
    let open = |path: usize| system(call::OPEN_AT, [HERE, path as u64, 0, 0, 0]);
    let words = length(line as *const u8);
    let files = [open(kernel), open(initrd)];
    let loaded =
        system(call::KEXEC_FILE_LOAD, [files[0], files[1], words, line as u64, 0]);
    if loaded != 0 {
        exit(3, b"kexec: the kernel was not loaded\n");
    }
    system(call::REBOOT, [MAGIC[0], MAGIC[1], ENTER, 0, 0]);
    exit(4, b"kexec: the kernel was not entered\n")
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(5, b"kexec: panic\n")
}
