//! Numbers of the hypercall ABI. `docs/abi.md` says what each call does.
//!
//! The payloads under `tests/` use the same constants.

/// Function ids of the host's front end (HVC, SMC64 convention,
/// vendor-specific hypervisor service range).
pub mod host {
    /// () → x1 = ABI version, major << 16 | minor.
    pub const VERSION: u32 = 0xC600_0100;
    /// () → x1 = most VMs | most vCPUs per VM << 8 | most devices per VM << 16;
    /// x2 = most frames per range call.
    pub const FEATURES: u32 = 0xC600_0101;
    /// (first pfn, count, ram pages, vcpus, flags) → x1 = handle. The frames
    /// become the VM's page-table memory (memcache); at least
    /// [`super::MIN_MEMCACHE`]. Flag bit 0 ([`super::CREATE_RSI`]): the guest
    /// speaks Arm CCA's RSI (SMC, [`super::rsi`]) instead of pKVM's calls
    /// (HVC, [`super::guest`]). Bit 1 ([`super::CREATE_CONSOLE`]): the host may serve
    /// the guest's UART from the start. Bit 2 ([`super::CREATE_SHARE_ZEROES`]):
    /// pages change sides as zeros.
    pub const VM_CREATE: u32 = 0xC600_0102;
    /// (handle, first pfn, count) → x1 = frames taken. More memcache.
    pub const VM_TOPUP: u32 = 0xC600_0103;
    /// (handle, first pfn, first gfn, count, flags) → x1 = frames done.
    /// Flag bit 0 ([`super::DONATE_MEASURED`]): keep and measure the contents
    /// (only before FINALISE); otherwise the frames arrive zeroed.
    pub const FRAME_DONATE: u32 = 0xC600_0104;
    /// (handle, device, first page of its bounce BAR, first pfn, count)
    /// → x1 = frames done.
    pub const FRAME_SHARE: u32 = 0xC600_0105;
    /// (handle, entry ipa, argument for x0) → (). No boot state afterwards.
    pub const VM_FINALISE: u32 = 0xC600_0106;
    /// (handle, part 0 or 1) → x1, x2 = 16 bytes of the SHA-256, little
    /// endian words, in digest order.
    pub const VM_MEASUREMENT: u32 = 0xC600_0107;
    /// (handle, vcpu, MMIO reply) → x1 = exit, x2, x3 (see [`super::exit`]).
    pub const VCPU_RUN: u32 = 0xC600_0108;
    /// (handle) → (). The VM is dying; Busy while one of its vCPUs runs.
    pub const VM_STOP: u32 = 0xC600_0109;
    /// (handle, first pfn, count) → x1 = frames done. Of a dying VM: wiped
    /// if they were the guest's, given back to the host.
    pub const FRAME_RECLAIM: u32 = 0xC600_010A;
    /// (handle) → x1 = frames that EL2 still holds: call again until 0.
    pub const VM_DESTROY: u32 = 0xC600_010B;
    /// (handle, virtio device type, policy, pages, queues | most descriptors of
    /// a queue << 16) → x1 = device index. Before FINALISE only. 0 descriptors
    /// stand for 256. Pages: those that the device brings, or with policy
    /// shadow-iommu those of the guest's that it may have at once.
    pub const DEVICE_CREATE: u32 = 0xC600_010C;
    /// (handle, device, offset, value, bytes 1..=8) → (). Device-specific
    /// config; after FINALISE it bumps the generation and interrupts.
    pub const DEVICE_CONFIG: u32 = 0xC600_010D;
    /// (handle, device) → x1 = driver's status byte | bus master << 8 |
    /// reset count << 32, x2 = queues notified since (cleared; 0 and kept
    /// while the device is no bus master), x3 = features accepted.
    pub const DEVICE_STATE: u32 = 0xC600_010E;
    /// (handle, device, queue, part) → part 0: x1 = size | enabled << 16,
    /// x2 = descriptor table, x3 = how often it was reset; part 1: x1 = driver
    /// area, x2 = device area; part 2: x1 = guest address of the bounce BAR
    /// when the queue was enabled, x2 = its pages; with shadow-iommu the first
    /// I/O virtual address, x2 = pages of them, x3 = address of the device's
    /// window.
    /// With policies bounce-bar and device-memory the areas are offsets into
    /// the BAR, with shadow-iommu into the window, with shared-pages guest
    /// physical addresses. With device-memory x1 of part 2 is 0.
    pub const QUEUE_INFO: u32 = 0xC600_010F;
    /// (handle, device, cause) → (). Cause: a queue, or
    /// [`super::CAUSE_CONFIG`]: interrupt the guest.
    pub const DEVICE_INTERRUPT: u32 = 0xC600_0110;
    /// (handle, device) → (). Backend gives up: DEVICE_NEEDS_RESET.
    pub const DEVICE_FAIL: u32 = 0xC600_0111;
    /// () → x1 = kind | cpu << 8 | owner << 16 | syndrome << 32, x2 = address,
    /// x3 = pc. NotFound when the log is empty.
    pub const EVENT_NEXT: u32 = 0xC600_0112;
    /// (handle or 0 for the machine, index) → x1 = counter
    /// (see `stats`). InvalidParameter beyond the last.
    pub const STATS: u32 = 0xC600_0113;
    /// (pfn) → x1 = state of the frame as far as the host may know:
    /// 0 the host's own, 1 lent by the host, 2 borrowed by the host,
    /// 3 no page of the host's.
    pub const FRAME_STATE: u32 = 0xC600_0114;
    /// (handle, level 0 or 1) → x1 = vCPUs to kick. The interrupt line of the
    /// guest's UART, once the guest has granted its page.
    pub const UART_LINE: u32 = 0xC600_0115;
    /// (style) → x1 = the style before. How the host's data accesses to what is
    /// not its own are refused from now on, on all CPUs:
    /// [`super::ABORTS_EXTERNAL`] (as at boot) or [`super::ABORTS_ALIGNMENT`].
    pub const ABORT_STYLE: u32 = 0xC600_0116;
}

/// ABORT_STYLE: a synchronous external abort, as a bus has it.
pub const ABORTS_EXTERNAL: u64 = 0;
/// ABORT_STYLE: an alignment fault. A kernel whose handler of external aborts does
/// not look at its exception table survives its own probing accesses with it.
pub const ABORTS_ALIGNMENT: u64 = 1;

/// Function ids of the guest's pKVM front end (HVC), as Linux's
/// `arm-pkvm-guest` driver and Android's pvmfw call them.
pub mod guest {
    /// SMCCC vendor-hypervisor UID.
    pub const UID: u32 = 0x8600_FF01;
    /// Bitmap of the functions below.
    pub const FEATURES: u32 = 0x8600_0000;
    /// (0, 0, 0) → granule; x1 bit 0 = ranges supported.
    pub const HYP_MEMINFO: u32 = 0xC600_0002;
    /// (ipa, pages or 0, 0) → 0, x1 = pages done.
    pub const MEM_SHARE: u32 = 0xC600_0003;
    /// The same back.
    pub const MEM_UNSHARE: u32 = 0xC600_0004;
    /// (0, 0, 0) → granule.
    pub const MMIO_GUARD_INFO: u32 = 0xC600_0005;
    /// () → 0: from now on only mapped MMIO pages exit to the host.
    pub const MMIO_GUARD_ENROLL: u32 = 0xC600_0006;
    /// (ipa) → 0: the host may serve this page.
    pub const MMIO_GUARD_MAP: u32 = 0xC600_0007;
    /// (ipa) → 0.
    pub const MMIO_GUARD_UNMAP: u32 = 0xC600_0008;
    /// (ipa) → 0: give the page back to the host, wiped.
    pub const MEM_RELINQUISH: u32 = 0xC600_0009;
    /// () → x1 = bitmap of what there is beside pKVM's calls ([`extension`]).
    /// The numbers from here on are bouncer's: pKVM has those up to 127.
    pub const EXTENSIONS: u32 = 0xC600_0080;
    /// (ipa) → x1 = pages taken back, x2 = where to go on or 0, x3 = pages that
    /// stay lent. Looks at [`super::MAX_RANGE`] pages from there on.
    pub const MEM_UNSHARE_ALL: u32 = 0xC600_0081;
    /// (device, ipa of the root table or 0) → x1 = pages still mapped.
    pub const IOTABLE_SET: u32 = 0xC600_0082;
    /// (device, iova, pages) → x1 = pages done, x2 = of these left out for
    /// want of budget, x3 = pages mapped now.
    pub const REFRESH: u32 = 0xC600_0083;
    /// (device) → x1 = first I/O virtual address, x2 = pages of them, x3 =
    /// most pages mapped at once | pages mapped now << 32.
    pub const IOTABLE_INFO: u32 = 0xC600_0084;
    /// Bits of [`EXTENSIONS`].
    pub mod extension {
        /// [`super::MEM_UNSHARE_ALL`].
        pub const UNSHARE_ALL: u64 = 1 << 0;
        /// [`super::IOTABLE_SET`], [`super::REFRESH`], [`super::IOTABLE_INFO`].
        pub const IO_TABLES: u64 = 1 << 1;
        /// What this guest shares, and what it takes back, arrives as zeros.
        pub const SHARE_ZEROES: u64 = 1 << 2;
    }
    /// The UID's four words (w0 to w3).
    pub const UID_WORDS: [u32; 4] = [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d];
}

/// Function ids and values of the guest's RSI front end (SMC): the Realm
/// Services Interface of the RMM specification (DEN0137), as stock Linux
/// calls it from 6.13 on.
pub mod rsi {
    /// (version wanted) → x1, x2 = lowest and highest version, [`REVISION`].
    pub const VERSION: u32 = 0xC400_0190;
    /// (index) → x1 = feature register, 0.
    pub const FEATURES: u32 = 0xC400_0191;
    /// (index 0 to 4) → x1 to x8 = 64 bytes: the initial measurement (0) or
    /// an extensible one (1 to 4), little endian words, zero-padded.
    pub const MEASUREMENT_READ: u32 = 0xC400_0192;
    /// (index 1 to 4, bytes up to 64, 64 bytes in x3 to x10).
    pub const MEASUREMENT_EXTEND: u32 = 0xC400_0193;
    /// (challenge in x1 to x8) → x1 = most bytes a token has, [`TOKEN_BOUND`].
    pub const ATTESTATION_TOKEN_INIT: u32 = 0xC400_0194;
    /// (ipa of a page, offset in it, bytes): never a token, there is no key
    /// that could sign one.
    pub const ATTESTATION_TOKEN_CONTINUE: u32 = 0xC400_0195;
    /// (ipa of a private page): the page receives the realm's configuration.
    pub const REALM_CONFIG: u32 = 0xC400_0196;
    /// (base, top, [`ripas::EMPTY`] or [`ripas::RAM`], flags) → x1 = first
    /// byte that is not done; x2 = [`ACCEPT`] or [`REJECT`].
    pub const IPA_STATE_SET: u32 = 0xC400_0197;
    /// (base, top) → x1 = end of the pages that are alike, x2 = their state.
    pub const IPA_STATE_GET: u32 = 0xC400_0198;
    /// (ipa of 256 bytes): refused, the host takes no calls.
    pub const HOST_CALL: u32 = 0xC400_0199;

    /// The one version there is, major << 16 | minor.
    pub const REVISION: u64 = 1 << 16;
    /// Width of a guest's address space: the upper half (bit 38) aliases the
    /// lower, and holds what is shared.
    pub const IPA_BITS: u64 = 39;
    /// Upper bound of a token's bytes, were there one.
    pub const TOKEN_BOUND: u64 = 4096;
    /// IPA_STATE_SET: pages that were destroyed may become RAM again. There
    /// are none here, so it changes nothing.
    pub const CHANGE_DESTROYED: u64 = 1;
    /// IPA_STATE_SET x2: done.
    pub const ACCEPT: u64 = 0;
    /// IPA_STATE_SET x2: refused; nothing changed.
    pub const REJECT: u64 = 1;

    /// States of a page.
    pub mod ripas {
        /// Shared with the host, at its alias.
        pub const EMPTY: u64 = 0;
        /// Private RAM.
        pub const RAM: u64 = 1;
        /// A device's registers or memory.
        pub const DEV: u64 = 3;
    }

    /// x0 of an answer.
    pub mod status {
        /// Done.
        pub const SUCCESS: u64 = 0;
        /// An argument is malformed, or names what the guest has not.
        pub const ERROR_INPUT: u64 = 1;
        /// Not the call to make in the state that the caller is in.
        pub const ERROR_STATE: u64 = 2;
        /// It cannot be done, for a reason that is not the caller's.
        pub const ERROR_UNKNOWN: u64 = 4;
    }
}

/// Version of the host ABI, major << 16 | minor.
pub const VERSION: u64 = 1 << 16 | 1;

/// Fewest memcache frames VM_CREATE takes: a root and one table per level
/// for RAM and for the bounce window.
pub const MIN_MEMCACHE: u64 = 8;
/// Most frames one range call handles; longer ranges continue.
pub const MAX_RANGE: u64 = 512;
/// Most frames that one FRAME_DONATE measures: a hash of a page costs some 25
/// times what its wipe does, and EL2 has interrupts masked meanwhile.
pub const MAX_MEASURED: u64 = 32;
/// FRAME_DONATE flag: keep and measure.
pub const DONATE_MEASURED: u64 = 1;
/// VM_CREATE flag: the guest speaks RSI (SMC), not pKVM's calls (HVC).
pub const CREATE_RSI: u64 = 1;
/// VM_CREATE flag: the guest's UART is the host's to serve from the start, as
/// if the guest had asked for it: for a kernel that does not know the call.
pub const CREATE_CONSOLE: u64 = 2;
/// VM_CREATE flag: a page that the guest shares or takes back is zeroed on the
/// way, so nothing that it held goes with it, in either direction. A realm's
/// is in any case.
pub const CREATE_SHARE_ZEROES: u64 = 4;
/// DEVICE_INTERRUPT cause: configuration change.
pub const CAUSE_CONFIG: u64 = 0xffff;
/// DEVICE_CREATE policy: DMA only in the bounce BAR.
pub const POLICY_BOUNCE_BAR: u64 = 0;
/// DEVICE_CREATE policy: DMA in pages the guest shares.
pub const POLICY_SHARED_PAGES: u64 = 1;
/// DEVICE_CREATE policy: DMA in a BAR, by offsets into it.
pub const POLICY_DEVICE_MEMORY: u64 = 2;
/// DEVICE_CREATE policy: DMA in pages the guest shares, by a device that does
/// not say so: it lacks ACCESS_PLATFORM.
pub const POLICY_LEGACY: u64 = 3;
/// DEVICE_CREATE policy: DMA where the guest's I/O table leads.
pub const POLICY_SHADOW_IOMMU: u64 = 4;
/// DEVICE_CREATE policy: as [`POLICY_SHADOW_IOMMU`] if the driver accepts
/// ACCESS_PLATFORM, as [`POLICY_LEGACY`] if it does not.
pub const POLICY_GUEST_CHOICE: u64 = 5;

/// Most VMs at once.
pub const MAX_VMS: usize = 8;
/// Most vCPUs of a VM.
pub const MAX_VCPUS: usize = 8;
/// Most devices of a VM.
pub const MAX_DEVICES: usize = 8;

/// Why VCPU_RUN returned: x1 bits 7:0.
pub mod exit {
    /// A physical interrupt is pending for the host.
    pub const INTERRUPT: u64 = 0;
    /// The vCPU waits. x2 = CNTPCT_EL0 deadline of its timer, all ones if none.
    pub const WFI: u64 = 1;
    /// Access to a granted MMIO page. x1 bit 8 = write, bits 12:9 = size in
    /// bytes; x2 = ipa; x3 = value written, zero-extended, 0 for a read.
    pub const MMIO: u64 = 2;
    /// A queue was notified. x2 = device | queue << 16.
    pub const NOTIFY: u64 = 3;
    /// The driver changed the device's status, or reset it or a queue.
    /// x2 = device.
    pub const DEVICE: u64 = 4;
    /// The guest ended itself. x2 = 0 off, 1 reset.
    pub const SHUTDOWN: u64 = 5;
    /// The guest started vCPU x2.
    pub const CPU_ON: u64 = 6;
    /// The vCPU turned itself off.
    pub const CPU_OFF: u64 = 7;
    /// vCPUs in bitmap x2 have a new interrupt pending.
    pub const KICK: u64 = 8;
    /// The guest needs memory at ipa x2 (page-aligned): inside its RAM a frame,
    /// elsewhere (a bounce page, an alias, the aperture of an I/O table)
    /// memcache.
    pub const MEM_FAULT: u64 = 9;
    /// The VM cannot go on (EL2 refused something it did, or it is being
    /// stopped). It is dying: reclaim it.
    pub const DEAD: u64 = 10;
}
