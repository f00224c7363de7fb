// Exception vectors of a payload. It runs at EL1 with its own stack pointer,
// and its processes at EL0 with interrupts masked: of the sixteen the others
// end in a panic.

.macro save
    sub     sp, sp, #288
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x0, elr_el1
    stp     x30, x0, [sp, #240]
    mrs     x0, spsr_el1
    mrs     x1, esr_el1
    stp     x0, x1, [sp, #256]
    mrs     x0, far_el1
    str     x0, [sp, #272]
    mov     x0, sp
.endm

.macro vector handler
    .balign 128
    b       \handler
.endm

.text
.balign 2048
rt_vectors:
    .rept 4
    vector  enter_unexpected
    .endr
    vector  enter_sync
    vector  enter_irq
    vector  enter_unexpected
    vector  enter_unexpected
    vector  rt_user_trap
    .rept 7
    vector  enter_unexpected
    .endr

enter_sync:
    save
    bl      rt_sync
    b       leave

enter_irq:
    save
    bl      rt_irq
    b       leave

enter_unexpected:
    save
    bl      rt_unexpected

leave:
    ldp     x30, x0, [sp, #240]
    msr     elr_el1, x0
    ldr     x0, [sp, #256]
    msr     spsr_el1, x0
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp, #0]
    add     sp, sp, #288
    eret
