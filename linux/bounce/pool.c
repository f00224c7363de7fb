// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * A pool of slots in the memory that a device brings along.
 *
 * A buffer that the device is to read is copied into slots; one that it is to
 * write gets slots full of zeros, so that the device finds there nothing of
 * what was in the buffer, and the driver nothing of what was in the slots. What
 * the device wrote is copied out once, when the buffer is unmapped.
 *
 * The device may be hostile: it may rewrite every slot at any time. So nothing
 * that decides anything is read from there. Where a mapping begins and ends,
 * which way it goes and which buffer it stands for is in records of our own,
 * and what gives back a mapping must agree with them.
 */

#include <linux/bitmap.h>
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/limits.h>
#include <linux/log2.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "bounce.h"

/* Small enough for a one-byte status, large enough for few to a page. */
#define SLOT_SHIFT	9
#define SLOT_BYTES	BIT(SLOT_SHIFT)

/* Below this a disk's queue and one request do not fit. */
#define LEAST_BYTES	(32u << 10)
/* A device that claims more is not believed: the records would be too many. */
#define MOST_BYTES	(256u << 20)

/* The smallest largest mapping: what the block layer insists on. */
#define LEAST_LARGEST	4096u

static unsigned int slots_of(size_t bytes)
{
	return DIV_ROUND_UP(bytes, SLOT_BYTES);
}

static void *address_of(const struct bounce_pool *pool, unsigned int slot)
{
	return pool->base + ((size_t)slot << SLOT_SHIFT);
}

static dma_addr_t handle_of(const struct bounce_pool *pool, unsigned int slot)
{
	return pool->dma + ((dma_addr_t)slot << SLOT_SHIFT);
}

/**
 * bounce_pool_init - make a pool
 * @pool: to be filled in
 * @base: where the region is mapped
 * @region: the region
 *
 * Return: 0, -EINVAL for a region that cannot be, -ENOMEM
 */
int bounce_pool_init(struct bounce_pool *pool, void *base,
		     const struct bounce_region *region)
{
	unsigned int reserved = slots_of(region->reserved);

	if (region->bytes > MOST_BYTES ||
	    region->bytes < region->reserved + LEAST_BYTES)
		return -EINVAL;
	memset(pool, 0, sizeof(*pool));
	pool->base = base;
	pool->dma = region->dma;
	pool->slots = region->bytes >> SLOT_SHIFT;
	spin_lock_init(&pool->lock);
	pool->map = bitmap_zalloc(pool->slots, GFP_KERNEL);
	pool->records = vcalloc(pool->slots, sizeof(*pool->records));
	if (!pool->map || !pool->records) {
		bounce_pool_exit(pool);
		return -ENOMEM;
	}
	bitmap_set(pool->map, 0, reserved);
	return 0;
}

/**
 * bounce_pool_exit - undo bounce_pool_init()
 * @pool: a pool of which nothing is in use
 */
void bounce_pool_exit(struct bounce_pool *pool)
{
	bitmap_free(pool->map);
	vfree(pool->records);
	pool->map = NULL;
	pool->records = NULL;
}

/**
 * bounce_pool_forget - give back the slots of all buffers
 * @pool: a pool that nobody maps or unmaps at this time, and whose device does
 *        not use its memory any more
 *
 * What was allocated stays. Whoever gives back a forgotten buffer is refused.
 *
 * Return: how many buffers there were
 */
unsigned int bounce_pool_forget(struct bounce_pool *pool)
{
	unsigned int forgotten = 0;
	unsigned long flags;
	unsigned int at;

	spin_lock_irqsave(&pool->lock, flags);
	for (at = 0; at < pool->slots; at++) {
		struct bounce_record *record = &pool->records[at];
		unsigned int count = slots_of(record->bytes);

		if (!test_bit(at, pool->map) || record->first != at ||
		    !record->bytes || record->dir == DMA_NONE)
			continue;
		bitmap_clear(pool->map, at, count);
		record->bytes = 0;
		pool->used -= count;
		forgotten++;
	}
	spin_unlock_irqrestore(&pool->lock, flags);
	return forgotten;
}

/**
 * bounce_pool_largest - the largest buffer that should be mapped
 * @pool: the pool
 *
 * A request has several. With this, and bounce_pool_segments() of them, it
 * takes half of the pool at most: one that cannot ever fit would be tried for
 * ever.
 *
 * Return: bytes, a power of two
 */
size_t bounce_pool_largest(const struct bounce_pool *pool)
{
	size_t bytes = (size_t)pool->slots << SLOT_SHIFT;

	return max_t(size_t, LEAST_LARGEST, rounddown_pow_of_two(bytes / 128));
}

/**
 * bounce_pool_segments - how many of the largest buffers one request may have
 * @pool: the pool
 *
 * Return: 1 or more
 */
unsigned int bounce_pool_segments(const struct bounce_pool *pool)
{
	size_t half = ((size_t)pool->slots << SLOT_SHIFT) / 2;

	return max_t(size_t, 1, half / bounce_pool_largest(pool));
}

/* Takes slots for so many bytes; negative if there are not as many in a row. */
static int take(struct bounce_pool *pool, phys_addr_t phys, size_t bytes,
		enum dma_data_direction dir, unsigned long align_mask)
{
	unsigned long at, slot, flags;
	unsigned int count;

	if (!bytes || bytes > (size_t)pool->slots << SLOT_SHIFT)
		return -ENOSPC;
	count = slots_of(bytes);

	spin_lock_irqsave(&pool->lock, flags);
	/* The lowest that fit: what stays for long does not scatter. */
	at = bitmap_find_next_zero_area(pool->map, pool->slots, 0, count,
					align_mask);
	if (at >= pool->slots) {
		pool->full++;
		spin_unlock_irqrestore(&pool->lock, flags);
		return -ENOSPC;
	}
	bitmap_set(pool->map, at, count);
	for (slot = at; slot < at + count; slot++) {
		pool->records[slot].first = at;
		pool->records[slot].bytes = 0;
	}
	pool->records[at].phys = phys;
	pool->records[at].bytes = bytes;
	pool->records[at].dir = dir;
	pool->mapped++;
	pool->used += count;
	pool->peak = max(pool->peak, pool->used);
	spin_unlock_irqrestore(&pool->lock, flags);
	return at;
}

/*
 * Finds the mapping that begins at a handle and closes its record, so that
 * nobody else gets it; its slots stay taken. Negative if there is none with
 * this size and direction.
 */
static int close(struct bounce_pool *pool, dma_addr_t handle, size_t bytes,
		 enum dma_data_direction dir, phys_addr_t *phys)
{
	dma_addr_t offset = handle - pool->dma;
	dma_addr_t slot = offset >> SLOT_SHIFT;
	struct bounce_record *record;
	unsigned long flags;
	int at = -EINVAL;

	spin_lock_irqsave(&pool->lock, flags);
	if (handle >= pool->dma && slot < pool->slots &&
	    !(offset & (SLOT_BYTES - 1)) && test_bit(slot, pool->map)) {
		record = &pool->records[slot];
		if (bytes && record->first == slot && record->bytes == bytes &&
		    record->dir == dir) {
			at = slot;
			*phys = record->phys;
			record->bytes = 0;
		}
	}
	if (at < 0)
		pool->refused++;
	spin_unlock_irqrestore(&pool->lock, flags);
	return at;
}

/* Gives back the slots of a mapping that was closed. */
static void give(struct bounce_pool *pool, unsigned int at, size_t bytes)
{
	unsigned int count = slots_of(bytes);
	unsigned long flags;

	spin_lock_irqsave(&pool->lock, flags);
	bitmap_clear(pool->map, at, count);
	pool->used -= count;
	spin_unlock_irqrestore(&pool->lock, flags);
}

/* Copies between slots and a buffer, which may lie in several pages. */
static void copy(void *slots, phys_addr_t phys, size_t bytes, bool to_slots)
{
	while (bytes) {
		struct page *page = pfn_to_page(PHYS_PFN(phys));
		size_t offset = offset_in_page(phys);
		size_t step = min_t(size_t, bytes, PAGE_SIZE - offset);

		if (to_slots)
			memcpy_from_page(slots, page, offset, step);
		else
			memcpy_to_page(page, offset, slots, step);
		slots += step;
		phys += step;
		bytes -= step;
	}
}

static bool device_reads(enum dma_data_direction dir)
{
	return dir == DMA_TO_DEVICE || dir == DMA_BIDIRECTIONAL;
}

static bool device_writes(enum dma_data_direction dir)
{
	return dir == DMA_FROM_DEVICE || dir == DMA_BIDIRECTIONAL;
}

/**
 * bounce_pool_alloc - memory that driver and device both use, for a ring
 * @pool: the pool
 * @bytes: how much
 * @handle: what the device calls it
 *
 * Return: zeroed memory that begins at a page, or NULL
 */
void *bounce_pool_alloc(struct bounce_pool *pool, size_t bytes,
			dma_addr_t *handle)
{
	int at = take(pool, 0, bytes, DMA_NONE, (PAGE_SIZE >> SLOT_SHIFT) - 1);

	if (at < 0)
		return NULL;
	*handle = handle_of(pool, at);
	return memset(address_of(pool, at), 0, bytes);
}

/**
 * bounce_pool_free - give back what bounce_pool_alloc() gave
 * @pool: the pool
 * @bytes: as it was asked for
 * @vaddr: what it returned
 * @handle: what it said
 *
 * Return: false if that is not so; then nothing happened
 */
bool bounce_pool_free(struct bounce_pool *pool, size_t bytes, void *vaddr,
		      dma_addr_t handle)
{
	phys_addr_t phys;
	int at;

	if (vaddr != pool->base + (handle - pool->dma))
		return false;
	at = close(pool, handle, bytes, DMA_NONE, &phys);
	if (at < 0)
		return false;
	give(pool, at, bytes);
	return true;
}

/**
 * bounce_pool_map - slots for a buffer
 * @pool: the pool
 * @phys: the buffer
 * @bytes: its size
 * @dir: the direction
 * @copy_in: whether to copy what the device is to read
 *
 * Return: what the device calls them, or DMA_MAPPING_ERROR
 */
dma_addr_t bounce_pool_map(struct bounce_pool *pool, phys_addr_t phys,
			   size_t bytes, enum dma_data_direction dir,
			   bool copy_in)
{
	int at;

	if (!device_reads(dir) && !device_writes(dir))
		return DMA_MAPPING_ERROR;
	at = take(pool, phys, bytes, dir, 0);
	if (at < 0)
		return DMA_MAPPING_ERROR;
	if (device_reads(dir) && copy_in)
		copy(address_of(pool, at), phys, bytes, true);
	else
		memset(address_of(pool, at), 0, bytes);
	return handle_of(pool, at);
}

/**
 * bounce_pool_unmap - give back the slots of a buffer
 * @pool: the pool
 * @handle: what bounce_pool_map() returned
 * @bytes: as it was told
 * @dir: as it was told
 * @copy_out: whether to copy what the device wrote
 *
 * Return: false if there is no such mapping; then nothing happened
 */
bool bounce_pool_unmap(struct bounce_pool *pool, dma_addr_t handle,
		       size_t bytes, enum dma_data_direction dir, bool copy_out)
{
	phys_addr_t phys;
	int at;

	if (!device_reads(dir) && !device_writes(dir))
		return false;
	at = close(pool, handle, bytes, dir, &phys);
	if (at < 0)
		return false;
	if (device_writes(dir) && copy_out)
		copy(address_of(pool, at), phys, bytes, false);
	give(pool, at, bytes);
	return true;
}

/**
 * bounce_pool_sync - bring a part of a mapping up to date
 * @pool: the pool
 * @handle: where in a mapping
 * @bytes: how much of it
 * @dir: as bounce_pool_map() was told
 * @for_device: whether the device is to use it next, or the driver
 *
 * Return: false if that is not all in one mapping; then nothing happened
 */
bool bounce_pool_sync(struct bounce_pool *pool, dma_addr_t handle,
		      size_t bytes, enum dma_data_direction dir,
		      bool for_device)
{
	dma_addr_t offset = handle - pool->dma;
	struct bounce_record *record;
	unsigned long flags;
	phys_addr_t phys = 0;
	bool good = false;
	size_t skipped;

	spin_lock_irqsave(&pool->lock, flags);
	if (handle >= pool->dma && offset >> SLOT_SHIFT < pool->slots &&
	    test_bit(offset >> SLOT_SHIFT, pool->map)) {
		record = &pool->records[offset >> SLOT_SHIFT];
		skipped = offset - ((size_t)record->first << SLOT_SHIFT);
		record = &pool->records[record->first];
		good = record->dir == dir && dir != DMA_NONE &&
		       skipped <= record->bytes &&
		       bytes <= record->bytes - skipped;
		phys = record->phys + skipped;
	}
	if (!good)
		pool->refused++;
	spin_unlock_irqrestore(&pool->lock, flags);
	if (!good)
		return false;

	if (for_device && device_reads(dir))
		copy(pool->base + offset, phys, bytes, true);
	else if (for_device)
		memset(pool->base + offset, 0, bytes);
	else if (device_writes(dir))
		copy(pool->base + offset, phys, bytes, false);
	return true;
}
