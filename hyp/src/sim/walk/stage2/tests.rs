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
    assert_eq!(arena.next_word(tables[3], 0), Some((511, 1)));
    assert_eq!(arena.next_word(tables[3], 512), None);
    arena.write_word(tables[3], 496, 4);
    let next = [0, 496, 497, 511].map(|from| arena.next_word(tables[3], from).unwrap().0);
    assert_eq!(next, [496, 496, 511, 511]);
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

/// Three pages side by side beside that of [`by_hand`].
fn three() -> (Arena, [Pfn; 4], Regime) {
    let (arena, tables, regime) = by_hand();
    arena.write_words(tables[2], 1..4, model::page(0x601, model::MEMORY), 1 << 12);
    arena.publish();
    arena.settle();
    (arena, tables, regime)
}

#[test]
fn a_run_of_pages_that_goes_by_the_book() {
    let (arena, tables, regime) = three();
    // Another mark needs no break; what is not mapped may be removed again.
    arena.write_words(tables[2], 1..4, model::page(0x601, model::BORROWED), 1 << 12);
    arena.settle();
    arena.write_words(tables[2], 1..10, 0, 0);
    arena.invalidate(regime, gfns((1, 4)));
    arena.write_words(tables[2], 1..4, model::page(0x700, model::MEMORY), 1 << 12);
    arena.publish();
    arena.settle();
    let words = [0x700, 0x701, 0x702].map(|pfn| model::page(pfn, model::MEMORY));
    assert!(arena.words.table(tables[2]).skip(1).take(3).eq(words));
    assert_eq!(arena.words.valid(tables[2]), 4);
}

#[test]
#[should_panic(expected = "a change that is not published")]
fn a_run_of_pages_that_is_mapped_without_a_barrier() {
    let (arena, tables, _) = by_hand();
    arena.write_words(tables[2], 0..2, arena.read_word(tables[2], 0), 1 << 12);
    arena.settle();
}

#[test]
#[should_panic(expected = "changed without a break")]
fn a_run_of_pages_of_which_one_is_mapped_elsewhere() {
    let (arena, tables, _) = three();
    arena.write_words(tables[2], 3..7, model::page(0x604, model::MEMORY), 1 << 12);
}

#[test]
#[should_panic(expected = "ends with a stale translation")]
fn a_run_of_pages_of_which_one_is_not_flushed() {
    let (arena, tables, regime) = three();
    arena.write_words(tables[2], 0..4, 0, 0);
    arena.invalidate(regime, gfns((0, 3)));
    arena.settle();
}

#[test]
#[should_panic(expected = "made valid before the old entry is invalidated")]
fn a_run_of_pages_that_is_made_again_before_the_flush() {
    let (arena, tables, _) = three();
    arena.write_words(tables[2], 3..4, 0, 0);
    arena.write_words(tables[2], 3..5, model::page(0x603, model::DEVICE), 1 << 12);
}

#[test]
#[should_panic(expected = "gets an entry while walkers may reach it")]
fn a_run_of_pages_in_a_table_that_is_gone() {
    let (arena, tables, _) = three();
    arena.write_word(tables[1], 0, 0);
    arena.write_words(tables[2], 5..7, model::page(0x605, model::MEMORY), 1 << 12);
}

#[test]
#[should_panic(expected = "which is no table of its own")]
fn a_run_of_words_of_another_frame() {
    let (arena, _, _) = by_hand();
    arena.write_words(arena::frames().start().checked_add(FRAMES).unwrap(), 0..2, 0, 0);
}

/// Whatever the tables and the array differ in, wherever it was changed.
#[test]
fn a_comparison_of_what_is_new_misses_nothing() {
    use super::words::{ALL_STRIDES, strides};
    let table = arena::frames().start();
    let fresh = || {
        let arena = Arena::new();
        arena.reset();
        arena
    };
    for index in [0, 15, 16, 300, 511] {
        let (arena, mut expected) = (fresh(), [0; arena::WORDS]);
        let differ = |expected: &_, news| arena.words.differ(table, expected, news);
        assert!(!differ(&expected, ALL_STRIDES));
        arena.write_word(table, index, 5);
        assert!(differ(&expected, 0), "written at {index}");
        expected[index] = 5;
        assert!(!differ(&expected, ALL_STRIDES));
        arena.zero_frame(table);
        assert!(differ(&expected, 0), "wiped at {index}");
        expected[index] = 0;
        assert!(!differ(&expected, ALL_STRIDES));
        expected[index] = 6;
        assert!(differ(&expected, strides(index..index + 1)), "expected at {index}");
    }
    let (arena, nothing) = (fresh(), [0; arena::WORDS]);
    arena.write_words(table, 15..17, 7, 0);
    assert!(arena.words.differ(table, &nothing, 0));
    arena.fill_words(table, 1, 0);
    assert!(arena.words.differ(table, &nothing, 0));
    let borders = [strides(0..512), strides(31..32), strides(15..17), strides(496..512)];
    assert_eq!(borders, [ALL_STRIDES, 0b10, 0b11, 1 << 31]);
}
