/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What linux/bounce/pool.c needs of the kernel, for an ordinary program. A
 * physical address is a pointer; a page is the memory at its address.
 */
#ifndef SHIM_H
#define SHIM_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EINVAL 22
#define ENOMEM 12
#define ENOSPC 28
#define GFP_KERNEL 0
#define PAGE_SIZE 4096ul
#define DMA_MAPPING_ERROR (~(dma_addr_t)0)

typedef uint32_t u32;
typedef uint64_t u64;
typedef uint64_t phys_addr_t;
typedef uint64_t dma_addr_t;
typedef struct { int held; } spinlock_t;

enum dma_data_direction {
	DMA_BIDIRECTIONAL = 0,
	DMA_TO_DEVICE = 1,
	DMA_FROM_DEVICE = 2,
	DMA_NONE = 3,
};

struct page;

#define BIT(n) (1ul << (n))
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define min_t(type, a, b) ((type)(a) < (type)(b) ? (type)(a) : (type)(b))
#define max_t(type, a, b) ((type)(a) > (type)(b) ? (type)(a) : (type)(b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define offset_in_page(address) ((address) & (PAGE_SIZE - 1))
#define PHYS_PFN(address) ((address) >> 12)

/* One thread: a lock that is taken twice, or not given back, is a mistake. */
#define spin_lock_init(lock) ((lock)->held = 0)
#define spin_lock_irqsave(lock, flags) \
	do { (flags) = 0; if ((lock)->held++) abort(); } while (0)
#define spin_unlock_irqrestore(lock, flags) \
	do { (void)(flags); if (--(lock)->held) abort(); } while (0)

static inline struct page *pfn_to_page(uint64_t pfn)
{
	return (struct page *)(pfn << 12);
}

static inline void memcpy_from_page(void *to, struct page *page, size_t offset,
				    size_t bytes)
{
	if (offset + bytes > PAGE_SIZE)
		abort();
	memcpy(to, (char *)page + offset, bytes);
}

static inline void memcpy_to_page(struct page *page, size_t offset,
				  const void *from, size_t bytes)
{
	if (offset + bytes > PAGE_SIZE)
		abort();
	memcpy((char *)page + offset, from, bytes);
}

static inline size_t rounddown_pow_of_two(size_t n)
{
	return 1ul << (63 - __builtin_clzl(n));
}

#define vcalloc(n, size) calloc(n, size)
#define vfree(p) free(p)

#define WORD(n) ((n) / 64)
#define bitmap_zalloc(bits, gfp) calloc(DIV_ROUND_UP(bits, 64), 8)
#define bitmap_free(map) free(map)

static inline bool test_bit(unsigned long n, const unsigned long *map)
{
	return map[WORD(n)] >> (n % 64) & 1;
}

static inline void bitmap_set(unsigned long *map, unsigned int at,
			      unsigned int count)
{
	for (; count--; at++)
		map[WORD(at)] |= 1ul << (at % 64);
}

static inline void bitmap_clear(unsigned long *map, unsigned int at,
				unsigned int count)
{
	for (; count--; at++)
		map[WORD(at)] &= ~(1ul << (at % 64));
}

static inline unsigned long
bitmap_find_next_zero_area(const unsigned long *map, unsigned long bits,
			   unsigned long at, unsigned int count,
			   unsigned long align_mask)
{
	unsigned int i;

	for (;; at++) {
		at = (at + align_mask) & ~align_mask;
		if (at + count > bits)
			return bits + 1;
		for (i = 0; i < count && !test_bit(at + i, map); i++)
			;
		if (i == count)
			return at;
	}
}

#endif
