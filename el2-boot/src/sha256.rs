//! SHA-256 by the CPU's own instructions, in a small part of the time that
//! software needs: a Linux kernel is ten thousand pages to measure.
#![allow(unsafe_code)]

use core::arch::global_asm;

global_asm!(include_str!("sha256.S"));

unsafe extern "C" {
    /// Adds `count` (at least 1) blocks of 64 bytes to a state.
    ///
    /// # Safety
    /// The CPU must have FEAT_SHA256, and CPTR_EL2 not trap SIMD.
    fn sha256_blocks(state: *mut [u32; 8], blocks: *const [u8; 64], count: usize);
}

/// See `Machine::sha256`.
pub(crate) fn add_blocks(state: &mut [u32; 8], blocks: &[[u8; 64]]) {
    if !crate::features::has_sha256() {
        hyp::measurement::sha256_in_software(state, blocks);
    } else if !blocks.is_empty() {
        // SAFETY: the CPU has the instructions, no world's CPTR_EL2 traps SIMD
        // (`hyp::vcpu::controls`), and the pointers are of references to what
        // is read and written.
        unsafe { sha256_blocks(state, blocks.as_ptr(), blocks.len()) }
    }
}
