//! When bouncer itself is broken: say where, and stop the machine.
//!
//! Nothing of a world is resumed, and `stop` wipes what is protected before the
//! machine stops: nothing of it becomes readable. Nor on the console, which is
//! the host's: EL2's general registers may hold a guest's (the world switch
//! loads them just so), so an exception tells where it was and no more.
#![allow(unsafe_code)]

use crate::{console, stop, sysreg};
use core::fmt::Write;
use core::panic::PanicInfo;

/// Stops the machine because bouncer has contradicted itself. Never because
/// of what a host, a guest or a device did.
#[allow(clippy::panic)]
pub(crate) fn broken(what: &str) -> ! {
    panic!("{what}");
}

/// Stops the machine because a device that protects memory does not do it, and
/// nothing may go on as if it did.
#[allow(clippy::panic)]
pub(crate) fn broken_device(device: &str, what: &str) -> ! {
    panic!("{device} does not work: it does not come to {what}");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if stop::break_down() {
        let _ = writeln!(console::uart(), "\nbouncer: {info}\nbouncer: stopping the machine");
    }
    stop::fail_closed()
}

/// An exception from EL2 to EL2: `vector` is 4 (synchronous) to 7 (SError).
pub(crate) extern "C" fn exception_in_el2(vector: u64, stack: u64) -> ! {
    if stop::break_down() {
        let _ = writeln!(
            console::uart(),
            "\nbouncer: exception in EL2, vector {vector}: esr {:#010x} far {:#x} elr {:#x} \
             sp {stack:#x} (image {:#x})\nbouncer: stopping the machine",
            sysreg::esr_el2::read(),
            sysreg::far_el2::read(),
            sysreg::elr_el2::read(),
            crate::entry::image().start(),
        );
    }
    stop::fail_closed()
}
