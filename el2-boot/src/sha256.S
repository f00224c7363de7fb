// SHA-256 of whole blocks with the instructions of FEAT_SHA256.
//
// EL2 is compiled without FP and SIMD, whose registers hold a world's values:
// this function leaves every one of them as it was.

.arch_extension simd
.arch_extension sha2

.pushsection .rodata.sha256, "a"
.balign 16
// FIPS 180-4, 4.2.2.
sha256_constants:
	.word 0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5
	.word 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174
	.word 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da
	.word 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967
	.word 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85
	.word 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070
	.word 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3
	.word 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
.popsection

// v4, v5: the state; v0 to v3: the next 16 words of the message schedule;
// v16 to v31: the constants. v8 and v9 are scratch.

// Four rounds with the words in \m0.
.macro four_rounds constants, m0
	add	v8.4s, \m0\().4s, \constants\().4s
	mov	v9.16b, v4.16b
	sha256h	q4, q5, v8.4s
	sha256h2 q5, q9, v8.4s
.endm

// Four rounds, and \m0 becomes the words 16 later.
.macro four_rounds_and_schedule constants, m0, m1, m2, m3
	four_rounds \constants, \m0
	sha256su0 \m0\().4s, \m1\().4s
	sha256su1 \m0\().4s, \m2\().4s, \m3\().4s
.endm

.pushsection .text.sha256_blocks, "ax"
.global sha256_blocks
// x0: the state, eight words. x1: the blocks. x2: how many, at least one.
sha256_blocks:
	sub	sp, sp, #416
	stp	q0, q1, [sp]
	stp	q2, q3, [sp, #32]
	stp	q4, q5, [sp, #64]
	stp	q6, q7, [sp, #96]
	stp	q8, q9, [sp, #128]
	stp	q16, q17, [sp, #160]
	stp	q18, q19, [sp, #192]
	stp	q20, q21, [sp, #224]
	stp	q22, q23, [sp, #256]
	stp	q24, q25, [sp, #288]
	stp	q26, q27, [sp, #320]
	stp	q28, q29, [sp, #352]
	stp	q30, q31, [sp, #384]

	adrp	x3, sha256_constants
	add	x3, x3, :lo12:sha256_constants
	ld1	{{v16.4s-v19.4s}}, [x3], #64
	ld1	{{v20.4s-v23.4s}}, [x3], #64
	ld1	{{v24.4s-v27.4s}}, [x3], #64
	ld1	{{v28.4s-v31.4s}}, [x3]
	ld1	{{v4.4s, v5.4s}}, [x0]
1:
	ld1	{{v0.16b-v3.16b}}, [x1], #64
	rev32	v0.16b, v0.16b
	rev32	v1.16b, v1.16b
	rev32	v2.16b, v2.16b
	rev32	v3.16b, v3.16b
	mov	v6.16b, v4.16b
	mov	v7.16b, v5.16b
	four_rounds_and_schedule v16, v0, v1, v2, v3
	four_rounds_and_schedule v17, v1, v2, v3, v0
	four_rounds_and_schedule v18, v2, v3, v0, v1
	four_rounds_and_schedule v19, v3, v0, v1, v2
	four_rounds_and_schedule v20, v0, v1, v2, v3
	four_rounds_and_schedule v21, v1, v2, v3, v0
	four_rounds_and_schedule v22, v2, v3, v0, v1
	four_rounds_and_schedule v23, v3, v0, v1, v2
	four_rounds_and_schedule v24, v0, v1, v2, v3
	four_rounds_and_schedule v25, v1, v2, v3, v0
	four_rounds_and_schedule v26, v2, v3, v0, v1
	four_rounds_and_schedule v27, v3, v0, v1, v2
	four_rounds v28, v0
	four_rounds v29, v1
	four_rounds v30, v2
	four_rounds v31, v3
	add	v4.4s, v4.4s, v6.4s
	add	v5.4s, v5.4s, v7.4s
	subs	x2, x2, #1
	b.ne	1b
	st1	{{v4.4s, v5.4s}}, [x0]

	ldp	q0, q1, [sp]
	ldp	q2, q3, [sp, #32]
	ldp	q4, q5, [sp, #64]
	ldp	q6, q7, [sp, #96]
	ldp	q8, q9, [sp, #128]
	ldp	q16, q17, [sp, #160]
	ldp	q18, q19, [sp, #192]
	ldp	q20, q21, [sp, #224]
	ldp	q22, q23, [sp, #256]
	ldp	q24, q25, [sp, #288]
	ldp	q26, q27, [sp, #320]
	ldp	q28, q29, [sp, #352]
	ldp	q30, q31, [sp, #384]
	// The stack keeps nothing of the world's.
	add	x3, sp, #416
2:
	stp	xzr, xzr, [sp], #16
	cmp	sp, x3
	b.lo	2b
	ret
.popsection
