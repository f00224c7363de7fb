//! The interrupt controller against a GICv3 without banks and list registers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkers::vgic(data));
