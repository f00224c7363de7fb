// The last instructions of a CPU in bouncer. Nothing here uses a stack: by now
// it is wiped, or about to be.

// V0 to V31 and their control registers.
    .macro  forget_vectors
    .arch_extension fp
    .arch_extension simd
    .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movi    d\n, #0                // and the upper half
    .endr
    .irp    n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    movi    d\n, #0
    .endr
    msr     fpcr, xzr
    msr     fpsr, xzr
    .endm

// x1 to x30.
    .macro  forget_general
    .irp    n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    mov     x\n, xzr
    .endr
    .irp    n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
    mov     x\n, xzr
    .endr
    .endm

// \from to \to, in words of 16 bytes, then cleaned to memory by lines of x5
// bytes; spoils x6.
    .macro  wipe from, to
    mov     x6, \from
1:  cmp     x6, \to
    b.hs    2f
    stp     xzr, xzr, [x6], #16
    b       1b
2:  cmp     \from, \to
    b.hs    3f
    dc      cvac, \from
    add     \from, \from, x5
    b       2b
3:
    .endm

    .text

// park_cpu(x0: where to say so). Once it has been said the CPU touches no
// memory.
    .global park_cpu
park_cpu:
    forget_vectors
    mov     w1, #1
    stlrb   w1, [x0]
    mov     x0, xzr
    forget_general
1:  wfe
    b       1b

// last_words(x0: function of the firmware's, x1, x2: the CPU's stack, x3, x4:
// its panic stack, x5: bytes of a cache line)
    .global last_words
last_words:
    wipe    x1, x2
    wipe    x3, x4
    dsb     sy
    forget_vectors
    forget_general
    smc     #0
1:  wfe
    b       1b
