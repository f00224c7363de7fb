//! Boot messages on the UART.
//!
//! The UART becomes the host's when the host starts; from then on only a
//! panic prints.
#![allow(unsafe_code)]

use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use log::{LevelFilter, Metadata, Record};
use platform::command_line::Verbosity;
use platform::pl011::Pl011;
use platform::{BootError, ByteRange, Platform, qemu_virt::QemuVirt};

/// Address of the UART: the one that is always there, until the tree is read.
static UART: AtomicUsize = AtomicUsize::new(QemuVirt::EARLY_UART as usize);

/// The UART of the board.
pub(crate) fn uart() -> Pl011 {
    // SAFETY: every map bouncer runs on, early and final, maps this page of
    // the board as device memory.
    unsafe { Pl011::new(UART.load(Ordering::Relaxed)) }
}

/// From now on messages go to the UART of the device tree.
///
/// # Errors
/// [`BootError::BadProperty`] if it is where the early map has no devices.
pub(crate) fn use_uart(uart: ByteRange) -> Result<(), BootError> {
    if uart.end() > 1 << 30 || !uart.start().is_multiple_of(hyp::addr::FRAME_SIZE) {
        return Err(BootError::BadProperty("PL011 reg"));
    }
    if UART.swap(uart.start() as usize, Ordering::Relaxed) as u64 != uart.start() {
        self::uart().enable();
    }
    Ok(())
}

struct Console;

static CONSOLE: Console = Console;
static HOST_OWNS_UART: AtomicBool = AtomicBool::new(false);

impl log::Log for Console {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        !HOST_OWNS_UART.load(Ordering::Relaxed)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            log::Level::Info => "",
            log::Level::Debug | log::Level::Trace => "debug: ",
        };
        // The UART's `write_str` cannot fail.
        let _ = writeln!(uart(), "bouncer: {level}{}", record.args());
    }

    fn flush(&self) {}
}

/// Sends `log`'s messages to the UART.
pub(crate) fn initialise() {
    uart().enable();
    // A second logger is impossible: this runs once.
    let _ = log::set_logger(&CONSOLE);
    set_verbosity(Verbosity::default());
}

/// Shows only messages of `verbosity` and more serious ones.
pub(crate) fn set_verbosity(verbosity: Verbosity) {
    log::set_max_level(match verbosity {
        Verbosity::Error => LevelFilter::Error,
        Verbosity::Warn => LevelFilter::Warn,
        Verbosity::Info => LevelFilter::Info,
        Verbosity::Debug => LevelFilter::Debug,
    });
}

/// From now on the UART is the host's.
pub(crate) fn hand_over() {
    HOST_OWNS_UART.store(true, Ordering::Relaxed);
}

/// Most events that are told at the end.
const TOLD: usize = 8;

/// Tells what the host has not read of its events. The machine is about to
/// stop, and a stock kernel has read nothing.
pub(crate) fn tell_unread() {
    let Some(hypervisor) = crate::cpu::HYPERVISOR.get() else { return };
    if log::max_level() < LevelFilter::Info {
        return;
    }
    for _ in 0..TOLD {
        let Some(event) = hypervisor.next_event() else { return };
        // The UART's `write_str` cannot fail.
        let _ = writeln!(uart(), "bouncer: {event}");
    }
    let mut more = 0;
    while hypervisor.next_event().is_some() {
        more += 1;
    }
    if more > 0 {
        let _ = writeln!(uart(), "bouncer: and {more} events more");
    }
}
