//! Hostile rings against the host's backend, side by side with rust-vmm's queue.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkers::virtqueue(data));
