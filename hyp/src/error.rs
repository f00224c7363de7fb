//! The one error type of the policy, and its one map to ABI codes.

/// Why a call was refused. A refused call has changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Unknown function, or one this caller may not make.
    NotSupported,
    /// An argument is malformed whatever the state: misaligned, empty,
    /// wrapping, beyond the address space, an unknown flag.
    InvalidParameter,
    /// The ownership, borrow or pin state of a frame does not allow it, or
    /// the party has no right to it.
    Denied,
    /// No such VM, vCPU, device, queue, mapping or event.
    NotFound,
    /// Somebody uses it right now (a vCPU that runs, a device that is live).
    Busy,
    /// A bounded pool is empty: page tables, heap, slots.
    NoMemory,
    /// The VM, vCPU or device is in a stage of life that does not allow it.
    BadState,
}

impl Error {
    /// The value of x0 (SMCCC return codes are negative; DEN0028G.b
    /// table 7-1 fixes −1 and −3, the rest are ours).
    pub const fn code(self) -> i64 {
        match self {
            Error::NotSupported => -1,
            Error::InvalidParameter => -3,
            Error::Denied => -4,
            Error::NotFound => -5,
            Error::Busy => -6,
            Error::NoMemory => -7,
            Error::BadState => -8,
        }
    }
}
