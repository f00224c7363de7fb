//! When bouncer itself is broken: say where, and stop the machine.
//!
//! Nothing of a world is resumed, so nothing protected becomes readable.
#![allow(unsafe_code)]

use crate::{console, firmware, sysreg};
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

/// The registers of EL2 at an exception from EL2; `vectors.S` builds it.
#[repr(C)]
pub(crate) struct Dump {
    x: [u64; 31],
    sp: u64,
}

static PANICKING: AtomicBool = AtomicBool::new(false);

/// Only the first panic is told; one that happens while it is told, or on
/// another CPU, waits for the machine to stop.
fn first() {
    if PANICKING.swap(true, Ordering::Relaxed) {
        loop {
            sysreg::wfe();
        }
    }
}

/// Stops the machine because bouncer has contradicted itself. Never because
/// of what a host, a guest or a device did.
#[allow(clippy::panic)]
pub(crate) fn broken(what: &str) -> ! {
    panic!("{what}");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    first();
    let _ = writeln!(console::uart(), "\nbouncer: {info}\nbouncer: stopping the machine");
    firmware::stop()
}

/// An exception from EL2 to EL2: `vector` is 4 (synchronous) to 7 (SError).
pub(crate) extern "C" fn exception_in_el2(dump: &Dump, vector: u64) -> ! {
    first();
    let mut uart = console::uart();
    let _ = writeln!(
        uart,
        "\nbouncer: exception in EL2, vector {vector}: esr {:#010x} far {:#x} elr {:#x} \
         (image {:#x})",
        sysreg::esr_el2::read(),
        sysreg::far_el2::read(),
        sysreg::elr_el2::read(),
        crate::entry::image().start(),
    );
    for (index, value) in dump.x.iter().enumerate() {
        let end = if index % 4 == 3 { '\n' } else { ' ' };
        let _ = write!(uart, "x{index:<2} {value:016x}{end}");
    }
    let _ = writeln!(uart, "sp  {:016x}\nbouncer: stopping the machine", dump.sp);
    firmware::stop()
}
