.arch_extension fp
.arch_extension simd

// Loads V0 to V31 from x0.
.global fp_load
fp_load:
    ldp     q0, q1, [x0, #0]
    ldp     q2, q3, [x0, #32]
    ldp     q4, q5, [x0, #64]
    ldp     q6, q7, [x0, #96]
    ldp     q8, q9, [x0, #128]
    ldp     q10, q11, [x0, #160]
    ldp     q12, q13, [x0, #192]
    ldp     q14, q15, [x0, #224]
    ldp     q16, q17, [x0, #256]
    ldp     q18, q19, [x0, #288]
    ldp     q20, q21, [x0, #320]
    ldp     q22, q23, [x0, #352]
    ldp     q24, q25, [x0, #384]
    ldp     q26, q27, [x0, #416]
    ldp     q28, q29, [x0, #448]
    ldp     q30, q31, [x0, #480]
    ret

// Stores V0 to V31 to x0.
.global fp_store
fp_store:
    stp     q0, q1, [x0, #0]
    stp     q2, q3, [x0, #32]
    stp     q4, q5, [x0, #64]
    stp     q6, q7, [x0, #96]
    stp     q8, q9, [x0, #128]
    stp     q10, q11, [x0, #160]
    stp     q12, q13, [x0, #192]
    stp     q14, q15, [x0, #224]
    stp     q16, q17, [x0, #256]
    stp     q18, q19, [x0, #288]
    stp     q20, q21, [x0, #320]
    stp     q22, q23, [x0, #352]
    stp     q24, q25, [x0, #384]
    stp     q26, q27, [x0, #416]
    stp     q28, q29, [x0, #448]
    stp     q30, q31, [x0, #480]
    ret

// hold_in_registers(x0 = low word, x1 = high word, x2 = counter value to stop
// at, x3 = wait by WFI rather than spin) -> x0 = 0 if x19 to x28 still hold
// the words at the end. Interrupts are taken meanwhile.
.global hold_in_registers
hold_in_registers:
    stp     x19, x20, [sp, #-96]!
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    mov     x19, x0
    mov     x20, x1
    mov     x21, x0
    mov     x22, x1
    mov     x23, x0
    mov     x24, x1
    mov     x25, x0
    mov     x26, x1
    mov     x27, x0
    mov     x28, x1
0:  isb
    mrs     x4, cntvct_el0
    cmp     x4, x2
    b.hs    1f
    cbz     x3, 0b
    wfi
    b       0b
1:  eor     x5, x19, x0
    eor     x6, x20, x1
    orr     x5, x5, x6
    eor     x6, x21, x0
    orr     x5, x5, x6
    eor     x6, x22, x1
    orr     x5, x5, x6
    eor     x6, x23, x0
    orr     x5, x5, x6
    eor     x6, x24, x1
    orr     x5, x5, x6
    eor     x6, x25, x0
    orr     x5, x5, x6
    eor     x6, x26, x1
    orr     x5, x5, x6
    eor     x6, x27, x0
    orr     x5, x5, x6
    eor     x6, x28, x1
    orr     x0, x5, x6
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    ldp     x19, x20, [sp], #96
    ret
