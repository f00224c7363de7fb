//! FP and SIMD registers. EL2 is compiled without them (softfloat), so they
//! hold a world's values whenever EL2 runs.
#![allow(unsafe_code)]

use core::arch::asm;
use hyp::vcpu::state::FpState;

macro_rules! all_registers {
    ($instruction:literal) => {
        concat!(
            ".arch_extension fp\n.arch_extension simd\n",
            $instruction, " q0, q1, [{v}]\n",
            $instruction, " q2, q3, [{v}, #32]\n",
            $instruction, " q4, q5, [{v}, #64]\n",
            $instruction, " q6, q7, [{v}, #96]\n",
            $instruction, " q8, q9, [{v}, #128]\n",
            $instruction, " q10, q11, [{v}, #160]\n",
            $instruction, " q12, q13, [{v}, #192]\n",
            $instruction, " q14, q15, [{v}, #224]\n",
            $instruction, " q16, q17, [{v}, #256]\n",
            $instruction, " q18, q19, [{v}, #288]\n",
            $instruction, " q20, q21, [{v}, #320]\n",
            $instruction, " q22, q23, [{v}, #352]\n",
            $instruction, " q24, q25, [{v}, #384]\n",
            $instruction, " q26, q27, [{v}, #416]\n",
            $instruction, " q28, q29, [{v}, #448]\n",
            $instruction, " q30, q31, [{v}, #480]\n",
        )
    };
}

/// Stores the current world's registers.
///
/// # Safety
/// CPTR_EL2 must not trap FP.
pub(super) unsafe fn save(state: &mut FpState) {
    // SAFETY: V0 to V31 are the first 512 bytes of `state`, which is 16-byte
    // aligned (repr(C, align(16))).
    unsafe {
        asm!(
            all_registers!("stp"),
            "mrs {fpcr}, fpcr",
            "mrs {fpsr}, fpsr",
            v = in(reg) &raw mut state.v, fpcr = out(reg) state.fpcr, fpsr = out(reg) state.fpsr,
            options(nostack, preserves_flags)
        );
    }
}

/// Loads them.
///
/// # Safety
/// As [`save`]; `state` must be that of the world that is entered next.
pub(super) unsafe fn restore(state: &FpState) {
    // SAFETY: as in `save`; Rust code at EL2 uses no FP register.
    unsafe {
        asm!(
            all_registers!("ldp"),
            "msr fpcr, {fpcr}",
            "msr fpsr, {fpsr}",
            v = in(reg) &raw const state.v, fpcr = in(reg) state.fpcr, fpsr = in(reg) state.fpsr,
            options(nostack, preserves_flags)
        );
    }
}
