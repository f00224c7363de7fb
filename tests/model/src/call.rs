//! A call of the host's, and the reasons to refuse it.

use hyp::error::Error;

/// A call as it is made: x0, immediate, x1 to x5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// x0.
    pub function: u64,
    /// The immediate of the HVC.
    pub immediate: u16,
    /// x1 to x5.
    pub a: [u64; 5],
}

/// Reasons to refuse.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Refusals {
    /// It must be refused with one of these.
    must: u16,
    /// It may be refused with one of these: the rules leave it to a part of
    /// the state (a driver's progress) that this model does not have.
    may: u16,
}

fn bit(error: Error) -> u16 {
    1 << -error.code()
}

impl Refusals {
    /// `error` is right if `so`.
    pub fn when(&mut self, so: bool, error: Error) -> &mut Self {
        self.must |= if so { bit(error) } else { 0 };
        self
    }

    /// `error` may be right if `so`.
    pub fn perhaps(&mut self, so: bool, error: Error) -> &mut Self {
        self.may |= if so { bit(error) } else { 0 };
        self
    }

    /// Must it succeed, as far as these go?
    pub fn none(self) -> bool {
        self.must == 0
    }

    /// Is `x0` an answer they allow?
    ///
    /// # Errors
    /// Why not.
    pub fn judge(self, x0: i64) -> Result<(), String> {
        if x0 == 0 && self.must == 0 {
            return Ok(());
        }
        let named = (-15..0).contains(&x0) && (self.must | self.may) & 1 << -x0 != 0;
        if named {
            return Ok(());
        }
        let codes = |set: u16| (1..16).filter(move |n| set & 1 << n != 0).map(|n| -n);
        let must: Vec<i32> = codes(self.must).collect();
        let may: Vec<i32> = codes(self.may).collect();
        Err(format!("x0 is {x0}, the rules ask for one of {must:?} (or, perhaps, {may:?})"))
    }
}
