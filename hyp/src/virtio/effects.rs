//! What an access asks of the world outside the device.

use super::msix::MAX_VECTORS;
use crate::addr::GfnRange;

/// An interrupt to deliver to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// A write of `data` to `address`, both chosen by the guest. Only an
    /// address in the guest's MSI frame may have an effect.
    Msi {
        /// Guest physical address, 4-byte aligned.
        address: u64,
        /// What is written there.
        data: u32,
    },
    /// A line (0 to 3 for INTA to INTD) changes its level.
    Intx {
        /// Which line.
        line: u8,
        /// Asserted?
        level: bool,
    },
}

/// Most signals of one access: every vector when the function is unmasked,
/// and a change of the line.
const MAX_SIGNALS: usize = MAX_VECTORS + 1;

/// The interrupts of one access, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Signals([Option<Signal>; MAX_SIGNALS]);

impl Signals {
    /// Appends a signal; `false` if there is no room (which one access cannot
    /// bring about).
    pub(super) fn push(&mut self, signal: Signal) -> bool {
        match self.0.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(signal);
                true
            }
            None => false,
        }
    }

    /// Keeps those of which `wanted` says so.
    pub(super) fn retain(&mut self, mut wanted: impl FnMut(Signal) -> bool) {
        let mut kept = Self::default();
        for signal in self.iter().filter(|signal| wanted(*signal)) {
            kept.push(signal);
        }
        *self = kept;
    }

    /// Every signal, in order.
    pub fn iter(&self) -> impl Iterator<Item = Signal> + '_ {
        self.0.iter().map_while(|signal| *signal)
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// What the caller has to do after an access or a call of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// The driver made buffers available: (device, queue). The queue is
    /// enabled and the device is live.
    pub notify: Option<(usize, u16)>,
    /// The driver changed the device's status, or reset it or one of its
    /// queues. The host must hear of it before this vCPU goes on: that is how
    /// a reset is complete when the guest's store is.
    pub status_changed: Option<usize>,
    /// The bounce window that was here is elsewhere or off: its pages must
    /// leave the guest's stage 2. Their contents and frames stay.
    pub window_closed: Option<GfnRange>,
    /// Interrupts to deliver.
    pub signals: Signals,
}
