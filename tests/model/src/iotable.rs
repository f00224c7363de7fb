//! The calls about I/O tables, as far as they can be told from who owns what.
//!
//! A guest's memory holds secrets here, one word all over a frame, and none of
//! them makes sense in a table: so a table is empty or malformed, and nothing
//! is ever mapped. That each table is the guest's alone when EL2 reads it, and
//! no word is read twice, the simulated machine says. What a good table does is
//! walked through by `hyp::sim::walk::iotable`.

use crate::expected::{Exit, Expected};
use crate::state::{Page, State, Vcpu, Vm, range};
use hyp::abi::{exit, guest as id};
use hyp::addr::{FRAME_SHIFT, FRAME_SIZE};
use hyp::error::Error;
use hyp::layout::{APERTURE, APERTURE_SIZE};

/// A device's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Table {
    /// Most pages that may be mapped.
    pub budget: u64,
    /// Guest frame of the root, if one is set.
    pub root: Option<u64>,
}

/// Why there are no results.
enum Stop {
    Refused(Error),
    /// The host must give this page first; the call is made again.
    Absent(u64),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Refused(error)
    }
}

/// What may come of such a call; `None` if it is none.
pub fn call(
    state: &mut State,
    vm: &Vm,
    vcpu: &Vcpu,
    function: u32,
    a: [u64; 3],
) -> Option<Expected> {
    let result = match function {
        id::IOTABLE_INFO => table(vm, a[0])
            .map(|table| [APERTURE, APERTURE_SIZE >> FRAME_SHIFT, table.budget])
            .map_err(Stop::from),
        id::IOTABLE_SET => set(state, vm, a[0], a[1]),
        id::REFRESH => refresh(state, vm, a),
        _ => return None,
    };
    Some(match result {
        Ok([x1, x2, x3]) => Expected::results(vcpu, [0, x1, x2, x3]),
        Err(Stop::Refused(error)) => Expected::results(vcpu, [error.code() as u64, 0, 0, 0]),
        // The instruction is an HVC, and the pc is behind it.
        Err(Stop::Absent(gfn)) => {
            let wanted = Exit::Exactly([exit::MEM_FAULT, gfn << FRAME_SHIFT, 0]);
            Expected::exit(vcpu, 4u64.wrapping_neg(), wanted)
        }
    })
}

fn table(vm: &Vm, device: u64) -> Result<Table, Error> {
    let device = usize::try_from(device).ok().and_then(|index| vm.devices.get(index));
    device.and_then(|device| device.table).ok_or(Error::NotFound)
}

/// Nothing is mapped: any root will do that is RAM, and none stays behind.
fn set(state: &mut State, vm: &Vm, device: u64, root: u64) -> Result<[u64; 3], Stop> {
    table(vm, device)?;
    if !root.is_multiple_of(FRAME_SIZE) || root != 0 && !vm.is_ram(root) {
        return Err(Error::InvalidParameter.into());
    }
    let devices = state.vm_mut(vm.handle).map(|vm| &mut vm.devices);
    let device = devices.and_then(|devices| devices.get_mut(device as usize));
    if let Some(table) = device.and_then(|device| device.table.as_mut()) {
        table.root = (root != 0).then_some(root >> FRAME_SHIFT);
    }
    Ok([0; 3])
}

fn refresh(state: &State, vm: &Vm, [device, iova, pages]: [u64; 3]) -> Result<[u64; 3], Stop> {
    let aperture = APERTURE >> FRAME_SHIFT..(APERTURE + APERTURE_SIZE) >> FRAME_SHIFT;
    let places = range(iova >> FRAME_SHIFT, pages).filter(|_| iova.is_multiple_of(FRAME_SIZE));
    let inside = |r: &std::ops::Range<u64>| r.start >= aperture.start && r.end <= aperture.end;
    if !places.as_ref().is_some_and(inside) {
        return Err(Error::InvalidParameter.into());
    }
    let root = table(vm, device)?.root.ok_or(Error::BadState)?;
    let frame = state.translate(vm.slot, root).ok_or(Stop::Absent(root))?;
    if state.page(frame) != Some(Page::Guest(vm.slot, root, false)) {
        return Err(Error::Denied.into());
    }
    // A secret has bits above the addresses; anything else that can be here
    // names no RAM.
    match state.content(frame) {
        0 => Ok([pages, 0, 0]),
        _ => Err(Error::InvalidParameter.into()),
    }
}
