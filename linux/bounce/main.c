// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Makes the kernel's own virtio drivers use the memory that a device brings
 * along.
 *
 * A device that insists on this is refused by virtio-pci, which does not know
 * the feature bit; its PCI function stays bound to virtio-pci all the same,
 * only the virtio device below has no driver. That one gets two things here:
 * mapping operations that use the pool, and configuration operations that
 * accept the bit. Then its driver is tried again.
 */

#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/hashtable.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/rculist.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include "bounce.h"

/**
 * struct overlay - what makes one device use its memory
 * @node: in the table of all, by @pdev
 * @pdev: the function; its device is what the mapping operations are told
 * @vdev: the virtio device below it, held
 * @kind: how the region was found
 * @region: the device's memory
 * @pool: its slots
 * @original: the configuration operations of virtio-pci
 * @config: a copy of them, with some of ours
 * @stats: what can be read in debugfs
 */
struct overlay {
	struct hlist_node node;
	struct pci_dev *pdev;
	struct virtio_device *vdev;
	const struct bounce_kind *kind;
	struct bounce_region region;
	struct bounce_pool pool;
	const struct virtio_config_ops *original;
	struct virtio_config_ops config;
	struct dentry *stats;
};

/* Changed with the mutex held, read under RCU: by every map and unmap. */
static DEFINE_HASHTABLE(overlays, 5);
static DEFINE_MUTEX(overlays_lock);
static struct dentry *stats_folder;

/*
 * The overlay of a device. It stays as long as the virtio device has a driver,
 * and only that calls the operations below.
 */
static struct overlay *overlay_of(const struct device *dev)
{
	struct overlay *overlay, *found = NULL;

	rcu_read_lock();
	hash_for_each_possible_rcu(overlays, overlay, node, (unsigned long)dev) {
		if (&overlay->pdev->dev == dev) {
			found = overlay;
			break;
		}
	}
	rcu_read_unlock();
	return found;
}

/* Mapping operations */

static void tell_refused(const struct device *dev, const char *what, bool good)
{
	if (!good)
		dev_warn_ratelimited(dev, "bounce: %s of what is not mapped so\n",
				     what);
}

static dma_addr_t map_page(union virtio_map map, struct page *page,
			   unsigned long offset, size_t size,
			   enum dma_data_direction dir, unsigned long attrs)
{
	struct overlay *overlay = overlay_of(map.dma_dev);

	if (!overlay)
		return DMA_MAPPING_ERROR;
	return bounce_pool_map(&overlay->pool, page_to_phys(page) + offset,
			       size, dir, !(attrs & DMA_ATTR_SKIP_CPU_SYNC));
}

static void unmap_page(union virtio_map map, dma_addr_t handle, size_t size,
		       enum dma_data_direction dir, unsigned long attrs)
{
	struct overlay *overlay = overlay_of(map.dma_dev);
	bool copy = !(attrs & DMA_ATTR_SKIP_CPU_SYNC);

	if (overlay)
		tell_refused(map.dma_dev, "unmap",
			     bounce_pool_unmap(&overlay->pool, handle, size,
					       dir, copy));
}

static void sync_for_cpu(union virtio_map map, dma_addr_t handle, size_t size,
			 enum dma_data_direction dir)
{
	struct overlay *overlay = overlay_of(map.dma_dev);

	if (overlay)
		tell_refused(map.dma_dev, "sync",
			     bounce_pool_sync(&overlay->pool, handle, size,
					      dir, false));
}

static void sync_for_device(union virtio_map map, dma_addr_t handle,
			    size_t size, enum dma_data_direction dir)
{
	struct overlay *overlay = overlay_of(map.dma_dev);

	if (overlay)
		tell_refused(map.dma_dev, "sync",
			     bounce_pool_sync(&overlay->pool, handle, size,
					      dir, true));
}

static void *alloc_coherent(union virtio_map map, size_t size,
			    dma_addr_t *handle, gfp_t gfp)
{
	struct overlay *overlay = overlay_of(map.dma_dev);

	if (!overlay)
		return NULL;
	return bounce_pool_alloc(&overlay->pool, size, handle);
}

static void free_coherent(union virtio_map map, size_t size, void *vaddr,
			  dma_addr_t handle, unsigned long attrs)
{
	struct overlay *overlay = overlay_of(map.dma_dev);

	if (overlay)
		tell_refused(map.dma_dev, "free",
			     bounce_pool_free(&overlay->pool, size, vaddr,
					      handle));
}

static bool need_sync(union virtio_map map, dma_addr_t handle)
{
	return true;
}

static int mapping_error(union virtio_map map, dma_addr_t handle)
{
	return handle == DMA_MAPPING_ERROR ? -ENOMEM : 0;
}

static size_t max_mapping_size(union virtio_map map)
{
	struct overlay *overlay = overlay_of(map.dma_dev);

	return overlay ? bounce_pool_largest(&overlay->pool) : SIZE_MAX;
}

static const struct virtio_map_ops map_ops = {
	.map_page = map_page,
	.unmap_page = unmap_page,
	.sync_single_for_cpu = sync_for_cpu,
	.sync_single_for_device = sync_for_device,
	.alloc = alloc_coherent,
	.free = free_coherent,
	.need_sync = need_sync,
	.mapping_error = mapping_error,
	.max_mapping_size = max_mapping_size,
};

/* Configuration operations */

/*
 * Without ACCESS_PLATFORM virtio_ring would put physical addresses of ordinary
 * memory on the rings and never ask for a mapping.
 */
static int finalize_features(struct virtio_device *vdev)
{
	struct overlay *overlay = overlay_of(vdev->dev.parent);
	int err;

	if (!overlay)
		return -ENODEV;
	__virtio_set_bit(vdev, overlay->kind->feature);
	err = overlay->original->finalize_features(vdev);
	if (err)
		return err;
	if (!__virtio_test_bit(vdev, overlay->kind->feature) ||
	    !__virtio_test_bit(vdev, VIRTIO_F_ACCESS_PLATFORM)) {
		dev_err(&vdev->dev, "bounce: the features do not go together\n");
		return -ENODEV;
	}
	return 0;
}

/* A disk's requests have so many segments that they fit into the pool. */
static void get_config(struct virtio_device *vdev, unsigned int offset,
		       void *buf, unsigned int len)
{
	struct overlay *overlay = overlay_of(vdev->dev.parent);
	__le32 seg_max;
	u32 most;

	if (!overlay) {
		memset(buf, 0, len);
		return;
	}
	overlay->original->get(vdev, offset, buf, len);
	if (vdev->id.device != VIRTIO_ID_BLOCK ||
	    offset != offsetof(struct virtio_blk_config, seg_max) ||
	    len != sizeof(seg_max))
		return;
	most = bounce_pool_segments(&overlay->pool);
	memcpy(&seg_max, buf, sizeof(seg_max));
	seg_max = cpu_to_le32(min(le32_to_cpu(seg_max), most));
	memcpy(buf, &seg_max, sizeof(seg_max));
}

/*
 * The queues are gone, and with them what was in them: not every driver takes
 * back a request that the device has not answered (virtio-rng does not), and a
 * slot must not stay taken because a host is slow.
 */
static void del_vqs(struct virtio_device *vdev)
{
	struct overlay *overlay = overlay_of(vdev->dev.parent);
	unsigned int forgotten;

	if (!overlay)
		return;
	overlay->original->del_vqs(vdev);
	forgotten = bounce_pool_forget(&overlay->pool);
	if (forgotten)
		dev_dbg(&vdev->dev, "bounce: %u buffers were never taken back\n",
			forgotten);
}

/* debugfs */

static int stats_show(struct seq_file *file, void *unused)
{
	struct overlay *overlay = file->private;
	struct bounce_pool *pool = &overlay->pool;
	unsigned long flags;

	seq_printf(file, "kind %s\nbytes %zu\n", overlay->kind->name,
		   overlay->region.bytes);
	spin_lock_irqsave(&pool->lock, flags);
	seq_printf(file, "slots %u\nused %u\npeak %u\nmapped %llu\nfull %llu\nrefused %llu\n",
		   pool->slots, pool->used, pool->peak, pool->mapped,
		   pool->full, pool->refused);
	spin_unlock_irqrestore(&pool->lock, flags);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stats);

/* Putting it on and taking it off */

static int match_virtio(struct device *dev, const void *unused)
{
	return is_virtio_device(dev);
}

/* Finds, claims and maps a device's memory. */
static int open_region(struct overlay *overlay)
{
	struct bounce_region *region = &overlay->region;
	void *base;
	int err;

	if (!request_mem_region(region->phys, region->bytes, KBUILD_MODNAME))
		return -EBUSY;
	/* Ordinary cacheable memory, for the device as well. */
	base = memremap(region->phys, region->bytes, MEMREMAP_WB);
	if (!base) {
		err = -ENOMEM;
		goto release;
	}
	err = bounce_pool_init(&overlay->pool, base, region);
	if (err)
		goto unmap;
	return 0;

unmap:
	memunmap(base);
release:
	release_mem_region(region->phys, region->bytes);
	return err;
}

/* False if somebody may still use it: then it is better lost than unmapped. */
static bool close_region(struct overlay *overlay)
{
	struct bounce_region *region = &overlay->region;
	void *base = overlay->pool.base;

	bounce_pool_forget(&overlay->pool);
	if (overlay->pool.used) {
		dev_err(&overlay->pdev->dev, "bounce: %u slots of rings never came back\n",
			overlay->pool.used);
		return false;
	}
	bounce_pool_exit(&overlay->pool);
	memunmap(base);
	release_mem_region(region->phys, region->bytes);
	return true;
}

/*
 * All that may fail, before anything of the device is changed. -ENOENT if there
 * is no such memory.
 */
static struct overlay *prepare(struct virtio_device *vdev, struct pci_dev *pdev,
			       const struct bounce_kind *kind)
{
	struct overlay *overlay;
	int err;

	overlay = kzalloc_obj(*overlay);
	if (!overlay)
		return ERR_PTR(-ENOMEM);
	overlay->pdev = pdev;
	overlay->vdev = vdev;
	overlay->kind = kind;
	err = kind->find(vdev, pdev, &overlay->region);
	if (!err)
		err = open_region(overlay);
	if (err) {
		kfree(overlay);
		return ERR_PTR(err);
	}
	return overlay;
}

static bool offers(struct virtio_device *vdev, unsigned int feature)
{
	u64 features[VIRTIO_FEATURES_U64S];

	virtio_get_features(vdev, features);
	return virtio_features_test_bit(features, VIRTIO_F_VERSION_1) &&
	       virtio_features_test_bit(features, feature);
}

/*
 * Of what the device offers the first that is whole: a bit without a region
 * means something else. -ENOENT if there is nothing.
 */
static struct overlay *prepare_any(struct virtio_device *vdev,
				   struct pci_dev *pdev)
{
	struct overlay *overlay = ERR_PTR(-ENOENT);
	unsigned int i;

	for (i = 0; i < bounce_kind_count; i++) {
		if (!offers(vdev, bounce_kinds[i].feature))
			continue;
		overlay = prepare(vdev, pdev, &bounce_kinds[i]);
		if (overlay != ERR_PTR(-ENOENT))
			break;
	}
	if (IS_ERR(overlay) && overlay != ERR_PTR(-ENOENT))
		dev_err(&pdev->dev, "bounce: no use of its %s: %pe\n",
			bounce_kinds[i].name, overlay);
	return overlay;
}

/*
 * Puts an overlay on the virtio device, which is locked and has no driver. It
 * has been refused once and says so in its status: hence the reset.
 */
static void install(struct overlay *overlay)
{
	struct virtio_device *vdev = overlay->vdev;

	overlay->original = vdev->config;
	overlay->config = *vdev->config;
	overlay->config.finalize_features = finalize_features;
	overlay->config.del_vqs = del_vqs;
	/* A device without a configuration of its own has no such operation. */
	if (overlay->original->get)
		overlay->config.get = get_config;
	hash_add_rcu(overlays, &overlay->node, (unsigned long)&overlay->pdev->dev);

	vdev->config = &overlay->config;
	vdev->map = &map_ops;
	vdev->vmap.dma_dev = &overlay->pdev->dev;
	virtio_reset_device(vdev);
	virtio_add_status(vdev, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	overlay->stats = debugfs_create_file(pci_name(overlay->pdev), 0400,
					     stats_folder, overlay, &stats_fops);
}

/* A driver that declined the memory has the device: too late. */
static void tell_unused(struct virtio_device *vdev, struct pci_dev *pdev)
{
	unsigned int i;

	for (i = 0; i < bounce_kind_count; i++) {
		if (offers(vdev, bounce_kinds[i].feature))
			dev_warn(&pdev->dev, "bounce: %s is offered, but a driver uses the device without it\n",
				 bounce_kinds[i].name);
	}
}

/* Whether there is something to do, and then whether it was done. */
static bool overlay_device(struct virtio_device *vdev, struct pci_dev *pdev)
{
	struct overlay *overlay;

	if (overlay_of(&pdev->dev) || vdev->map)
		return false;
	if (vdev->dev.driver) {
		tell_unused(vdev, pdev);
		return false;
	}
	/* Each overlay keeps the module here. */
	if (!try_module_get(THIS_MODULE))
		return false;
	overlay = prepare_any(vdev, pdev);
	if (IS_ERR(overlay)) {
		module_put(THIS_MODULE);
		return false;
	}
	get_device(&vdev->dev);
	install(overlay);
	dev_info(&pdev->dev, "bounce: %s, %zu KiB\n", overlay->kind->name,
		 overlay->region.bytes >> 10);
	return true;
}

/* The function is locked, and bound to some driver. */
static void attach(struct pci_dev *pdev)
{
	struct device *child = device_find_child(&pdev->dev, NULL, match_virtio);
	bool done;

	if (!child)
		return;
	mutex_lock(&overlays_lock);
	device_lock(child);
	done = overlay_device(dev_to_virtio(child), pdev);
	device_unlock(child);
	mutex_unlock(&overlays_lock);
	if (done && device_attach(child) < 0)
		dev_err(&pdev->dev, "bounce: its driver cannot be tried again\n");
	put_device(child);
}

/* The function has lost its driver, and with it the virtio device. */
static void detach(struct pci_dev *pdev)
{
	struct overlay *overlay;

	mutex_lock(&overlays_lock);
	overlay = overlay_of(&pdev->dev);
	if (overlay)
		hash_del_rcu(&overlay->node);
	mutex_unlock(&overlays_lock);
	if (!overlay)
		return;
	synchronize_rcu();
	debugfs_remove(overlay->stats);
	overlay->vdev->map = NULL;
	overlay->vdev->config = overlay->original;
	put_device(&overlay->vdev->dev);
	/* What is lost keeps the module, whose name the resource has. */
	if (close_region(overlay))
		module_put(THIS_MODULE);
	kfree(overlay);
}

static int on_bus_event(struct notifier_block *block, unsigned long event,
			void *data)
{
	if (event == BUS_NOTIFY_BOUND_DRIVER)
		attach(to_pci_dev(data));
	else if (event == BUS_NOTIFY_UNBOUND_DRIVER)
		detach(to_pci_dev(data));
	return NOTIFY_DONE;
}

static struct notifier_block notifier = { .notifier_call = on_bus_event };

static int look_at(struct device *dev, void *unused)
{
	device_lock(dev);
	if (dev->driver)
		attach(to_pci_dev(dev));
	device_unlock(dev);
	return 0;
}

static int __init bounce_init(void)
{
	int err;

	stats_folder = debugfs_create_dir(KBUILD_MODNAME, NULL);
	err = bus_register_notifier(&pci_bus_type, &notifier);
	if (err) {
		debugfs_remove(stats_folder);
		return err;
	}
	bus_for_each_dev(&pci_bus_type, NULL, NULL, look_at);
	return 0;
}

/* Only without overlays, for each holds the module. */
static void __exit bounce_exit(void)
{
	bus_unregister_notifier(&pci_bus_type, &notifier);
	debugfs_remove(stats_folder);
}

module_init(bounce_init);
module_exit(bounce_exit);

MODULE_DESCRIPTION("virtio devices whose DMA stays in memory that they bring along");
MODULE_AUTHOR("bouncer");
MODULE_LICENSE("Dual MIT/GPL");
MODULE_VERSION("0.1");
