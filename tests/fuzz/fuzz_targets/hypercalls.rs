//! Events of host, guests and devices, against the model of all rules.

#![no_main]

/// The heap ends when an event says so.
#[global_allocator]
static HEAP: checkers::FailingHeap = checkers::FailingHeap;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkers::hypercalls(data));
