//! Map, unmap, split, merge, mark and release of stage-2 tables, against arrays of pages.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkers::stage2(data));
