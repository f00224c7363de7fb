//! The walk along seeds, and the watcher when somebody breaks a rule.

use super::*;
use crate::machine::Regime;

#[test]
fn thousands_of_changes_leave_the_tables_that_the_arrays_say() {
    let mut all = Tally::default();
    for seed in 0..400 {
        let tally = walk(Choices::seed(seed * 2), 40);
        all.steps += tally.steps;
        all.changes += tally.changes;
        all.refusals += tally.refusals;
        all.splits += tally.splits;
        all.merges += tally.merges;
    }
    // The test is worth its time only if all of it happens.
    assert!(all.changes > 5_000, "{all:?}");
    assert!(all.refusals > 50, "{all:?}");
    assert!(all.splits > 500 && all.merges > 200, "{all:?}");
}

/// A machine with a root, a table of blocks and a table of pages by hand:
/// frame 0 is the root, 1 and 2 hang below it.
fn by_hand() -> (Arena, [Pfn; 4], Regime) {
    let arena = Arena::new();
    arena.reset();
    let table = |index| arena::frames().start().checked_add(index).unwrap();
    let tables = [0, 1, 2, 3].map(table);
    let regime = Regime { vmid: GUEST, root: tables[0] };
    arena.attach(regime);
    arena.write_word(tables[0], 0, tables[1].base() | 0b11);
    arena.write_word(tables[1], 0, tables[2].base() | 0b11);
    arena.write_word(tables[2], 0, model::page(0x500, model::MEMORY));
    arena.publish();
    arena.settle();
    (arena, tables, regime)
}

#[test]
#[should_panic(expected = "changed without a break")]
fn a_page_that_is_replaced_by_another() {
    let (arena, tables, _) = by_hand();
    arena.write_word(tables[2], 0, model::page(0x600, model::MEMORY));
}

#[test]
#[should_panic(expected = "made valid before the old entry is invalidated")]
fn a_page_that_is_made_before_the_flush() {
    let (arena, tables, _) = by_hand();
    arena.write_word(tables[2], 0, 0);
    arena.write_word(tables[2], 0, model::page(0x600, model::MEMORY));
}

#[test]
#[should_panic(expected = "ends with a stale translation")]
fn a_page_that_is_removed_without_a_flush() {
    let (arena, tables, _) = by_hand();
    arena.write_word(tables[2], 0, 0);
    arena.settle();
}

#[test]
#[should_panic(expected = "ends with a stale translation")]
fn a_page_that_is_removed_and_another_flushed() {
    let (arena, tables, regime) = by_hand();
    arena.write_word(tables[2], 0, 0);
    arena.invalidate(regime, gfns((1, 2)));
    arena.settle();
}

#[test]
#[should_panic(expected = "a change that is not published")]
fn a_page_that_is_mapped_without_a_barrier() {
    let (arena, tables, _) = by_hand();
    arena.write_word(tables[2], 1, model::page(0x600, model::MEMORY));
    arena.settle();
}

#[test]
#[should_panic(expected = "is wiped while it is a live table")]
fn a_table_that_is_wiped_while_walkers_reach_it() {
    let (arena, tables, regime) = by_hand();
    arena.write_word(tables[1], 0, 0);
    // The page it translated, and not all that it could.
    arena.invalidate(regime, gfns((0, 1)));
    arena.zero_frame(tables[2]);
}

#[test]
#[should_panic(expected = "is filled while it is a live table")]
fn a_table_that_is_filled_while_walkers_reach_it() {
    let (arena, tables, _) = by_hand();
    arena.fill_words(tables[2], model::page(0x400, model::MEMORY), 1 << 12);
}

#[test]
fn a_table_is_filled_and_wiped_to_its_last_word() {
    let (arena, tables, _) = by_hand();
    arena.fill_words(tables[3], model::page(0x400, model::MEMORY), 1 << 12);
    let pages = (0x400..0x600).map(|pfn| model::page(pfn, model::MEMORY));
    assert!(arena.words.table(tables[3]).eq(pages));
    assert_eq!((arena.words.valid(tables[3]), arena.words.is_zero(tables[3])), (512, false));
    arena.zero_frame(tables[3]);
    assert!(arena.words.table(tables[3]).all(|word| word == 0));
    arena.write_word(tables[3], 511, 1);
    assert_eq!((arena.words.valid(tables[3]), arena.words.is_zero(tables[3])), (1, false));
    arena.zero_frame(tables[3]);
    assert!(arena.words.table(tables[3]).all(|word| word == 0));
}

#[test]
#[should_panic(expected = "linked while walkers may still reach it")]
fn a_table_that_is_reused_before_the_flush() {
    let (arena, tables, _) = by_hand();
    arena.write_word(tables[1], 0, 0);
    arena.write_word(tables[1], 1, tables[2].base() | 0b11);
}

#[test]
#[should_panic(expected = "tables half gone")]
fn a_table_that_is_empty_and_forgotten() {
    let (arena, tables, regime) = by_hand();
    arena.write_word(tables[1], 0, 0);
    arena.invalidate(regime, gfns((0, 1)));
    arena.settle();
}

#[test]
#[should_panic(expected = "which is no table of its own")]
fn a_word_of_another_frame() {
    let (arena, _, _) = by_hand();
    arena.read_word(arena::frames().start().checked_add(FRAMES).unwrap(), 0);
}

#[test]
fn a_table_that_goes_by_the_book() {
    let (arena, tables, regime) = by_hand();
    arena.write_word(tables[1], 0, 0);
    arena.invalidate(regime, gfns((0, 512)));
    arena.zero_frame(tables[2]);
    arena.write_word(tables[3], 7, model::page(0x700, model::MEMORY));
    arena.write_word(tables[1], 1, tables[3].base() | 0b11);
    arena.publish();
    arena.settle();
    assert_eq!(arena.tables_of(GUEST.0), 3);
}
