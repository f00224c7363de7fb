//! Runtime of the payloads.
#![no_std]
