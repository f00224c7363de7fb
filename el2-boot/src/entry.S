// First instructions of bouncer.
//
// Rust needs memory that behaves: atomics are undefined with the MMU off
// (Arm ARM B2.2.1), so everything up to "MMU and caches on" is assembly. It is
// short because it does only that: find out where we are, relocate, clear
// .bss, map what Rust will touch first, switch on.
//
// Register use until Rust: x20 device tree, x21 address of the image.

// ---- the Image header (Linux, Documentation/arch/arm64/booting) -------------

    .section .head, "ax"
    .global _start
_start:
    b       primary_entry
    .long   0
    .quad   0                       // text_offset: at any 2 MiB boundary
    .quad   _image_size             // .bss included
    .quad   0xa                     // little endian, 4 KiB pages, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

// ---- the boot CPU -------------------------------------------------------------

    .text
primary_entry:
    msr     daifset, #0xf
    msr     spsel, #1               // the boot protocol does not say which
    mov     x20, x0
    adrp    x21, _image_start
    mrs     x0, CurrentEL
    cmp     x0, #(2 << 2)
    b.ne    wrong_exception_level
    bl      reset_el2
    // Some CPUs have no EL2 without the host extensions: HCR_EL2.E2H is RES1
    // (FEAT_E2H0 not implemented; ID_AA64MMFR4_EL1.E2H0 says so on most of
    // them). The bit itself never lies. EL2's registers would have other
    // layouts, so this is the last moment to say anything.
    mrs     x0, hcr_el2
    tbnz    x0, #34, host_extensions_only

    // Relocate: every pointer in the image was linked for address 0.
    adrp    x0, _rela_start
    add     x0, x0, :lo12:_rela_start
    adrp    x1, _rela_end
    add     x1, x1, :lo12:_rela_end
1:  cmp     x0, x1
    b.hs    2f
    ldp     x2, x3, [x0], #16       // place, type
    ldr     x4, [x0], #8            // addend
    cmp     w3, #1027               // R_AARCH64_RELATIVE
    b.ne    1b
    add     x4, x4, x21
    str     x4, [x21, x2]
    b       1b

2:  adrp    x0, _bss_start
    add     x0, x0, :lo12:_bss_start
    adrp    x1, _bss_end
3:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    3b

    // First map: blocks of 1 GiB, VA = PA, enough for the image, the device
    // tree and the UART. Replaced once Rust knows the machine.
    adrp    x0, early_table
    ldr     x1, ={EARLY_DEVICE}
    str     x1, [x0]
    mov     x2, x21
    bl      map_early_gib
    adrp    x2, _image_end
    bl      map_early_gib
    mov     x2, x20
    bl      map_early_gib
    add     x2, x20, #0x200, lsl #12    // a tree is at most 2 MiB long
    bl      map_early_gib

    // What was written so far went around the caches; lines that were fetched
    // before would hide it once they are on.
    mrs     x0, ctr_el0
    ubfx    x0, x0, #16, #4
    mov     x3, #4
    lsl     x3, x3, x0              // bytes of the smallest data cache line
    mov     x0, x21
    adrp    x1, _image_end
4:  dc      ivac, x0
    add     x0, x0, x3
    cmp     x0, x1
    b.lo    4b
    dsb     sy

    adrp    x0, early_table
    ldr     x1, ={SCTLR_EARLY}
    bl      enable_mmu

    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el2, x0
    msr     tpidr_el2, xzr          // no per-CPU data yet
    adrp    x0, boot_stack_top
    mov     sp, x0
    isb
    mov     x0, x20
    mov     x1, x21
    mov     x29, xzr
    mov     x30, xzr
    b       {boot_main}

// x0: early table, x2: address. GiB 0 is devices; the tree pointer may be
// nonsense and is then refused later, in Rust, with a message.
map_early_gib:
    lsr     x3, x2, #30
    cbz     x3, 1f
    cmp     x3, #512
    b.hs    1f
    lsl     x4, x3, #30
    ldr     x5, ={EARLY_NORMAL}
    orr     x4, x4, x5
    str     x4, [x0, x3, lsl #3]
1:  ret

// A known state of what decides how EL2 itself behaves, whatever was here
// before. PSTATE.SP is the entry's own business: exceptions to EL2 always
// select SP_EL2 (Arm ARM D1.3.2), so running on SP_EL0 would be found out by
// the first of them. HCR_EL2 first: with E2H set other registers would have
// other layouts. The registers that newer CPUs have more of control EL2, too.
reset_el2:
    mov     x0, #(1 << 31)          // RW: EL1 is AArch64
    msr     hcr_el2, x0
    isb
    ldr     x0, ={SCTLR_OFF}
    msr     sctlr_el2, x0
    mrs     x0, s3_0_c0_c7_3        // ID_AA64MMFR3_EL1, zero if it is older
    tst     x0, #0xf << 4           // SCTLRX
    b.eq    1f
    msr     s3_4_c1_c0_3, xzr       // SCTLR2_EL2
1:  tst     x0, #0xf                // TCRX
    b.eq    2f
    msr     s3_4_c2_c0_3, xzr       // TCR2_EL2
2:  msr     cnthp_ctl_el2, xzr      // no timer of EL2's runs before it is wanted
    isb
    ret

// x0: translation table, x1: SCTLR_EL2. Code runs where it is mapped to.
enable_mmu:
    ldr     x2, ={MAIR}
    msr     mair_el2, x2
    ldr     x2, ={TCR}
    mrs     x3, id_aa64mmfr0_el1
    and     x3, x3, #0xf            // PARange
    mov     x4, #5                  // 48 bits: more need a larger granule
    cmp     x3, x4
    csel    x3, x3, x4, lo
    orr     x2, x2, x3, lsl #16     // PS
    msr     tcr_el2, x2
    msr     ttbr0_el2, x0
    isb
    tlbi    alle2
    ic      iallu
    dsb     nsh
    isb
    msr     sctlr_el2, x1
    isb
    ret

// x0: final table, x1: stack, x2: argument, x3: function. The MMU is off in
// between: the same addresses mapped by blocks and by pages at once could
// conflict in a TLB (Arm ARM D8.16.3).
    .global switch_map
switch_map:
    mov     x20, x2
    mov     x21, x3
    mov     sp, x1
    ldr     x4, ={SCTLR_OFF}
    dsb     sy
    msr     sctlr_el2, x4
    isb
    ldr     x1, ={SCTLR_FINAL}
    bl      enable_mmu
    mov     x0, x20
    mov     x29, xzr
    mov     x30, xzr
    br      x21

// ---- every other CPU, and a CPU that was off ---------------------------------

// PSCI CPU_ON enters here with the MMU off. x0: this CPU's `Start`, which the
// boot CPU has cleaned to memory; it is constant from then on.
    .global secondary_entry
secondary_entry:
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x20, x0
    bl      reset_el2
    ldr     x0, [x20]               // Start::root
    ldr     x1, ={SCTLR_FINAL}
    bl      enable_mmu
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el2, x0
    ldp     x1, x2, [x20, #8]       // Start::stack, Start::per_cpu
    mov     sp, x1
    msr     tpidr_el2, x2
    isb
    mov     x29, xzr
    mov     x30, xzr
    b       {secondary_main}

// ---- not at EL2 -----------------------------------------------------------------

// bouncer cannot run here. The UART of the board is all there is to say so.
wrong_exception_level:
    adr     x2, 9f
    bl      say
    cmp     x0, #(1 << 2)
    b.ne    3f
    // At EL1 without an EL2, QEMU's PSCI is called by HVC: SYSTEM_OFF.
    ldr     x0, =0x84000008
    hvc     #0
3:  wfe
    b       3b

host_extensions_only:
    adr     x2, 8f
    bl      say
    ldr     x0, =0x84000008
    smc     #0
4:  wfe
    b       4b

// Prints the string at x2, with the MMU off. Clobbers x1 to x3.
say:
    ldr     x1, ={EARLY_UART}
    mov     w3, #0x101              // UARTEN and TXE
    str     w3, [x1, #0x30]         // UARTCR
1:  ldrb    w3, [x2], #1
    cbz     w3, 2f
    str     w3, [x1]
    b       1b
2:  ret
8:  .asciz  "bouncer: error: this CPU's EL2 has no E2H = 0 (FEAT_E2H0): bouncer needs that\r\n"
9:  .asciz  "bouncer: error: not started at EL2: use -machine virt,virtualization=on\r\n"

    .balign 8
    .ltorg

    .section .bss.early, "aw", %nobits
    .balign 4096
    .global early_table
early_table:
    .skip   4096
    .skip   {BOOT_STACK}
boot_stack_top:
