// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * linux/bounce/pool.c as an ordinary program: random calls of a driver and of
 * one that is confused, a device that writes into all of its memory at any
 * time, and after each call a look at all that must hold.
 */

#include <stdio.h>

#include "pool.c"

#define REGION (128u << 10)
#define LIVE 64
#define LARGEST 12000
/* Bytes around each buffer that nobody may write. */
#define GUARD 64
#define GUARD_BYTE 0xa5

#define must(what)                                                           \
	do {                                                                 \
		if (!(what)) {                                               \
			fprintf(stderr, "step %lu: %s does not hold\n", step, #what); \
			exit(1);                                             \
		}                                                            \
	} while (0)

/* A mapping that is in use, as the test knows it. */
struct live {
	bool used;
	bool ring;
	dma_addr_t handle;
	size_t bytes;
	enum dma_data_direction dir;
	void *vaddr;
	unsigned char *buffer;	/* with guards */
	unsigned char *private;	/* what the driver has in it */
};

static struct live lives[LIVE];
static struct bounce_pool pool;
static unsigned char *region;
static dma_addr_t base;
static size_t reserved;
static unsigned long step;
static u64 state;

static u64 chance(u64 below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}

static void scribble(unsigned char *at, size_t bytes)
{
	while (bytes--)
		*at++ = chance(255) + 1;
}

static unsigned char *slots_of_live(const struct live *live)
{
	return region + (live->handle - base);
}

/* All that must hold whatever was called last. */
static void look(void)
{
	unsigned int used = 0;
	int i, j;

	for (i = 0; i < LIVE; i++) {
		const struct live *a = &lives[i];

		if (!a->used)
			continue;
		used += DIV_ROUND_UP(a->bytes, 512);
		must(a->handle >= base + reserved);
		must(a->handle - base + a->bytes <= REGION);
		for (j = 0; j < i; j++) {
			const struct live *b = &lives[j];

			must(!b->used || a->handle + a->bytes <= b->handle ||
			     b->handle + b->bytes <= a->handle);
		}
		if (a->ring)
			continue;
		/* Nothing reaches a buffer while it is mapped, nor beside it. */
		must(!memcmp(a->buffer + GUARD, a->private, a->bytes));
		for (j = 0; j < GUARD; j++) {
			must(a->buffer[j] == GUARD_BYTE);
			must(a->buffer[GUARD + a->bytes + j] == GUARD_BYTE);
		}
	}
	must(pool.used == used);
	must(pool.peak >= used);
}

static void map_one(struct live *live)
{
	static const enum dma_data_direction dirs[] = {
		DMA_TO_DEVICE, DMA_FROM_DEVICE, DMA_BIDIRECTIONAL,
	};
	u64 full = pool.full;
	size_t i;

	memset(live, 0, sizeof(*live));
	live->bytes = 1 + chance(LARGEST);
	live->ring = !chance(8);
	if (live->ring) {
		live->vaddr = bounce_pool_alloc(&pool, live->bytes, &live->handle);
		if (!live->vaddr) {
			must(pool.full == full + 1);
			return;
		}
		live->used = true;
		must(live->vaddr == slots_of_live(live));
		must(!((live->handle - base) % PAGE_SIZE));
		for (i = 0; i < live->bytes; i++)
			must(!slots_of_live(live)[i]);
		return;
	}
	live->dir = dirs[chance(3)];
	live->buffer = malloc(live->bytes + 2 * GUARD);
	live->private = malloc(live->bytes);
	memset(live->buffer, GUARD_BYTE, live->bytes + 2 * GUARD);
	scribble(live->private, live->bytes);
	memcpy(live->buffer + GUARD, live->private, live->bytes);
	live->handle = bounce_pool_map(&pool, (phys_addr_t)live->buffer + GUARD,
				       live->bytes, live->dir, true);
	if (live->handle == DMA_MAPPING_ERROR) {
		must(pool.full == full + 1);
		free(live->buffer);
		free(live->private);
		return;
	}
	live->used = true;
	for (i = 0; i < live->bytes; i++) {
		unsigned char wanted = live->private[i];

		/* The device never sees what was in a buffer that it writes. */
		if (live->dir == DMA_FROM_DEVICE)
			wanted = 0;
		must(slots_of_live(live)[i] == wanted);
	}
}

static void unmap_one(struct live *live)
{
	u64 refused = pool.refused;
	unsigned char *written;

	if (live->ring) {
		must(bounce_pool_free(&pool, live->bytes, live->vaddr, live->handle));
		live->used = false;
		must(!bounce_pool_free(&pool, live->bytes, live->vaddr, live->handle));
		must(pool.refused == refused + 1);
		return;
	}
	written = malloc(live->bytes);
	memcpy(written, slots_of_live(live), live->bytes);
	must(bounce_pool_unmap(&pool, live->handle, live->bytes, live->dir, true));
	live->used = false;
	if (live->dir != DMA_TO_DEVICE)
		memcpy(live->private, written, live->bytes);
	must(!memcmp(live->buffer + GUARD, live->private, live->bytes));
	/* Twice is once too often, and whatever the device does now is late. */
	scribble(slots_of_live(live), live->bytes);
	must(!bounce_pool_unmap(&pool, live->handle, live->bytes, live->dir, true));
	must(pool.refused == refused + 1);
	must(!memcmp(live->buffer + GUARD, live->private, live->bytes));
	free(written);
	free(live->buffer);
	free(live->private);
}

static void sync_one(struct live *live)
{
	size_t from = chance(live->bytes);
	size_t bytes = chance(live->bytes - from + 1);
	dma_addr_t handle = live->handle + from;

	if (live->ring || !bytes)
		return;
	if (chance(2)) {
		must(bounce_pool_sync(&pool, handle, bytes, live->dir, false));
		if (live->dir != DMA_TO_DEVICE)
			memcpy(live->private + from,
			       slots_of_live(live) + from, bytes);
	} else {
		must(bounce_pool_sync(&pool, handle, bytes, live->dir, true));
		if (live->dir == DMA_FROM_DEVICE)
			must(!slots_of_live(live)[from]);
		else
			must(!memcmp(slots_of_live(live) + from,
				     live->private + from, bytes));
	}
}

/* Calls that do not agree with any mapping: none does anything. */
static void confuse(struct live *live)
{
	enum dma_data_direction other =
		live->dir == DMA_TO_DEVICE ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	const dma_addr_t handles[] = {
		live->handle + 1, live->handle + 512, base - 512, base + REGION,
		base + REGION + (1ull << 40), 0, DMA_MAPPING_ERROR,
	};
	u64 refused = pool.refused;
	unsigned int i, tried = 0;

	for (i = 0; i < sizeof(handles) / sizeof(handles[0]); i++) {
		struct live *known = NULL;
		int j;

		for (j = 0; j < LIVE; j++)
			if (lives[j].used && lives[j].handle == handles[i])
				known = &lives[j];
		if (known)
			continue;
		must(!bounce_pool_unmap(&pool, handles[i], live->bytes,
					DMA_FROM_DEVICE, true));
		tried++;
	}
	if (!live->ring) {
		must(!bounce_pool_unmap(&pool, live->handle, live->bytes + 1,
					live->dir, true));
		must(!bounce_pool_unmap(&pool, live->handle, SIZE_MAX,
					live->dir, true));
		must(!bounce_pool_unmap(&pool, live->handle, live->bytes,
					other, true));
		must(!bounce_pool_sync(&pool, live->handle, live->bytes + 1,
				       live->dir, false));
		must(!bounce_pool_sync(&pool, live->handle, 1, other, false));
		tried += 5;
		/* Behind its end, where the slot is still its own. */
		for (i = live->bytes % 512; i && i < 512; i++) {
			size_t at = live->bytes - live->bytes % 512 + i;

			must(!bounce_pool_sync(&pool, live->handle + at, 1,
					       live->dir, false));
			tried++;
		}
	} else {
		must(!bounce_pool_unmap(&pool, live->handle, live->bytes,
					DMA_FROM_DEVICE, true));
		tried += 1;
	}
	must(pool.refused == refused + tried);
	/* Not counted, for they ask for nothing that can be. */
	must(!bounce_pool_unmap(&pool, live->handle, live->bytes, DMA_NONE, true));
	must(bounce_pool_map(&pool, 0, 0, DMA_TO_DEVICE, true) == DMA_MAPPING_ERROR);
	must(bounce_pool_map(&pool, 0, SIZE_MAX, DMA_TO_DEVICE, true) == DMA_MAPPING_ERROR);
	must(bounce_pool_map(&pool, 0, 1, DMA_NONE, true) == DMA_MAPPING_ERROR);
}

/*
 * The queues are gone with requests of the driver's in them. Its buffers stay
 * as they were, its rings are its own still, and nobody gives back twice.
 */
static void forget(void)
{
	unsigned int buffers = 0;
	int i;

	for (i = 0; i < LIVE; i++)
		buffers += lives[i].used && !lives[i].ring;
	look();
	must(bounce_pool_forget(&pool) == buffers);
	must(bounce_pool_forget(&pool) == 0);
	for (i = 0; i < LIVE; i++) {
		struct live *live = &lives[i];

		if (!live->used || live->ring)
			continue;
		must(!bounce_pool_unmap(&pool, live->handle, live->bytes,
					live->dir, true));
		must(!memcmp(live->buffer + GUARD, live->private, live->bytes));
		live->used = false;
		free(live->buffer);
		free(live->private);
	}
	look();
}

static void round_of(unsigned long steps)
{
	static unsigned char all[REGION];
	dma_addr_t whole;
	int i;

	for (step = 0; step < steps; step++) {
		struct live *live = &lives[chance(LIVE)];

		if (!chance(500))
			forget();
		if (!live->used)
			map_one(live);
		else if (chance(3))
			unmap_one(live);
		else if (chance(2))
			sync_one(live);
		else
			confuse(live);
		/* The device is hostile. */
		scribble(region + chance(REGION - 4096), chance(4096));
		look();
	}
	for (i = 0; i < LIVE; i++)
		if (lives[i].used)
			unmap_one(&lives[i]);
	must(!pool.used);
	must(pool.full && pool.refused);
	/* Nothing is lost. */
	whole = bounce_pool_map(&pool, (phys_addr_t)all, REGION - reserved,
				DMA_TO_DEVICE, true);
	must(whole == base + reserved);
	must(bounce_pool_unmap(&pool, whole, REGION - reserved, DMA_TO_DEVICE, true));
}

static void open_pool(dma_addr_t at, size_t kept)
{
	struct bounce_region where = {
		.phys = 0, .bytes = REGION, .dma = at, .reserved = kept,
	};

	base = at;
	reserved = kept;
	must(!bounce_pool_init(&pool, region, &where));
}

static void bad_regions(void)
{
	static const size_t sizes[] = { 0, 1, 4096, (32u << 10) - 1, 1ul << 40, SIZE_MAX };
	size_t i;

	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct bounce_region where = { .bytes = sizes[i] };

		must(bounce_pool_init(&pool, region, &where) == -EINVAL);
		where.bytes = 32u << 10;
		where.reserved = 4096;
		must(bounce_pool_init(&pool, region, &where) == -EINVAL);
	}
}

/* However small the pool, a request of the most and largest buffers fits. */
static void limits(void)
{
	size_t bytes;

	for (bytes = 32u << 10; bytes <= 256u << 20; bytes += bytes / 4 & ~4095ul) {
		struct bounce_pool some = { .slots = bytes >> 9 };
		size_t largest = bounce_pool_largest(&some);
		size_t segments = bounce_pool_segments(&some);

		must(largest >= 4096 && !(largest & (largest - 1)));
		must(segments >= 1 && largest * segments <= bytes / 2);
		must(bytes < 512u << 10 || segments >= 64);
	}
}

int main(int count, char **words)
{
	unsigned long steps = count > 1 ? strtoul(words[1], NULL, 10) : 1000;

	state = count > 2 ? strtoul(words[2], NULL, 10) : 1;
	region = aligned_alloc(PAGE_SIZE, REGION);
	scribble(region, REGION);
	bad_regions();
	limits();
	/* As a bounce BAR has it, and device memory. */
	open_pool(0x2000100000ull, 0);
	round_of(steps);
	bounce_pool_exit(&pool);
	open_pool(0, PAGE_SIZE);
	round_of(steps);
	bounce_pool_exit(&pool);
	free(region);
	printf("%lu steps held\n", 2 * steps);
	return 0;
}
