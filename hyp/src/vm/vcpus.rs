//! The vCPUs of a VM: which exist, which are on, which runs where.
//!
//! A vCPU that runs has been moved out of its place, so that it cannot be run
//! twice; what others may do to it meanwhile (interrupts) is kept in the VM.

use crate::abi::MAX_VCPUS;
use crate::error::Error;
use crate::machine::{CpuId, Machine};
use crate::vcpu::Vcpu;
use crate::vgic::VcpuSet;

use super::boxed::{Boxed, try_box};

/// PSCI's view of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Power {
    /// Off; only CPU_ON starts it.
    Off,
    /// CPU_ON was called for it: the host may run it, and has not yet.
    Pending,
    /// On: it has run.
    On,
}

/// A vCPU's place.
#[derive(Debug)]
struct Place {
    vcpu: Option<Boxed<Vcpu>>,
    power: Power,
    /// The CPU that runs it: exactly while `vcpu` is out.
    running_on: Option<CpuId>,
    /// It returned to the host with WFI and has not been entered since.
    waiting: bool,
}

/// The vCPUs of a VM.
#[derive(Debug)]
pub(crate) struct Vcpus {
    places: [Option<Place>; MAX_VCPUS],
    count: usize,
}

/// Why CPU_ON was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StartError {
    /// No such vCPU.
    Unknown,
    /// It is on.
    AlreadyOn,
    /// It was started, and has not run yet.
    Pending,
}

impl Vcpus {
    /// `count` vCPUs, all off.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for none or more than [`MAX_VCPUS`];
    /// [`Error::NoMemory`] if the heap is exhausted.
    pub(crate) fn new(machine: &impl Machine, count: u64) -> Result<Self, Error> {
        let count = usize::try_from(count).map_err(|_| Error::InvalidParameter)?;
        if count == 0 || count > MAX_VCPUS {
            return Err(Error::InvalidParameter);
        }
        let mut places = [const { None }; MAX_VCPUS];
        for (index, place) in places.iter_mut().enumerate().take(count) {
            let vcpu = try_box(Vcpu::new(machine, index))?;
            *place = Some(Place {
                vcpu: Some(vcpu),
                power: Power::Off,
                running_on: None,
                waiting: false,
            });
        }
        Ok(Self { places, count })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Every one of them.
    pub(crate) fn all(&self) -> VcpuSet {
        let mut all = VcpuSet::EMPTY;
        (0..self.count).for_each(|index| all.insert(index));
        all
    }

    fn place(&mut self, index: u64) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(index).ok()?)?.as_mut()
    }

    /// Takes vCPU `index` out, to run it on `cpu`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, [`Error::Busy`] if it runs,
    /// [`Error::BadState`] if it is off.
    pub(crate) fn take(&mut self, index: u64, cpu: CpuId) -> Result<Boxed<Vcpu>, Error> {
        let place = self.place(index).ok_or(Error::NotFound)?;
        if place.running_on.is_some() {
            return Err(Error::Busy);
        }
        if place.power == Power::Off {
            return Err(Error::BadState);
        }
        let vcpu = place.vcpu.take().ok_or(Error::Busy)?;
        place.power = Power::On;
        place.running_on = Some(cpu);
        place.waiting = false;
        Ok(vcpu)
    }

    /// Puts a vCPU back where it came from.
    pub(crate) fn put_back(&mut self, vcpu: Boxed<Vcpu>, power: Power, waiting: bool) {
        let index = vcpu[0].index as u64;
        if let Some(place) = self.place(index) {
            place.vcpu = Some(vcpu);
            place.power = power;
            place.running_on = None;
            place.waiting = waiting;
        }
    }

    /// Forgets the registers of all that are in their places. Their VM is
    /// dying; one that still runs is wiped when it is back.
    pub(crate) fn wipe(&mut self, machine: &impl Machine) {
        for vcpu in self.places.iter_mut().flatten().filter_map(|place| place.vcpu.as_mut()) {
            vcpu[0].wipe(machine);
        }
    }

    /// Does any vCPU run?
    pub(crate) fn any_running(&self) -> bool {
        self.places.iter().flatten().any(|place| place.running_on.is_some())
    }

    /// Readies vCPU 0 at the VM's entry point.
    ///
    /// # Errors
    /// [`Error::BadState`] if it is on.
    pub(crate) fn start_boot(
        &mut self,
        entry: u64,
        argument: u64,
        offset: u64,
    ) -> Result<(), Error> {
        self.start(0, entry, argument, offset, 0).map_err(|_| Error::BadState)
    }

    /// PSCI CPU_ON; `sctlr` is added to SCTLR_EL1 as it is after a reset.
    ///
    /// # Errors
    /// See [`StartError`].
    pub(crate) fn start(
        &mut self,
        index: u64,
        entry: u64,
        argument: u64,
        offset: u64,
        sctlr: u64,
    ) -> Result<(), StartError> {
        let place = self.place(index).ok_or(StartError::Unknown)?;
        match place.power {
            Power::Off => {}
            Power::Pending => return Err(StartError::Pending),
            Power::On => return Err(StartError::AlreadyOn),
        }
        let vcpu = place.vcpu.as_mut().ok_or(StartError::AlreadyOn)?;
        vcpu[0].reset(entry, argument, offset);
        vcpu[0].state.el1.sctlr_el1 |= sctlr;
        place.power = Power::Pending;
        Ok(())
    }

    /// PSCI AFFINITY_INFO: is it on? `None` if there is no such vCPU.
    pub(crate) fn power(&mut self, index: u64) -> Option<Power> {
        self.place(index).map(|place| place.power)
    }

    /// Those of `targets` that the host must do something about: they run on
    /// another CPU than `here`, or they wait.
    pub(crate) fn to_kick(&self, targets: VcpuSet, here: CpuId) -> VcpuSet {
        let mut kick = VcpuSet::default();
        // Nearly every exit concerns nobody else.
        if targets.is_empty() {
            return kick;
        }
        for index in targets.iter() {
            if let Some(Some(place)) = self.places.get(index) {
                let elsewhere = place.running_on.is_some_and(|cpu| cpu != here);
                if elsewhere || place.waiting {
                    kick.insert(index);
                }
            }
        }
        kick
    }
}
