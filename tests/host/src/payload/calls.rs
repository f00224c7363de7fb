//! The conduit to EL2.

use host::bouncer::{Bouncer, Conduit};
use rt::smccc;

/// HVC #0, with the arguments in x1 to x5.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hvc;

impl Conduit for Hvc {
    fn call(&self, function: u32, arguments: [u64; 5]) -> [u64; 4] {
        let [a, b, c, d, e] = arguments;
        smccc::hvc(function.into(), [a, b, c, d, e, 0, 0])
    }
}

/// bouncer, from EL1.
pub(super) const BOUNCER: Bouncer<Hvc> = Bouncer(Hvc);
