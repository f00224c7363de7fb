//! Walks: sequences of calls and accesses against plain models.
//!
//! A walk takes one decision after the other from [`Choices`], does what they
//! say to bouncer and to a model that is too simple to be wrong, and compares
//! after every step. The unit tests walk along seeds, the fuzzers along bytes
//! that coverage has bred; both are the same code.
//!
//! | walk | what | against |
//! |---|---|---|
//! | [`iotable`] | I/O tables of a guest's and the calls about them | docs/iotable.md, word by word |
//! | [`memory`] | every transition of the ownership engine | a plain map |
//! | [`stage2`] | the table code below it, alone | arrays of pages |
//! | [`vgic`] | the interrupt controller | the rules of a GICv3 without banks and list registers |
//! | [`virtio`] | the PCI and virtio transport | the promises of virtio 1.4 |

// A walk stops where something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod choices;
pub mod iotable;
pub mod memory;
pub mod stage2;
pub mod vgic;
pub mod virtio;

pub use choices::Choices;
