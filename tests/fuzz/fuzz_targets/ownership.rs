//! Transitions of the ownership engine and both stage-2 tables, against a plain map.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkers::ownership(data));
