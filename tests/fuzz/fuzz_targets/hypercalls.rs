//! Events of host, guests and devices, against the model of all rules.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkers::hypercalls(data));
