//! A protected VM: its memory, its vCPUs, its interrupt controller, its
//! devices, and the stages of its life.
//!
//! ```text
//!            VM_CREATE          VM_FINALISE            VM_STOP, SYSTEM_OFF,
//!   (free) ───────────▶ Building ─────────▶ Running ──────────▶ Dying
//!      ▲                    └──────────────────────────────────▶ │
//!      └────────────────────── VM_DESTROY (no frame left) ◀──────┘
//! ```
//!
//! A `Vm` is reached only through its slot's lock (`Hypervisor::with_vm`).

pub(crate) mod boxed;
mod guard;
mod interrupts;
pub(crate) mod vcpus;

pub(crate) use guard::MmioGuard;

use crate::abi;
use crate::addr::GfnRange;
use crate::error::Error;
use crate::layout;
use crate::machine::{Machine, Regime};
use crate::measurement::{DIGEST_SIZE, Extensible, Measurement};
use crate::memory::{GuestMemory, SharedPlace};
use crate::stats::VmStats;
use crate::vgic::Vgic;
use crate::virtio::PciBus;
use vcpus::Vcpus;

/// Names a VM to the host: slot + 1 in bits 7:0, the slot's generation above,
/// so that a handle of a destroyed VM names nothing. Zero is never a handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Handle(u64);

impl Handle {
    /// The handle of generation `generation` of slot `slot`.
    pub(crate) const fn new(slot: usize, generation: u32) -> Self {
        Self((generation as u64) << 8 | (slot as u64 + 1))
    }

    /// As a host passes it; checked against the slot when it is used.
    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The value the host gets.
    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    /// The slot it names, if there is such a slot.
    pub(crate) fn slot(self) -> Option<usize> {
        let slot = usize::try_from(self.0 & 0xff).ok()?.checked_sub(1)?;
        (slot < abi::MAX_VMS).then_some(slot)
    }
}

/// The stages of a VM's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The host builds it: images, devices. No vCPU can run.
    Building,
    /// Finalised: its measurement is fixed and its vCPUs can run.
    Running,
    /// No vCPU can enter again; its frames are being reclaimed.
    Dying,
}

/// Whose calls a guest speaks. Chosen by VM_CREATE's flags; the other front
/// end does not exist for this guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GuestAbi {
    /// pKVM's, and PSCI, by HVC.
    Pkvm,
    /// Arm CCA's RSI, and PSCI, by SMC.
    Rsi,
}

impl GuestAbi {
    /// The one that VM_CREATE's flags choose.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for a flag that does not exist.
    pub(crate) const fn from_flags(flags: u64) -> Result<Self, Error> {
        match flags & !(abi::CREATE_CONSOLE | abi::CREATE_SHARE_ZEROES) {
            0 => Ok(GuestAbi::Pkvm),
            abi::CREATE_RSI => Ok(GuestAbi::Rsi),
            _ => Err(Error::InvalidParameter),
        }
    }

    /// Where such a guest finds what it shares.
    pub(crate) const fn shared_place(self) -> SharedPlace {
        match self {
            GuestAbi::Pkvm => SharedPlace::InPlace,
            GuestAbi::Rsi => SharedPlace::Alias,
        }
    }
}

/// A protected VM.
pub(crate) struct Vm {
    pub(crate) handle: Handle,
    /// VM_CREATE's flags, for the measurement.
    pub(crate) flags: u64,
    pub(crate) abi: GuestAbi,
    pub(crate) stage: Stage,
    pub(crate) memory: GuestMemory,
    pub(crate) vcpus: Vcpus,
    pub(crate) vgic: Vgic,
    pub(crate) bus: PciBus,
    pub(crate) guard: MmioGuard,
    pub(crate) stats: VmStats,
    pub(crate) measurement: Measurement,
    pub(crate) digest: Option<[u8; DIGEST_SIZE]>,
    pub(crate) extensible: Extensible,
    /// CNTVOFF_EL2: the guest's virtual counter starts at 0.
    pub(crate) counter_offset: u64,
}

impl Vm {
    /// The translation regime its vCPUs run in.
    pub(crate) fn regime(&self) -> Regime {
        self.memory.regime()
    }

    /// Is `ipa` inside the RAM the VM was created with?
    pub(crate) fn is_ram(&self, ipa: u64) -> bool {
        let ram = self.memory.ram();
        ipa >= ram.start().base() && ipa >> crate::addr::FRAME_SHIFT < ram.end()
    }

    /// Checks that the VM is in `stage`.
    ///
    /// # Errors
    /// [`Error::BadState`] otherwise.
    pub(crate) fn expect_stage(&self, stage: Stage) -> Result<(), Error> {
        if self.stage == stage { Ok(()) } else { Err(Error::BadState) }
    }

    /// From now on no vCPU enters. The registers of those at home are wiped
    /// here, and those of one that is out when it is back (`guest::run`): a
    /// dying VM has none, however it came to die.
    pub(crate) fn begin_dying(&mut self, m: &impl Machine) {
        self.stage = Stage::Dying;
        self.vcpus.wipe(m);
    }

    /// Closes the boot state: entry point, argument and everything the host
    /// chose become part of the measurement, and vCPU 0 is ready to run.
    ///
    /// # Errors
    /// [`Error::BadState`] if it is not being built or a device lacks bounce
    /// frames, [`Error::InvalidParameter`] if the entry is not in RAM.
    pub(crate) fn finalise(
        &mut self,
        m: &impl Machine,
        entry: u64,
        argument: u64,
        now: u64,
    ) -> Result<(), Error> {
        self.expect_stage(Stage::Building)?;
        if !self.is_ram(entry) || !entry.is_multiple_of(4) {
            return Err(Error::InvalidParameter);
        }
        if !self.bus.is_complete() {
            return Err(Error::BadState);
        }
        let (ram, vcpus) = (self.memory.ram().count(), self.vcpus.count() as u64);
        let boot = [entry, argument, ram, vcpus, self.flags];
        self.measurement.extend_fields(m, *b"BOOT", &boot);
        for (index, description) in self.bus.descriptions().enumerate() {
            let [kind, policy, pages, queues, size] = description;
            let device = [index as u64, kind, policy, pages, queues, size];
            self.measurement.extend_fields(m, *b"DEVI", &device);
        }
        self.digest = Some(self.measurement.digest(m));
        self.counter_offset = now;
        self.vcpus.start_boot(entry, argument, now)?;
        self.stage = Stage::Running;
        Ok(())
    }
}

/// The RAM of a VM of `pages` pages.
///
/// # Errors
/// [`Error::InvalidParameter`] if it is empty or would reach the 64-bit PCI
/// window.
pub(crate) fn ram_range(pages: u64) -> Result<GfnRange, Error> {
    let start = layout::RAM >> crate::addr::FRAME_SHIFT;
    let limit = layout::PCI_MEM64 >> crate::addr::FRAME_SHIFT;
    if pages > limit - start {
        return Err(Error::InvalidParameter);
    }
    GfnRange::new(start, pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_names_one_generation_of_one_slot() {
        let handle = Handle::new(2, 7);
        assert_eq!(handle.slot(), Some(2));
        assert_ne!(handle, Handle::new(2, 8));
        assert_eq!(Handle::from_raw(0).slot(), None);
        assert_eq!(Handle::from_raw(abi::MAX_VMS as u64 + 1).slot(), None);
        assert_eq!(Handle::from_raw(u64::MAX).slot(), None);
    }

    #[test]
    fn ram_ends_below_the_prefetchable_window() {
        assert!(ram_range(0).is_err());
        assert!(ram_range(u64::MAX).is_err());
        let most = (layout::PCI_MEM64 - layout::RAM) / crate::addr::FRAME_SIZE;
        assert!(ram_range(most).is_ok());
        assert!(ram_range(most + 1).is_err());
    }
}
