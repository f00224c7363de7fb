//! C7: hypercalls and SMCs with arguments that make no sense.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hyp::abi::host as id;
use hyp::error::Error;
use rt::smccc;

use super::{Finding, drain_events};
use crate::payload::report::GOOD;

/// Every call that takes a handle first, with its name.
const WITH_HANDLE: [(u32, &str); 16] = [
    (id::VM_TOPUP, "VM_TOPUP"),
    (id::FRAME_DONATE, "FRAME_DONATE"),
    (id::FRAME_SHARE, "FRAME_SHARE"),
    (id::VM_FINALISE, "VM_FINALISE"),
    (id::VM_MEASUREMENT, "VM_MEASUREMENT"),
    (id::VCPU_RUN, "VCPU_RUN"),
    (id::VM_STOP, "VM_STOP"),
    (id::FRAME_RECLAIM, "FRAME_RECLAIM"),
    (id::VM_DESTROY, "VM_DESTROY"),
    (id::DEVICE_CREATE, "DEVICE_CREATE"),
    (id::DEVICE_CONFIG, "DEVICE_CONFIG"),
    (id::DEVICE_STATE, "DEVICE_STATE"),
    (id::QUEUE_INFO, "QUEUE_INFO"),
    (id::DEVICE_INTERRUPT, "DEVICE_INTERRUPT"),
    (id::DEVICE_FAIL, "DEVICE_FAIL"),
    (id::UART_LINE, "UART_LINE"),
];

/// Values that are wrong in most places.
const BAD: [u64; 8] = [
    0,
    0xff,
    0x100,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_0000_0001,
    0xffff_ffff_ffff_f000,
    u64::MAX,
];

/// How a set of calls went: how many, and the first that was not refused.
#[derive(Default)]
struct Survey {
    calls: u64,
    wrong: Option<String>,
}

impl Survey {
    fn note(&mut self, refused: bool, call: impl FnOnce() -> String) {
        self.calls += 1;
        if !refused && self.wrong.is_none() {
            self.wrong = Some(call());
        }
    }

    fn finding(self, id: &'static str, what: &str, how: &str) -> Finding {
        let (outcome, detail) = match self.wrong {
            None => (GOOD, format!("{} calls, {how}", self.calls)),
            Some(call) => ("not-refused", call),
        };
        Finding { id, what: what.into(), outcome, detail }
    }
}

fn is_error(code: u64) -> bool {
    let errors = [
        Error::NotSupported,
        Error::InvalidParameter,
        Error::Denied,
        Error::NotFound,
        Error::Busy,
        Error::NoMemory,
        Error::BadState,
    ];
    errors.iter().any(|error| error.code() == code as i64)
}

/// Calls with an audit of x4 to x17: the answer's x0, and whether nothing else
/// leaked or changed.
fn call(function: u64, arguments: [u64; 5]) -> (u64, bool) {
    let [a, b, c, d, e] = arguments;
    let ([code, x1, x2, x3], changed) = smccc::hvc_audit(function, [a, b, c, d, e, 0, 0]);
    (code, changed == 0 && (code == 0 || [x1, x2, x3] == [0; 3]))
}

/// C7: every call with handles that name nothing and every other argument
/// wrong. Expected: an error, x1 to x3 zero, x4 to x17 preserved.
fn bad_handles() -> Finding {
    let mut survey = Survey::default();
    for (function, name) in WITH_HANDLE {
        for handle in BAD {
            for argument in BAD {
                let arguments = [handle, argument, argument, argument, argument];
                let (code, clean) = call(function.into(), arguments);
                survey.note(is_error(code) && clean, || {
                    format!("{name}({handle:#x}, {argument:#x}, ...) = {code:#x}, clean: {clean}")
                });
            }
        }
    }
    survey.finding("C7.handles", "every call with handles of no VM", "each an error code")
}

/// C7: a guest's own handle, and every other argument wrong. `handle` names a
/// VM that is being built.
fn bad_arguments(handle: u64) -> Finding {
    const CALLS: [(u32, &str); 9] = [
        (id::VM_TOPUP, "VM_TOPUP"),
        (id::FRAME_DONATE, "FRAME_DONATE"),
        (id::FRAME_SHARE, "FRAME_SHARE"),
        (id::VM_FINALISE, "VM_FINALISE"),
        (id::FRAME_RECLAIM, "FRAME_RECLAIM"),
        (id::DEVICE_CREATE, "DEVICE_CREATE"),
        (id::DEVICE_CONFIG, "DEVICE_CONFIG"),
        (id::QUEUE_INFO, "QUEUE_INFO"),
        (id::DEVICE_INTERRUPT, "DEVICE_INTERRUPT"),
    ];
    let mut survey = Survey::default();
    for (function, name) in CALLS {
        for value in BAD.iter().skip(1) {
            let (code, clean) = call(function.into(), [handle, *value, *value, *value, *value]);
            survey.note(is_error(code) && clean, || {
                format!("{name}(handle, {value:#x}, ...) = {code:#x}, clean: {clean}")
            });
        }
    }
    survey.finding("C7.arguments", "calls on a VM with wrong arguments", "each an error code")
}

/// C7: calls that only make sense before VM_FINALISE, on a guest that runs.
fn after_finalise(handle: u64, own: u64) -> Finding {
    let cases: [(u32, &str, [u64; 5]); 5] = [
        (id::VM_FINALISE, "VM_FINALISE", [handle, 0x4020_0000, 0, 0, 0]),
        (id::DEVICE_CREATE, "DEVICE_CREATE", [handle, 2, 1, 0, 1]),
        (id::FRAME_SHARE, "FRAME_SHARE", [handle, 0, 0, own, 1]),
        (id::FRAME_DONATE, "measured FRAME_DONATE", [handle, own, 0x40000, 1, 1]),
        (id::FRAME_RECLAIM, "FRAME_RECLAIM", [handle, own, 1, 0, 0]),
    ];
    let mut survey = Survey::default();
    for (function, name, arguments) in cases {
        let (code, clean) = call(function.into(), arguments);
        survey.note(is_error(code) && clean, || format!("{name} = {code:#x}, clean: {clean}"));
    }
    survey.finding("C7.late", "build a guest that already runs", "each an error code")
}

/// C7: function ids nobody defined, ids of other services, 32-bit ids with
/// something in the upper half, an immediate. Expected: NOT_SUPPORTED.
fn unknown_ids() -> Finding {
    let mut survey = Survey::default();
    // ABORT_STYLE is the last there is.
    let near = (1..0x40).map(|offset| u64::from(id::ABORT_STYLE) + offset);
    let far = [0, 1, 0x8600_0000, 0x8600_ff01, 0xc600_0003, 0xc400_0190, 0xc600_0000, 0x5a5a_5a5a];
    let dirty = WITH_HANDLE.iter().map(|(function, _)| u64::from(*function) | 1 << 32);
    let dirty = dirty.chain([u64::from(id::VERSION) | 1 << 63]);
    for function in near.chain(far).chain(dirty) {
        let (code, clean) = call(function, [0; 5]);
        survey.note(code as i64 == -1 && clean, || {
            format!("HVC {function:#x} = {code:#x}, clean: {clean}")
        });
    }
    let [code, ..] = smccc::hvc_imm1(id::VERSION.into(), [0; 7]);
    survey.note(code as i64 == -1, || format!("HVC #1 = {code:#x}"));
    survey.finding("C7.unknown", "unknown hypercalls and immediates", "each NOT_SUPPORTED")
}

/// C7: SMCs beyond the allow-list. Expected: NOT_SUPPORTED, and none reaches
/// the firmware.
fn smcs() -> Finding {
    let mut survey = Survey::default();
    // SYSTEM_SUSPEND, MEM_PROTECT, SYSTEM_RESET2, TRNG, a vendor call, RSI,
    // FF-A, and a 32-bit id with a dirty upper half. None only asks whether
    // something is there, which is no event.
    let unknown = [
        0xc400_000e,
        0x8400_0013,
        0xc400_0012,
        0x8400_0053,
        0x8700_0000,
        0xc400_0196,
        0x8400_0065,
        0x1_8400_0000,
    ];
    drain_events();
    for function in unknown {
        let [code, ..] = smccc::smc(function, [0; 7]);
        survey.note(code as u32 == u32::MAX, || format!("SMC {function:#x} = {code:#x}"));
    }
    // SYSTEM_OFF with an immediate: if it were taken, nobody would read this.
    let [code, ..] = smccc::smc_imm1(0x8400_0008, [0; 7]);
    survey.note(code as u32 == u32::MAX, || format!("SMC #1 = {code:#x}"));
    let events = drain_events().len() as u64;
    let calls = survey.calls;
    survey.note(events >= calls, || format!("{calls} SMCs refused, but {events} events"));
    survey.finding("C7.smc", "SMCs beyond the allow-list", "each NOT_SUPPORTED, each an event")
}

/// All of C7. `building` is a VM before VM_FINALISE, `running` one after it,
/// `own` a frame of the host's.
pub(in crate::payload) fn all(building: u64, running: u64, own: u64) -> Vec<Finding> {
    Vec::from([
        bad_handles(),
        bad_arguments(building),
        after_finalise(running, own),
        unknown_ids(),
        smcs(),
    ])
}
