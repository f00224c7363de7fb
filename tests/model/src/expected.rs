//! What may come of a guest's trap.

use crate::state::{Vcpu, Vm};
use hyp::abi::exit;

/// Where a vCPU goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Here.
    At(u64),
    /// In one of its exception vectors.
    Vector,
    /// Here, or in a vector: the part of the state that decides is not here.
    Either(u64),
}

/// A return to the host that is allowed: x1 to x3 without the kick bitmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Exactly these; x3 only with MMIO.
    Exactly([u64; 3]),
    /// This reason, for a device of the VM.
    Device(u64),
    /// WFI, with one of these deadlines.
    Wait(u64),
    /// Other vCPUs have something to take.
    Kick,
}

/// What may come of a trap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// May the guest simply go on?
    pub resume: bool,
    /// Other ways it may end.
    pub exits: Vec<Exit>,
    /// Its registers then.
    pub x: [u64; 31],
    /// But this one is EL2's to choose.
    pub free: Option<usize>,
    /// Or this in x0: two reasons to refuse, and either will do.
    pub or_x0: Option<u64>,
    /// Where it goes on.
    pub next: Next,
    /// What else is EL2's choice, within limits.
    pub adopt: Adopt,
}

/// A choice of EL2's or of the device model's that the abstract state takes
/// over, after it has been checked against its limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adopt {
    /// None.
    Nothing,
    /// Which pages behind this one of a device's bounce window are mapped.
    Pages(u64),
    /// Where the bounce windows are now.
    Windows,
}

impl Expected {
    /// It goes on, `advance` bytes further.
    pub fn resume(vcpu: &Vcpu, advance: u64) -> Self {
        Self {
            resume: true,
            exits: Vec::new(),
            x: vcpu.x,
            free: None,
            or_x0: None,
            next: Next::At(vcpu.pc.wrapping_add(advance)),
            adopt: Adopt::Nothing,
        }
    }

    pub(crate) fn exit(vcpu: &Vcpu, advance: u64, exit: Exit) -> Self {
        Self { resume: false, exits: vec![exit], ..Self::resume(vcpu, advance) }
    }

    pub(crate) fn vector(vcpu: &Vcpu) -> Self {
        Self { next: Next::Vector, ..Self::resume(vcpu, 0) }
    }

    /// Results of a hypercall.
    pub(crate) fn results(vcpu: &Vcpu, values: [u64; 4]) -> Self {
        let mut expected = Self::resume(vcpu, 0);
        expected.x[..4].copy_from_slice(&values);
        expected
    }

    pub(crate) fn or(mut self, exit: Exit) -> Self {
        self.exits.push(exit);
        self
    }
}

/// The VM a trap came from is always there; if not, nothing is allowed.
pub(crate) fn gone() -> Expected {
    Expected { resume: false, ..Expected::resume(&Vcpu::default(), 0) }
}

/// Is this how VCPU_RUN may return? `x` are x1 to x3.
///
/// # Errors
/// Why not.
pub fn judge_exit(expected: &Expected, dying: bool, vm: &Vm, x: [u64; 3]) -> Result<(), String> {
    let kick = |bitmap: u64| bitmap >> vm.vcpus.len() == 0;
    let fits = |exit: &Exit| match *exit {
        Exit::Exactly([reason, x2, x3]) if reason & 0xff == exit::MMIO => x == [reason, x2, x3],
        Exit::Exactly([reason, x2, _]) => x[..2] == [reason, x2] && kick(x[2]),
        Exit::Device(reason) => {
            let device = (x[1] & 0xffff) as usize;
            x[0] == reason && device < vm.devices.len() && kick(x[2])
        }
        Exit::Wait(deadline) => x[0] == exit::WFI && (x[1] == deadline || x[1] == 0) && kick(x[2]),
        Exit::Kick => x[0] == exit::KICK && x[1] == x[2] && x[1] != 0 && kick(x[1]),
    };
    let dead = expected.resume && dying && x[..2] == [exit::DEAD, 0] && kick(x[2]);
    // Whatever it did, an interrupt that it no longer takes may now be
    // another vCPU's.
    let moved = expected.resume && fits(&Exit::Kick);
    if dead || moved || expected.exits.iter().any(fits) {
        return Ok(());
    }
    Err(format!("returns to the host with {x:x?}, the rules ask for {expected:x?}"))
}
