// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * How a virtio-pci device says that it brings its own memory along. There are
 * two ways, neither in a released specification; each is one description here.
 */

#include <linux/io.h>
#include <linux/pci.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "bounce.h"

/*
 * "bounce-bar": the virtio RFC of 2025 (VIRTIO_F_SWIOTLB). Addresses are
 * those of the BAR. Bit 27 was ANY_LAYOUT in legacy devices, so it counts only
 * together with VERSION_1 and the capability.
 */
#define FEATURE_SWIOTLB		27
#define CAP_SWIOTLB		10

/*
 * "device-memory": the proposal of August 2026 (VIRTIO_F_DMB). The region is
 * ordinary shared memory, the common configuration says which. Addresses are
 * offsets into it; 0 is none, so its first page is not used.
 */
#define FEATURE_DMB		44
#define COMMON_DMB_SHM_ID	0x40
/*
 * Of the second version of the patches: what memory it is. Only "coherent" can
 * be mapped as this module does; the number is bouncer's, none is published.
 */
#define COMMON_DMB_TYPE		0x42
#define DMB_COHERENT		1

/* More do not fit into a configuration space; a list may run in a circle. */
#define MOST_CAPABILITIES	48

/* A place in a BAR, as a capability tells it. */
struct place {
	u8 bar;
	u64 offset;
	u64 length;
};

/*
 * Finds the virtio capability of a type and, if not negative, with an id. A
 * hostile host writes it: each field is read once, and the place is inside the
 * BAR or it is not believed.
 */
static int find_capability(struct pci_dev *pdev, u8 type, int id,
			   struct place *place)
{
	u8 at = pci_find_capability(pdev, PCI_CAP_ID_VNDR);
	unsigned int left = MOST_CAPABILITIES;
	u8 length, is, number;
	u64 size;
	u32 word;

	for (; at && left--; at = pci_find_next_capability(pdev, at, PCI_CAP_ID_VNDR)) {
		pci_read_config_byte(pdev, at + offsetof(struct virtio_pci_cap, cap_len),
				     &length);
		pci_read_config_byte(pdev, at + offsetof(struct virtio_pci_cap, cfg_type),
				     &is);
		pci_read_config_byte(pdev, at + offsetof(struct virtio_pci_cap, id),
				     &number);
		if (is != type || length < sizeof(struct virtio_pci_cap) ||
		    (id >= 0 && number != id))
			continue;

		pci_read_config_byte(pdev, at + offsetof(struct virtio_pci_cap, bar),
				     &place->bar);
		pci_read_config_dword(pdev, at + offsetof(struct virtio_pci_cap, offset),
				      &word);
		place->offset = word;
		pci_read_config_dword(pdev, at + offsetof(struct virtio_pci_cap, length),
				      &word);
		place->length = word;
		if (length >= sizeof(struct virtio_pci_cap64)) {
			pci_read_config_dword(pdev,
					      at + offsetof(struct virtio_pci_cap64, offset_hi),
					      &word);
			place->offset |= (u64)word << 32;
			pci_read_config_dword(pdev,
					      at + offsetof(struct virtio_pci_cap64, length_hi),
					      &word);
			place->length |= (u64)word << 32;
		}
		if (place->bar >= PCI_STD_NUM_BARS ||
		    !(pci_resource_flags(pdev, place->bar) & IORESOURCE_MEM) ||
		    pci_resource_flags(pdev, place->bar) & IORESOURCE_UNSET)
			return -EINVAL;
		size = pci_resource_len(pdev, place->bar);
		if (!place->length || place->offset > size ||
		    place->length > size - place->offset)
			return -EINVAL;
		return 0;
	}
	return -ENOENT;
}

/* It is mapped by pages, and shared by pages. */
static int fill(struct pci_dev *pdev, const struct place *place,
		struct bounce_region *region)
{
	region->phys = pci_resource_start(pdev, place->bar) + place->offset;
	region->bytes = place->length;
	if (region->bytes != place->length ||
	    !PAGE_ALIGNED(region->phys) || !PAGE_ALIGNED(region->bytes))
		return -EINVAL;
	return 0;
}

static int find_bounce_bar(struct virtio_device *vdev, struct pci_dev *pdev,
			   struct bounce_region *region)
{
	struct place place;
	int err = find_capability(pdev, CAP_SWIOTLB, -1, &place);

	if (!err)
		err = fill(pdev, &place, region);
	if (err)
		return err;
	region->dma = pci_bus_address(pdev, place.bar) + place.offset;
	region->reserved = 0;
	return 0;
}

/* A field of 16 bits in the common configuration; negative if it is not there. */
static int read_common(struct pci_dev *pdev, const struct place *common,
		       unsigned int at)
{
	void __iomem *field;
	u16 value;

	if (common->length < at + sizeof(__le16))
		return -EINVAL;
	field = pci_iomap_range(pdev, common->bar, common->offset + at,
				sizeof(__le16));
	if (!field)
		return -ENOMEM;
	value = ioread16(field);
	pci_iounmap(pdev, field);
	return value;
}

static int find_device_memory(struct virtio_device *vdev, struct pci_dev *pdev,
			      struct bounce_region *region)
{
	struct place common, place;
	int err, id, type;

	err = find_capability(pdev, VIRTIO_PCI_CAP_COMMON_CFG, -1, &common);
	if (err)
		return err;
	id = read_common(pdev, &common, COMMON_DMB_SHM_ID);
	if (id < 0)
		return id;
	/* The first version of the patches has no type, and means this one. */
	type = read_common(pdev, &common, COMMON_DMB_TYPE);
	if (id > U8_MAX || (type >= 0 && type != DMB_COHERENT))
		return -EINVAL;

	err = find_capability(pdev, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, id, &place);
	if (!err)
		err = fill(pdev, &place, region);
	if (err)
		return err;
	region->dma = 0;
	region->reserved = PAGE_SIZE;
	return 0;
}

const struct bounce_kind bounce_kinds[] = {
	{ "bounce-bar", FEATURE_SWIOTLB, find_bounce_bar },
	{ "device-memory", FEATURE_DMB, find_device_memory },
};

const unsigned int bounce_kind_count = ARRAY_SIZE(bounce_kinds);
