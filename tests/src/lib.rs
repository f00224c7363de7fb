//! End-to-end tests on the booted machine.
