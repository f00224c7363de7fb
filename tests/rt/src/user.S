// Into a process at EL0 and back. The offsets are those of `Context` in user.rs.

// In: x0 = the process's context. Returns when it has trapped, with its
// registers and the syndrome in the context. Interrupts are masked meanwhile:
// one that came before the eret would leave its own return address in ELR_EL1.
.text
.global rt_user_enter
rt_user_enter:
    mrs     x2, daif
    msr     daifset, #15
    stp     x19, x20, [sp, #-128]!
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    mrs     x1, ttbr0_el1
    stp     x0, x1, [sp, #96]
    str     x2, [sp, #112]
    ldp     x1, x2, [x0, #248]              // stack pointer, program counter
    msr     sp_el0, x1
    msr     elr_el1, x2
    mov     x1, #0x3c0                      // EL0t, D, A, I, F masked
    msr     spsr_el1, x1
    ldr     x1, [x0, #264]                  // its tables; the kernel is in them too
    msr     ttbr0_el1, x1
    isb
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

// The vector of a synchronous exception from EL0 leads here.
.global rt_user_trap
rt_user_trap:
    stp     x0, x1, [sp, #-16]!
    ldr     x0, [sp, #112]                  // the context: 96, and the 16 above
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
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    mrs     x2, sp_el0
    stp     x30, x2, [x0, #240]
    mrs     x2, elr_el1
    str     x2, [x0, #256]
    mrs     x2, esr_el1
    mrs     x3, far_el1
    stp     x2, x3, [x0, #272]
    ldr     x2, [sp, #104]
    msr     ttbr0_el1, x2
    isb
    ldr     x3, [sp, #112]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    ldp     x19, x20, [sp], #128
    msr     daif, x3
    ret
