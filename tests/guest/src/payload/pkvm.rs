//! pKVM's guest calls (`docs/abi.md`; Linux `drivers/virt/coco/pkvm-guest`).

use guest::lending::{Lender, PAGE};
use hyp::abi::guest as id;
use rt::smccc::hvc;

/// What the hypervisor offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Protection {
    /// MEM_SHARE and MEM_UNSHARE take ranges.
    pub(crate) ranges: bool,
    /// MMIO pages are granted one by one.
    pub(crate) guard: bool,
    /// The calls are a realm's, and a shared page is at its alias.
    pub(crate) realm: bool,
}

fn call(function: u32, a: u64, b: u64) -> [u64; 4] {
    hvc(function.into(), [a, b, 0, 0, 0, 0, 0])
}

fn succeeded(result: [u64; 4]) -> bool {
    result[0] == 0
}

/// FEATURES bit of a call: its number in the vendor range.
fn offers(features: u64, function: u32) -> bool {
    features & 1 << (function & 0xff) != 0
}

/// Takes up protection and grants the console's page to the host. `None` if
/// no pKVM hypervisor is there or it lacks something this guest needs.
pub(crate) fn start(uart: usize) -> Option<Protection> {
    let words = call(id::UID, 0, 0).map(|word| word as u32);
    if words != id::UID_WORDS {
        return None;
    }
    let features = call(id::FEATURES, 0, 0)[0];
    if ![id::HYP_MEMINFO, id::MEM_SHARE, id::MEM_UNSHARE].iter().all(|call| offers(features, *call))
    {
        return None;
    }
    let info = call(id::HYP_MEMINFO, 0, 0);
    if info[0] != PAGE as u64 {
        return None;
    }
    let guard = offers(features, id::MMIO_GUARD_MAP);
    if guard {
        let granule = call(id::MMIO_GUARD_INFO, 0, 0)[0];
        if granule != PAGE as u64
            || !succeeded(call(id::MMIO_GUARD_ENROLL, 0, 0))
            || !succeeded(call(id::MMIO_GUARD_MAP, uart as u64, 0))
        {
            return None;
        }
    }
    Some(Protection { ranges: info[1] & 1 != 0, guard, realm: false })
}

/// MEM_SHARE; the signed result code and pages done.
pub(crate) fn mem_share(ipa: u64, pages: u64) -> (i64, u64) {
    let result = call(id::MEM_SHARE, ipa, pages);
    (result[0] as i64, result[1])
}

/// MEM_UNSHARE; the same.
pub(crate) fn mem_unshare(ipa: u64, pages: u64) -> (i64, u64) {
    let result = call(id::MEM_UNSHARE, ipa, pages);
    (result[0] as i64, result[1])
}

/// MEM_RELINQUISH of one page; the code.
pub(crate) fn mem_relinquish(ipa: u64) -> i64 {
    call(id::MEM_RELINQUISH, ipa, 0)[0] as i64
}

/// IOTABLE_SET; the code, and the pages still mapped.
pub(crate) fn iotable_set(device: u64, root: u64) -> (i64, u64) {
    let result = call(id::IOTABLE_SET, device, root);
    (result[0] as i64, result[1])
}

/// REFRESH: the code, and pages done, left out and mapped now.
pub(crate) fn refresh(device: u64, iova: u64, pages: u64) -> (i64, [u64; 3]) {
    let [code, rest @ ..] = hvc(id::REFRESH.into(), [device, iova, pages, 0, 0, 0, 0]);
    (code as i64, rest)
}

/// IOTABLE_INFO: first address, pages of the aperture, and budget | mapped << 32.
/// `None` if there is no table for this device.
pub(crate) fn iotable_info(device: u64) -> Option<[u64; 3]> {
    let [code, rest @ ..] = call(id::IOTABLE_INFO, device, 0);
    (code == 0).then_some(rest)
}

/// Shares pages by hypercall, wiped on both ways: what they held is not for
/// the host, and what the host left in them is not for the guest.
pub(crate) struct Calls {
    /// See [`Protection::ranges`].
    pub(crate) ranges: bool,
    /// Hypercalls made.
    pub(crate) made: u64,
}

impl Calls {
    fn all(&mut self, first: usize, count: usize, step: fn(u64, u64) -> (i64, u64)) -> usize {
        let mut done = 0;
        while done < count {
            let wanted = if self.ranges { (count - done) as u64 } else { 0 };
            self.made += 1;
            let (code, pages) = step((first + done * PAGE) as u64, wanted);
            // Without ranges a success is one page, whatever x1 holds.
            let pages = if self.ranges { pages as usize } else { 1 };
            if code != 0 || pages == 0 {
                break;
            }
            done += pages.min(count - done);
        }
        done
    }

    fn wipe(first: usize, count: usize) {
        // SAFETY: pages of the pool that `share_hal` set aside; nothing else
        // in the program refers to them.
        unsafe { core::ptr::write_bytes(first as *mut u8, 0, count * PAGE) };
    }
}

impl Lender for Calls {
    fn share(&mut self, first: usize, count: usize) -> usize {
        Self::wipe(first, count);
        self.all(first, count, mem_share)
    }

    fn unshare(&mut self, first: usize, count: usize) -> usize {
        self.all(first, count, mem_unshare)
    }
}
