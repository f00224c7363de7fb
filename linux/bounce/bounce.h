/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * virtio devices whose DMA stays in memory that they bring along.
 *
 * Three parts: region.c finds such memory, pool.c gives out pieces of it and
 * copies, main.c makes a virtio device use it.
 */
#ifndef VIRTIO_BOUNCE_H
#define VIRTIO_BOUNCE_H

#include <linux/dma-direction.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct pci_dev;
struct virtio_device;

/**
 * struct bounce_region - memory that a device brings along
 * @phys: where this kernel finds it
 * @bytes: how much it is
 * @dma: what the device calls its first byte
 * @reserved: bytes at its start that are never used
 */
struct bounce_region {
	phys_addr_t phys;
	size_t bytes;
	dma_addr_t dma;
	size_t reserved;
};

/**
 * struct bounce_kind - one way in which a device says that it has such memory
 * @name: for people
 * @feature: the feature bit that goes with it
 * @find: fills in the region; -ENOENT if the device names none, another error
 *        if it names one that cannot be
 */
struct bounce_kind {
	const char *name;
	unsigned int feature;
	int (*find)(struct virtio_device *vdev, struct pci_dev *pdev,
		    struct bounce_region *region);
};

extern const struct bounce_kind bounce_kinds[];
extern const unsigned int bounce_kind_count;

/**
 * struct bounce_record - what is known of a slot that is in use
 * @phys: the buffer that was mapped; of the first slot only
 * @bytes: the size of the mapping; of the first slot only, and 0 from the
 *         moment it is taken down
 * @first: the first slot of its mapping
 * @dir: the direction; DMA_NONE for memory that was allocated
 *
 * The records are this kernel's own. The device sees the slots, which it may
 * rewrite at any time, and never these.
 */
struct bounce_record {
	phys_addr_t phys;
	u32 bytes;
	u32 first;
	enum dma_data_direction dir;
};

/**
 * struct bounce_pool - slots of a region
 * @base: the region's first byte, mapped write-back
 * @dma: what the device calls it
 * @slots: number of slots
 * @lock: protects what follows
 * @used: slots in use, without the reserved ones
 * @peak: most that ever were
 * @mapped: buffers mapped so far
 * @full: times that there was no room
 * @refused: times that somebody gave back, or asked about, what was not his
 * @map: a bit for each slot that is in use or reserved
 * @records: one for each slot
 */
struct bounce_pool {
	void *base;
	dma_addr_t dma;
	unsigned int slots;

	/* Protects all below. */
	spinlock_t lock;
	unsigned int used;
	unsigned int peak;
	u64 mapped;
	u64 full;
	u64 refused;
	unsigned long *map;
	struct bounce_record *records;
};

int bounce_pool_init(struct bounce_pool *pool, void *base,
		     const struct bounce_region *region);
void bounce_pool_exit(struct bounce_pool *pool);
unsigned int bounce_pool_forget(struct bounce_pool *pool);
size_t bounce_pool_largest(const struct bounce_pool *pool);
unsigned int bounce_pool_segments(const struct bounce_pool *pool);

void *bounce_pool_alloc(struct bounce_pool *pool, size_t bytes,
			dma_addr_t *handle);
bool bounce_pool_free(struct bounce_pool *pool, size_t bytes, void *vaddr,
		      dma_addr_t handle);
dma_addr_t bounce_pool_map(struct bounce_pool *pool, phys_addr_t phys,
			   size_t bytes, enum dma_data_direction dir,
			   bool copy_in);
bool bounce_pool_unmap(struct bounce_pool *pool, dma_addr_t handle,
		       size_t bytes, enum dma_data_direction dir, bool copy_out);
bool bounce_pool_sync(struct bounce_pool *pool, dma_addr_t handle,
		      size_t bytes, enum dma_data_direction dir,
		      bool for_device);

#endif
