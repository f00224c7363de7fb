//! The table code of [`crate::stage2`] alone, against plain arrays.
//!
//! A host with blocks and a guest with pages share 64 frames of tables. What
//! the callers in [`crate::memory`] promise to `stage2` (ranges that are free,
//! pools that are large enough) the walk promises, too, and nothing more.
//! After every step the watcher is asked, no table may be lost, pools must
//! have shrunk by exactly what *prepare* counted, and the tables of every
//! region that was touched are read: every word that was written, there or in
//! the array, since they were last found the same.

mod arena;
mod calls;
mod model;
#[cfg(test)]
mod tests;
mod watch;
mod words;

use super::Choices;
use crate::addr::{GfnRange, Pfn};
use crate::machine::{Machine, Vmid};
use crate::stage2::{Attributes, Leaves, Mapping, Stage2, TablePool};
use arena::{Arena, FRAMES};
use model::{REGION, REGIONS, Space};
use std::boxed::Box;
use std::cell::RefCell;

/// Around a 1 GiB border.
const HOST_REGIONS: [u64; REGIONS] = [0x7_fc00, 0x7_fe00, 0x8_0000, 0x8_0200];
/// Around a 1 GiB border, and the end of the address space.
const GUEST_REGIONS: [u64; REGIONS] = [0x7_fe00, 0x8_0000, 0x8_0200, 0x7ff_fe00];
/// All of them are the host's.
static ALL_HOSTS: Space = Space::by_identity(HOST_REGIONS);
/// A guest that has nothing yet.
static NO_GUESTS: Space = Space::new(GUEST_REGIONS);
/// The host's memory if it begins as two blocks of 1 GiB.
const TWO_GIB: (u64, u64) = (0x4_0000, 0xc_0000);
const GUEST: Vmid = Vmid(2);

/// One address space and what it should be.
struct Side {
    /// `None` between the end of one guest and the next.
    stage2: Option<Stage2>,
    pool: TablePool,
    model: Space,
    /// The range of the last step, to come back to.
    last: (u64, u64),
}

impl Side {
    const fn new(regions: [u64; REGIONS]) -> Self {
        let model = Space::new(regions);
        Self { stage2: None, pool: TablePool::empty(), model, last: (0, 0) }
    }

    fn root(&self) -> Option<Pfn> {
        self.stage2.as_ref().map(|stage2| stage2.regime().root)
    }
}

/// The machine, which is reused from walk to walk.
struct World {
    arena: Arena,
    host: Side,
    guest: Side,
    /// The guest's tables are being taken away.
    dying: bool,
    /// Frames that are in neither pool.
    spare: TablePool,
}

/// What came of a walk.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    steps: u64,
    changes: u64,
    refusals: u64,
    splits: u64,
    merges: u64,
}

struct Walk<'w, 'c> {
    choices: Choices<'c>,
    world: &'w mut World,
    tally: Tally,
}

impl World {
    fn new() -> Box<Self> {
        Box::new(Self {
            arena: Arena::new(),
            host: Side::new(HOST_REGIONS),
            guest: Side::new(GUEST_REGIONS),
            dying: false,
            spare: TablePool::empty(),
        })
    }

    /// Boots: a host with blocks, no guest.
    fn boot(&mut self, choices: &mut Choices<'_>) {
        self.arena.reset();
        let frames = arena::frames();
        let pool = 4 + choices.below(16);
        let split = |at, count| crate::addr::PfnRange::new(at, count).unwrap();
        self.host.pool = TablePool::fresh(split(frames.start().number(), pool));
        self.spare = TablePool::fresh(split(frames.start().number() + pool, FRAMES - pool));
        self.guest.pool = TablePool::empty();
        (self.guest.stage2, self.dying) = (None, false);
        self.guest.model.lay_out(&NO_GUESTS);

        let stage2 = Stage2::for_host(&self.arena, &mut self.host.pool);
        let mut stage2 = stage2.expect("the pool has at least four");
        let model = &mut self.host.model;
        model.lay_out(&ALL_HOSTS);
        // With blocks of 1 GiB a split may take two tables, a merge may give
        // two back; with blocks of 2 MiB more happens to each.
        model.identity = if choices.one_in(4) { TWO_GIB } else { (0, 0) };
        let (start, end) = match model.identity {
            (0, 0) => (HOST_REGIONS[0], HOST_REGIONS[0] + REGIONS as u64 * REGION),
            gib => gib,
        };
        let gfns = gfns((start, end));
        let first = Pfn::new(start).unwrap();
        let (attributes, leaves) = (Attributes::MEMORY, Leaves::Blocks);
        let mapping = Mapping { gfns, first, attributes, leaves };
        stage2.map(&self.arena, &mut self.host.pool, &mapping);
        self.arena.attach(stage2.regime());
        self.arena.publish();
        self.host.stage2 = Some(stage2);
        self.host.last = (HOST_REGIONS[1], HOST_REGIONS[1] + 1);
        self.guest.last = (GUEST_REGIONS[0], GUEST_REGIONS[0] + 1);
    }

    /// Every frame is in one pool or in one tree.
    fn check_frames(&self) {
        let mut all = self.spare.len();
        for (side, vmid) in [(&self.host, Vmid::HOST), (&self.guest, GUEST)] {
            let tables = side.stage2.as_ref().map_or(0, Stage2::tables);
            all += side.pool.len() + tables;
            if vmid == Vmid::HOST || !self.dying {
                let linked = self.arena.tables_of(vmid.0);
                assert_eq!(linked, tables, "tables that the walkers of VMID {} reach", vmid.0);
            }
        }
        assert_eq!(all, FRAMES, "frames in pools and trees");
    }

    /// Everything, everywhere.
    fn compare_all(&mut self) {
        let guest = if self.dying { None } else { Some(&mut self.guest) };
        for side in core::iter::once(&mut self.host).chain(guest) {
            let Some(root) = side.root() else { continue };
            side.model.forget();
            side.model.compare_elsewhere(&self.arena.words, root);
            (0..REGIONS).for_each(|region| side.model.compare(&self.arena.words, root, region));
        }
    }
}

fn gfns((start, end): (u64, u64)) -> GfnRange {
    GfnRange::new(start, end - start).unwrap()
}

/// Walks until the choices are over or `steps` are done.
fn walk(choices: Choices<'_>, steps: u64) -> Tally {
    std::thread_local! {
        static WORLD: RefCell<Box<World>> = RefCell::new(World::new());
    }
    WORLD.with_borrow_mut(|world| {
        let mut walk = Walk { choices, world, tally: Tally::default() };
        let thorough = walk.choices.lot(16);
        walk.world.boot(&mut walk.choices);
        for _ in 0..steps {
            if walk.choices.is_over() {
                break;
            }
            walk.step();
        }
        // All that was touched has been compared. The rest is dear.
        if thorough {
            walk.world.compare_all();
        }
        walk.tally
    })
}

/// Changes tables as `choices` say, as long as there are any.
///
/// # Panics
/// If the tables are not what the model says, or a rule is broken.
pub fn run(choices: Choices<'_>) {
    walk(choices, 1000);
}
