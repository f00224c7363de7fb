// Entry of a payload, from the arm64 boot protocol to Rust.
// In: EL1, MMU off, x0 = physical address of the device tree.

.section .head, "ax"
.global _start
_start:
    b       boot_cpu                        // code0
    .word   0                               // code1
    .quad   0                               // text_offset: any 2 MiB boundary
    .quad   __image_size                    // image_size, bss included
    .quad   0xa                             // little endian, 4 KiB pages, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0

.text
boot_cpu:
    msr     daifset, #15
    mov     x20, x0

    // What is written below with the MMU off must not hide behind lines that
    // somebody's caches hold of this memory: drop them before and after.
    bl      invalidate_image

    adrp    x0, __bss_start
    add     x0, x0, :lo12:__bss_start
    adrp    x1, __bss_end
    add     x1, x1, :lo12:__bss_end
0:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    0b

    // Relative relocations: *(base + offset) = base + addend.
    adrp    x0, __image_start
    add     x0, x0, :lo12:__image_start
    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
1:  cmp     x1, x2
    b.hs    2f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     w4, #1027                       // R_AARCH64_RELATIVE
    b.ne    1b
    add     x5, x5, x0
    str     x5, [x0, x3]
    b       1b

    // Root table: 0..1 GiB Device, 1..128 GiB Normal write-back. The rest is
    // mapped on request (mmu.rs).
2:  adrp    x0, rt_root_table
    add     x0, x0, :lo12:rt_root_table
    ldr     x1, =(0x405 | (3 << 53))        // block, AF, attribute 1, PXN, UXN
    str     x1, [x0]
    ldr     x2, =(0x701 | (1 << 54))        // block, AF, inner shareable, attribute 0, UXN
    mov     x3, #1
3:  orr     x4, x2, x3, lsl #30             // entry n maps gigabyte n
    str     x4, [x0, x3, lsl #3]
    add     x3, x3, #1
    cmp     x3, #128
    b.lo    3b

    bl      invalidate_image
    mov     x0, #0                          // CPU 0
    bl      cpu_setup
    mov     x0, x20
    bl      rt_main
4:  wfi
    b       4b

// PSCI CPU_ON lands here. In: EL1, MMU off, x0 = index of the CPU.
.global rt_secondary_entry
rt_secondary_entry:
    msr     daifset, #15
    mov     x20, x0
    bl      cpu_setup
    mov     x0, x20
    bl      rt_secondary_main
5:  wfi
    b       5b

// Invalidates the data cache over the image, bss included. Clobbers x0-x3.
invalidate_image:
    adrp    x0, __image_start
    add     x0, x0, :lo12:__image_start
    adrp    x1, __image_end
    add     x1, x1, :lo12:__image_end
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4                 // DminLine, log2 of words
    mov     x3, #4
    lsl     x3, x3, x2
    dmb     sy
6:  dc      ivac, x0
    add     x0, x0, x3
    cmp     x0, x1
    b.lo    6b
    dsb     sy
    ret

// Stack, vectors, FP, MMU and caches of CPU x0. Clobbers x0-x2.
cpu_setup:
    msr     tpidr_el1, x0
    adrp    x1, rt_stacks
    add     x1, x1, :lo12:rt_stacks
    add     x2, x0, #1
    add     x1, x1, x2, lsl #16             // STACK_SIZE is 64 KiB
    mov     sp, x1
    adrp    x1, rt_vectors
    add     x1, x1, :lo12:rt_vectors
    msr     vbar_el1, x1
    mov     x1, #(3 << 20)
    msr     cpacr_el1, x1                   // FP/SIMD does not trap
    ldr     x1, =0x004404ff                 // 0 write-back, 1 nGnRE, 2 non-cacheable, 3 nGnRnE
    msr     mair_el1, x1
    ldr     x1, =(25 | (1 << 8) | (1 << 10) | (3 << 12) | (1 << 23) | (2 << 32))
    msr     tcr_el1, x1                     // 39 bits, 4 KiB, WB inner shareable, no TTBR1, 40-bit PA
    adrp    x1, rt_root_table
    add     x1, x1, :lo12:rt_root_table
    msr     ttbr0_el1, x1
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x1, =0x30d0180d                 // RES1, M, C, SA, I
    msr     sctlr_el1, x1
    isb
    ret
