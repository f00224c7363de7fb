//! Every sequence of ownership calls, up to a depth.
//!
//! A breadth-first search over the abstract states that can be reached with
//! three frames to play with, two guests, the host and EL2. Random sequences
//! find deep states; this finds *all* shallow ones. In each state every call
//! of [`alphabet`] is made on the real hypervisor, and the model judges it. A
//! refused call changes nothing (the session checks that), so only the calls
//! that succeed cost a new machine.

use crate::event::{Event, FrameName, HostAction, HostCall, Instruction, IpaName, Step, VmName};
use crate::session::Session;
use crate::state::{Page, RAM, Stage, State};
use hyp::abi::{self, guest, rsi};
use std::collections::{HashSet, VecDeque};

/// What a search has seen.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Coverage {
    /// Longest sequence.
    pub depth: usize,
    /// Different states, the first included.
    pub states: usize,
    /// Calls made in them.
    pub transitions: u64,
    /// That succeeded.
    pub successes: u64,
    /// Is there nothing beyond this depth?
    pub complete: bool,
}

/// What two states must share to be the same for ownership: the frames in
/// play and the frames EL2 has for tables, and how far each VM is in life.
/// Contents, counters and registers are checked on the way but do not matter.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    frames: [Option<Page>; PLAYED as usize],
    tables: [u64; GUESTS as usize],
    vms: Vec<Option<(Stage, bool, Vec<bool>)>>,
}

/// Frames in play.
const PLAYED: u64 = 3;
/// Guests.
const GUESTS: u8 = 2;
/// The first frame in play: behind the frames of both memcaches.
const FIRST: u64 = 0x4_0000 + 2 * MEMCACHE;
/// Frames of a memcache.
const MEMCACHE: u64 = 8;
/// Places in a guest's RAM that are in play.
const PLACES: u64 = 2;

fn key(state: &State) -> Key {
    let vm = |slot| {
        let vm = state.vm_in(slot)?;
        Some((vm.stage, vm.unlinked, vm.vcpus.iter().map(|vcpu| vcpu.on).collect()))
    };
    Key {
        frames: std::array::from_fn(|offset| state.page(FIRST + offset as u64)),
        tables: std::array::from_fn(|slot| state.tables_held(slot as u8)),
        vms: (0..GUESTS).map(vm).collect(),
    }
}

fn call(call: HostCall) -> Event {
    Event::Host(0, HostAction::Call(call))
}

/// VM_CREATE: the guest in slot 0 is pKVM's, the other a realm.
fn create(slot: u8, pfn: FrameName) -> Event {
    let flags = if slot == 0 { 0 } else { abi::CREATE_RSI };
    call(HostCall::VmCreate { pfn, count: MEMCACHE, ram: PLACES, vcpus: 1, flags })
}

/// What the guest in `slot` can do to a page of its.
fn guest_calls(slot: u8, page: u64) -> Vec<Event> {
    let base = IpaName::Ram(page as u8, 0);
    let hvc = |function: u32| Instruction::Hvc {
        function: function.into(),
        immediate: 0,
        arguments: (base, 1, 0),
    };
    let smc = |state: u64| Instruction::Realm {
        function: rsi::IPA_STATE_SET.into(),
        base,
        pages: 1,
        state: (state, 0),
    };
    let instructions = match slot {
        0 => {
            use guest::{MEM_RELINQUISH, MEM_SHARE, MEM_UNSHARE, MEM_UNSHARE_ALL};
            [MEM_SHARE, MEM_UNSHARE, MEM_UNSHARE_ALL, MEM_RELINQUISH].map(hvc).to_vec()
        }
        _ => [rsi::ripas::EMPTY, rsi::ripas::RAM].map(smc).to_vec(),
    };
    instructions.into_iter().map(|instruction| guest_call(slot, instruction)).collect()
}

/// One call of the guest in `slot`.
fn guest_call(slot: u8, instruction: Instruction) -> Event {
    let steps = vec![Step::Guest(instruction)];
    Event::Host(0, HostAction::Run { vm: VmName::Raw(handle(slot)), vcpu: 0, reply: 0, steps })
}

/// The handle of the first VM in a slot; later ones are out of reach of the
/// search, which makes each VM once.
fn handle(slot: u8) -> u64 {
    1 << 8 | (u64::from(slot) + 1)
}

/// Two guests that can run, each with a device that wants a bounce page.
fn beginning() -> Vec<Event> {
    (0..GUESTS)
        .flat_map(|slot| {
            let pfn = FrameName::Raw(0x4_0000 + u64::from(slot) * MEMCACHE);
            let vm = VmName::Raw(handle(slot));
            [
                create(slot, pfn),
                call(HostCall::DeviceCreate { vm, kind: 4, policy: 0, pages: 16, queues: 1 }),
            ]
        })
        .collect()
}

/// Every call that moves or lends a frame, with every frame in play.
fn alphabet() -> Vec<Event> {
    let mut events = Vec::new();
    for slot in 0..GUESTS {
        let vm = VmName::Raw(handle(slot));
        for frame in 0..PLAYED {
            let pfn = FrameName::Raw(FIRST + frame);
            events.push(call(HostCall::VmTopup { vm, pfn, count: 1 }));
            events.push(call(HostCall::FrameReclaim { vm, pfn, count: 1 }));
            let page = frame;
            events.push(call(HostCall::FrameShare { vm, device: 0, page, pfn, count: 1 }));
            for place in 0..PLACES {
                let gfn = RAM + place;
                for flags in [0, 1] {
                    events.push(call(HostCall::FrameDonate { vm, pfn, gfn, count: 1, flags }));
                }
            }
        }
        // All of a range or nothing of it.
        let pfn = FrameName::Raw(FIRST);
        events.push(call(HostCall::FrameDonate { vm, pfn, gfn: RAM, count: 2, flags: 0 }));
        events.push(call(HostCall::FrameReclaim { vm, pfn, count: PLAYED }));
        for page in 0..PLACES {
            events.extend(guest_calls(slot, page));
        }
        events.push(call(HostCall::VmStop { vm }));
        events.push(call(HostCall::VmDestroy { vm }));
    }
    events
}

/// The second beginning: the guests are finalised, so that they can share and
/// relinquish, and have no device.
fn running() -> Vec<Event> {
    let build = |slot: u8| {
        let pfn = FrameName::Raw(0x4_0000 + u64::from(slot) * MEMCACHE);
        let vm = VmName::Raw(handle(slot));
        [create(slot, pfn), call(HostCall::VmFinalise { vm, entry: 0x4000_0000, argument: 0 })]
    };
    (0..GUESTS).flat_map(build).collect()
}

/// Which half of a VM's life a search begins in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// Both guests are being built and have a device.
    Building,
    /// Both can run.
    Running,
}

/// Searches all sequences of up to `depth` calls. `progress` hears of each
/// depth that is done.
///
/// # Errors
/// The first rule broken, with the calls that lead there.
pub fn search(
    begin: Begin,
    depth: usize,
    mut progress: impl FnMut(&Coverage),
) -> Result<Coverage, String> {
    let first = match begin {
        Begin::Building => beginning(),
        Begin::Running => running(),
    };
    let alphabet = alphabet();
    let mut seen = HashSet::new();
    let mut coverage = Coverage { states: 1, ..Coverage::default() };
    seen.insert(key(&replay(&first, &[], &alphabet)?.state()));
    let mut frontier: VecDeque<Vec<u8>> = VecDeque::from([Vec::new()]);
    while coverage.depth < depth && !frontier.is_empty() {
        let mut next = VecDeque::new();
        for path in frontier {
            let mut session = replay(&first, &path, &alphabet)?;
            for (letter, event) in (0u8..).zip(&alphabet) {
                let before = session.stats().successes;
                session
                    .apply(event)
                    .map_err(|reason| explain(&first, &path, letter, &alphabet, &reason))?;
                coverage.transitions += 1;
                if session.stats().successes == before {
                    continue;
                }
                coverage.successes += 1;
                session
                    .finish()
                    .map_err(|reason| explain(&first, &path, letter, &alphabet, &reason))?;
                if seen.insert(key(&session.state())) {
                    next.push_back(path.iter().copied().chain([letter]).collect());
                }
                session = replay(&first, &path, &alphabet)?;
            }
        }
        frontier = next;
        coverage.depth += 1;
        coverage.states = seen.len();
        progress(&coverage);
    }
    coverage.complete = frontier.is_empty();
    Ok(coverage)
}

fn replay(first: &[Event], path: &[u8], alphabet: &[Event]) -> Result<Session, String> {
    let session = Session::new(false)?;
    let letters = path.iter().filter_map(|letter| alphabet.get(usize::from(*letter)));
    first.iter().chain(letters).try_for_each(|event| session.apply(event))?;
    Ok(session)
}

fn explain(first: &[Event], path: &[u8], last: u8, alphabet: &[Event], reason: &str) -> String {
    let Ok(session) = Session::new(true) else { return reason.into() };
    let letters = path.iter().chain([&last]).filter_map(|l| alphabet.get(usize::from(*l)));
    let again = first.iter().chain(letters).try_for_each(|event| session.apply(event));
    format!("{}\n{reason}\n(alone: {again:?})", session.listing())
}
