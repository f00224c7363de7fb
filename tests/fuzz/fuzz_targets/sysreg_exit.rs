//! Every syndrome of host and guest: what its handling may change or reveal.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkers::sysreg_exit(data));
