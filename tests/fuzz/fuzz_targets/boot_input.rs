//! Device trees and boot modules from the firmware, to the host's tree.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkers::boot_input(data));
