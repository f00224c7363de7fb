//! Device registers, one plain load or store each.
//!
//! Behind a hypervisor an emulated register is a trap whose syndrome describes
//! the instruction only if it is a simple one (Arm ARM D24.2.37, ISV). A
//! volatile access through a pointer may become a load with write-back, which
//! is not; so these are assembly.

#![allow(unsafe_code)]

use core::arch::asm;

macro_rules! register {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal, $width:literal) => {
        #[doc = concat!("Reads the ", $width, "-bit register at `address`.")]
        ///
        /// # Safety
        /// It must be a mapped device register, aligned, whose read has no
        /// effect on memory of the program.
        pub unsafe fn $read(address: usize) -> $type {
            let value: u64;
            // SAFETY: the caller's promise.
            unsafe {
                asm!($load, value = out(reg) value, address = in(reg) address, options(nostack));
            }
            value as $type
        }

        #[doc = concat!("Writes the ", $width, "-bit register at `address`.")]
        ///
        /// # Safety
        /// It must be a mapped device register, aligned, whose write has no
        /// effect on memory of the program that is not meant.
        pub unsafe fn $write(address: usize, value: $type) {
            // SAFETY: the caller's promise.
            unsafe {
                asm!($store, value = in(reg) u64::from(value), address = in(reg) address,
                     options(nostack));
            }
        }
    };
}

register!(read8, write8, u8, "ldrb {value:w}, [{address}]", "strb {value:w}, [{address}]", "8");
register!(read16, write16, u16, "ldrh {value:w}, [{address}]", "strh {value:w}, [{address}]", "16");
register!(read32, write32, u32, "ldr {value:w}, [{address}]", "str {value:w}, [{address}]", "32");
register!(read64, write64, u64, "ldr {value}, [{address}]", "str {value}, [{address}]", "64");
