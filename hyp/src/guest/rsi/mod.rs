//! The guest's other front end: the Realm Services Interface of Arm CCA
//! (RMM specification, DEN0137), and PSCI, by SMC.
//!
//! A distribution's stock kernel that finds it takes itself for a realm. What
//! the specification calls RIPAS, the state of a page as the guest chose it,
//! is not kept anywhere: it is read off who owns and who borrows the page.
//! All is answered at EL2; the host is asked for nothing but memory, and then
//! the guest makes its call again without knowing.
//!
//! | file | one idea |
//! |---|---|
//! | `state` | private or shared: IPA_STATE_SET, IPA_STATE_GET |
//! | `config` | REALM_CONFIG: the only memory of a guest that EL2 writes |
//! | `measure` | MEASUREMENT_READ, MEASUREMENT_EXTEND |
//! | `refused` | ATTESTATION_TOKEN_INIT, ATTESTATION_TOKEN_CONTINUE, HOST_CALL |
//!
//! `tests/contracts` has the specification's rules, one by one. Where it marks
//! bits of an argument SBZ they are ignored: a call without a failure
//! condition succeeds (DEN0137 B1.6, RVHFHD).

mod config;
mod measure;
mod refused;
mod state;

use crate::abi::rsi as id;
use crate::addr::{Gfn, GfnRange, aligned_frame_number};
use crate::error::Error;
use crate::machine::Machine;
use crate::stats::VmCounter;

use super::exposure::HostExit;
use super::{Outcome, Running};
use id::status;

/// x0 to x3 of a call that is answered.
type Answer = [u64; 4];

/// Why there is no answer but this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    /// ERROR_INPUT.
    Input,
    /// ERROR_STATE.
    State,
    /// ERROR_UNKNOWN.
    Unknown,
    /// The host must give this page first, or memcache for this alias. The pc
    /// stays on the SMC: the guest calls again when it next runs.
    Needs(Gfn),
}

impl From<Error> for Stop {
    /// What the ownership engine refuses, the guest had no right to ask for.
    fn from(_: Error) -> Self {
        Stop::Input
    }
}

impl<M: Machine> Running<'_, M> {
    /// HVC of a realm: a realm is not below a hypervisor, and calls nobody by
    /// this instruction (DEN0137 A4.5, RDNBQF). The exception is the
    /// instruction's own, and the pc is behind it (Arm ARM D1.3.5).
    pub(super) fn hvc_of_a_realm(&mut self) -> Outcome {
        let frame = &mut self.vcpu.state.frame;
        frame.pc = frame.pc.wrapping_sub(4);
        self.undefined()
    }

    /// SMC; the pc is still on it.
    pub(super) fn rsi_call(&mut self, immediate: u16) -> Outcome {
        self.count(VmCounter::Hypercalls);
        let frame = &self.vcpu.state.frame;
        let [function, a1, a2, a3] = [0, 1, 2, 3].map(|index| frame.get(index));
        let function = match u32::try_from(function) {
            Ok(function) if immediate == 0 => function,
            _ => return self.behind_smc(not_supported()),
        };
        let answer = match function {
            id::VERSION => Ok(version(a1)),
            // No feature is optional here: every register of them is 0.
            id::FEATURES => Ok([status::SUCCESS, 0, 0, 0]),
            id::MEASUREMENT_READ => self.measurement_read(a1),
            id::MEASUREMENT_EXTEND => self.measurement_extend(a1, a2),
            id::ATTESTATION_TOKEN_INIT => Ok(self.token_init()),
            id::ATTESTATION_TOKEN_CONTINUE => self.token_continue(a1, a2, a3),
            id::HOST_CALL => refused::host_call(a1),
            id::REALM_CONFIG => self.realm_config(a1),
            id::IPA_STATE_SET => self.ipa_state_set(a1, a2, a3),
            id::IPA_STATE_GET => self.ipa_state_get(a1, a2),
            _ => {
                self.advance();
                let power = self.power_call(function, [a1, a2, a3]);
                return power.unwrap_or_else(|| self.results(not_supported()));
            }
        };
        match answer {
            Ok(values) => self.behind_smc(values),
            Err(Stop::Input) => self.behind_smc([status::ERROR_INPUT, 0, 0, 0]),
            Err(Stop::State) => self.behind_smc([status::ERROR_STATE, 0, 0, 0]),
            Err(Stop::Unknown) => self.behind_smc([status::ERROR_UNKNOWN, 0, 0, 0]),
            Err(Stop::Needs(page)) => {
                self.count(VmCounter::MemoryFaults);
                Outcome::exit(HostExit::MemoryFault { page: page.base() })
            }
        }
    }

    /// A trapped SMC leaves the pc on the instruction: the answer is for the
    /// one behind it.
    fn behind_smc(&mut self, values: Answer) -> Outcome {
        self.advance();
        self.results(values)
    }
}

fn not_supported() -> Answer {
    [Error::NotSupported.code() as u64, 0, 0, 0]
}

/// VERSION(wanted) → lowest, highest: there is one. Bits from 31 up are SBZ
/// (DEN0137 B5.4.4).
fn version(wanted: u64) -> Answer {
    let wanted = wanted & 0x7fff_ffff;
    let status = if wanted == id::REVISION { status::SUCCESS } else { status::ERROR_INPUT };
    [status, id::REVISION, id::REVISION, 0]
}

/// The pages from byte `base` up to byte `top`, all in the lower half.
fn pages(base: u64, top: u64) -> Result<GfnRange, Stop> {
    let start = aligned_frame_number(base)?;
    // One past the last page of the lower half is an address of the upper.
    let end = aligned_frame_number(top)?;
    let range = GfnRange::new(start, end.checked_sub(start).ok_or(Stop::Input)?)?;
    range.alias()?;
    Ok(range)
}
