//! A backend that lies: the hostile device of the H rows.
//!
//! A bounce BAR does not make a device honest. It may answer requests that
//! were never made, claim lengths that no buffer has, and interrupt as it
//! likes. What it cannot do is make the guest's driver touch, or show, memory
//! outside the window.

use host::bouncer::Handle;
use host::queue::{Chain, Hostile, Queue};
use hyp::abi;

use super::calls::BOUNCER;
use super::window::Window;

/// One way to lie, kept up for a device's whole life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lie {
    /// H1: the used id is beyond the queue.
    IdBeyond,
    /// H1: the used id is another descriptor of the table.
    IdOther,
    /// H1: every request is answered twice.
    Twice,
    /// H2: more bytes written than the buffers hold.
    Length,
    /// H3: the used index jumps.
    IndexJump,
    /// H3: the used index runs backwards.
    IndexBack,
    /// H4: descriptor and buffers are rewritten once the request is answered.
    Rewrite,
    /// H5: the configuration changes with every request.
    Configuration,
    /// H6: ten interrupts for each request.
    Storm,
    /// H7: it needs a reset after every request.
    NeedsReset,
    /// H10: it answers, but writes nothing.
    Nothing,
}

impl Lie {
    pub(super) const ALL: [Lie; 11] = [
        Lie::IdBeyond,
        Lie::IdOther,
        Lie::Twice,
        Lie::Length,
        Lie::IndexJump,
        Lie::IndexBack,
        Lie::Rewrite,
        Lie::Configuration,
        Lie::Storm,
        Lie::NeedsReset,
        Lie::Nothing,
    ];

    /// Its row, and a word of its own.
    pub(super) fn id(self) -> &'static str {
        match self {
            Lie::IdBeyond => "H1.beyond",
            Lie::IdOther => "H1.other",
            Lie::Twice => "H1.twice",
            Lie::Length => "H2.length",
            Lie::IndexJump => "H3.jump",
            Lie::IndexBack => "H3.back",
            Lie::Rewrite => "H4.rewrite",
            Lie::Configuration => "H5.config",
            Lie::Storm => "H6.storm",
            Lie::NeedsReset => "H7.needs-reset",
            Lie::Nothing => "H10.nothing",
        }
    }

    /// The one with this id.
    pub(super) fn of(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lie| lie.id() == id)
    }

    /// What it does, for people.
    pub(super) fn words(self) -> &'static str {
        match self {
            Lie::IdBeyond => "answer with an id beyond the queue",
            Lie::IdOther => "answer with the id of another request",
            Lie::Twice => "answer every request twice",
            Lie::Length => "claim to have written 4 GiB",
            Lie::IndexJump => "let the used index jump",
            Lie::IndexBack => "let the used index run backwards",
            Lie::Rewrite => "rewrite descriptors and buffers after each answer",
            Lie::Configuration => "change the capacity with every request",
            Lie::Storm => "send ten interrupts for every request",
            Lie::NeedsReset => "ask for a reset after every request",
            Lie::Nothing => "answer without writing anything",
        }
    }

    /// May the request be served before it is answered?
    pub(super) fn serves(self) -> bool {
        self != Lie::Nothing
    }

    /// Answers `chain`, whose service wrote `written` bytes, with the lie.
    /// Returns vCPUs to kick.
    pub(super) fn answer(
        self,
        (vm, device, number): (Handle, u64, u16),
        queue: &mut Queue,
        window: &Window,
        chain: &Chain,
        written: u32,
    ) -> Result<u64, Hostile> {
        let id = u32::from(chain.head());
        let interrupt = || BOUNCER.device_interrupt(vm, device, number.into()).unwrap_or(0);
        match self {
            Lie::IdBeyond => queue.forge(window, 0xdead_beef, written, 1)?,
            Lie::IdOther => queue.forge(window, id ^ 1, written, 1)?,
            Lie::Twice => {
                queue.forge(window, id, written, 1)?;
                queue.forge(window, id, written, 1)?;
            }
            Lie::Length => queue.forge(window, id, u32::MAX, 1)?,
            Lie::IndexJump => queue.forge(window, id, written, 0x7000)?,
            Lie::IndexBack => queue.forge(window, id, written, 0xffff)?,
            Lie::Rewrite => {
                queue.forge(window, id, written, 1)?;
                queue.spoil(window, chain)?;
            }
            Lie::Configuration => {
                queue.forge(window, id, written, 1)?;
                let sectors = u64::from(id) << 32 | u64::from(written);
                // Refused only if the driver reset the device meanwhile.
                let _ = BOUNCER.device_config(vm, device, 0, sectors, 8);
            }
            Lie::Storm => {
                queue.forge(window, id, written, 1)?;
                (0..9).for_each(|_| {
                    let _ = BOUNCER.device_interrupt(vm, device, abi::CAUSE_CONFIG);
                    interrupt();
                });
            }
            Lie::NeedsReset => {
                queue.forge(window, id, written, 1)?;
                let _ = BOUNCER.device_fail(vm, device);
            }
            Lie::Nothing => queue.forge(window, id, written, 1)?,
        }
        Ok(interrupt())
    }
}
