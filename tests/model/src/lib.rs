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
//! | `state`, `frame_set` | the abstract state |
//! | `call`, `host`, `commit` | the host's calls: reasons to refuse, next state |
//! | `firmware` | its SMCs |
//! | `guest`, `fault`, `expected` | a guest's traps: what may come of them |
//! | `realm` | the calls of a guest that speaks RSI |
//! | `iotable` | its calls about I/O tables |
//! | `abstraction`, `tables` | frame table, page tables and VMs → abstract state |
//! | `compared` | what has to be compared after a step |
//! | `adopt` | choices that are EL2's, within limits |
//! | `event`, `names`, `decode` | what can happen; what it means now; from bytes |
//! | `heap` | allocations that fail, and what a call may keep |
//! | `machine`, `session` | the small machine; both sides, side by side |
//! | `host_turn`, `host_access`, `turn`, `traps` | the host's turn, a guest's, syndromes |
//! | `sequence` | the door: `run(events)` |
//! | `ownership` | all short sequences of ownership calls |

mod abstraction;
mod adopt;
pub mod call;
pub mod commit;
pub mod compared;
mod decode;
pub mod event;
pub mod expected;
pub mod fault;
pub mod firmware;
pub mod frame_set;
pub mod guest;
pub mod heap;
pub mod host;
mod host_access;
mod host_turn;
pub mod iotable;
pub mod machine;
pub mod names;
pub mod ownership;
pub mod realm;
pub mod sequence;
pub mod session;
pub mod state;
mod tables;
mod traps;
mod turn;
