//! I/O tables of a guest's and its calls about them, against docs/iotable.md.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkers::iotable(data));
