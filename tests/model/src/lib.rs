//! An oracle that knows the rules.
//!
//! The *model* computes, for each call, trap and event, which outcome
//! docs/abi.md, docs/page.md and docs/trap.md allow and what the state is
//! afterwards. It is written from them, not from the code, and it knows
//! nothing of tables, pools, locks or TLBs. A [`session::Session`] runs the
//! real hypervisor on the simulated machine beside it, translates the
//! concrete state into the abstract one, and compares after every trap.
//!
//! | file | one idea |
//! |---|---|
//! | `state` | the abstract state |
//! | `host`, `guest` | the rules: which outcome is allowed, what comes next |
//! | `abstraction` | frame table, page tables and VMs → abstract state |
//! | `event`, `names`, `decode` | what can happen; what it means now; from bytes |
//! | `session`, `turn`, `traps` | host traps; a guest's turn; syndromes |
//! | `sequence` | the door: `run(events)` |
//! | `ownership` | all short sequences of ownership calls |

pub mod abstraction;
mod decode;
pub mod event;
pub mod guest;
pub mod host;
pub mod machine;
pub mod names;
pub mod ownership;
pub mod sequence;
pub mod session;
pub mod state;
mod traps;
mod turn;
