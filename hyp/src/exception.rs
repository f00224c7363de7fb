//! Exceptions that EL2 injects into EL1 (interim: the injection itself is being written).
use crate::{machine::Machine, syndrome::Abort, vcpu::state::Frame};
/// Interim.
pub fn inject_sync_external_abort(_m: &impl Machine, _f: &mut Frame, _a: &Abort) {}
/// Interim.
pub fn inject_undefined(_m: &impl Machine, _f: &mut Frame) {}
