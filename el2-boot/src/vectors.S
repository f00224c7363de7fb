// Exceptions to EL2, and the way back down: the whole world switch of the
// general registers.
//
// Seen from Rust, entering a world is a function call:
//
//     let vector = enter_world(&mut frame);
//
// The call loads x0 to x30, PC and PSTATE from the frame and ERETs. The next
// exception to EL2 stores them back into the same frame and *returns* from the
// call. So the policy above is a loop with ordinary functions in it, and EL2's
// stack is as it was.
//
// Both directions are context synchronisation events because SCTLR_EL2.EIS
// and EOS are 1 (bouncer sets them): system registers written before the ERET
// are in force in the world, and those the world wrote are seen here, without
// an ISB (Arm ARM D24.2, SCTLR_EL2).
//
// Offsets in a Frame (hyp::vcpu::state): x[i] at 8*i, pc at 248, pstate at 256.

    .text

// ---- down ---------------------------------------------------------------------

// x0: the frame. Keeps the procedure call standard: x19 to x30 survive.
// Stack from sp up: x29 x30 x19..x28, then at 96 the frame's address.
    .global enter_world
    .type   enter_world, %function
enter_world:
    stp     x29, x30, [sp, #-112]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [sp, #96]

    ldp     x1, x2, [x0, #248]
    msr     elr_el2, x1
    msr     spsr_el2, x2
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret
    // Nothing beyond an ERET may be executed even speculatively with the
    // world's registers.
    dsb     nsh
    isb

// ---- up -------------------------------------------------------------------------

// x0, x1: the vector's number; the world's x0 and x1 are on the stack, 16
// bytes below the call frame of enter_world.
leave_world:
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    str     x30, [x0, #240]
    ldp     x2, x3, [sp]
    stp     xzr, xzr, [sp], #16     // a guest's registers stay in its frame only
    stp     x2, x3, [x0]
    mrs     x2, elr_el2
    mrs     x3, spsr_el2
    stp     x2, x3, [x0, #248]

    mov     x0, x1
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #112
    ret

// An exception from the world: one of enter_world's return values.
    .macro  from_world number
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    ldr     x0, [sp, #112]
    mov     x1, #\number
    b       leave_world
    .endm

// An exception from EL2 itself: bouncer is broken. The stack may be the
// reason, so nothing is pushed before it is exchanged for the panic stack. No
// world is resumed, and the general registers (which may be a world's) are told
// to nobody, so they may be lost.
    .macro  from_el2 number
    .balign 0x80
    mov     x0, #\number
    b       broken
    .endm

    .balign 0x800
    .global vectors
vectors:
    from_el2 0              // with SP_EL0, which EL2 never selects
    from_el2 1
    from_el2 2
    from_el2 3
    from_el2 4              // with SP_EL2
    from_el2 5
    from_el2 6
    from_el2 7
    from_world 0            // from EL1 or EL0: synchronous
    from_world 1            // IRQ
    from_world 1            // FIQ
    from_world 2            // SError
    from_el2 12             // from AArch32 EL1, which HCR_EL2.RW rules out
    from_el2 13
    from_el2 14
    from_el2 15

// x0: vector.
broken:
    mov     x1, sp
    mrs     x2, tpidr_el2
    cbz     x2, 1f                  // no per-CPU data yet: still the boot stack
    ldr     x2, [x2]                // PerCpu::panic_stack
    mov     sp, x2
1:  b       {exception_in_el2}
