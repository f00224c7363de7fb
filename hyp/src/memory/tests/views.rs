//! Runs say what the same pages say one by one, whatever is asked of them.

use super::super::views::{View, Views};
use super::*;
use crate::addr::FRAME_LIMIT;
use crate::memory::PART_PAGES;
use crate::sim::walk::Choices;

const NOT: View = View::NOTHING;

/// Pages one by one, in runs of random length: all sorts of borders, the last
/// frame that there is among them.
fn some_pages(choices: &mut Choices<'_>) -> Vec<View> {
    let mut pages = Vec::new();
    let longest = choices.pick(&[1, 3, 200, 600]);
    while pages.len() < PART_PAGES {
        let first = choices.pick(&[0, 1, 7, 8, 511, 0x4_0000, FRAME_LIMIT - 3, FRAME_LIMIT - 1]);
        let count = 1 + choices.below(longest);
        let (kind, step) = (choices.below(4), choices.below(3));
        for page in 0..count {
            let number = first + if step == 0 { 0 } else { page };
            pages.push(match kind {
                0 => NOT,
                _ => View::new(number % FRAME_LIMIT, kind == 1),
            });
        }
    }
    pages.truncate(choices.pick(&[1, 2, 17, PART_PAGES - 1, PART_PAGES, PART_PAGES]));
    pages
}

/// The same as runs, which are pushed a page at a time or some at once.
fn runs(choices: &mut Choices<'_>, pages: &[View]) -> Views {
    let mut views = Views::default();
    let mut rest = pages;
    while let [first, ..] = rest {
        let number = first.number();
        let goes_on = |(at, view): (u64, &View)| {
            view.number() == number.map(|number| number + at)
                && view.is_writable() == first.is_writable()
        };
        let alike = (0..).zip(rest).take_while(|pair| goes_on((pair.0, pair.1))).count() as u64;
        let some = 1 + choices.below(alike);
        views.push(*first, some);
        rest = &rest[some as usize..];
    }
    views
}

/// Page by page what a list says.
fn flat(views: &Views) -> Vec<View> {
    let mut pages = Vec::new();
    for (at, first, count) in views.iter() {
        assert_eq!(at, pages.len() as u64);
        assert!(count > 0);
        let page =
            |page| first.number().map(|number| View::new(number + page, first.is_writable()));
        pages.extend((0..count).map(|at| page(at).unwrap_or(NOT)));
    }
    pages
}

#[test]
fn runs_say_what_their_pages_say() {
    let mut choices = Choices::seed(0x5eed);
    for _ in 0..400 {
        let pages = some_pages(&mut choices);
        let views = runs(&mut choices, &pages);
        assert_eq!((views.pages(), flat(&views)), (pages.len() as u64, pages.clone()));

        let numbers: Vec<u64> = pages.iter().filter_map(|view| view.number()).collect();
        let frames: Vec<u64> = views.each_frame().map(|frame| frame.number()).collect();
        assert_eq!(frames, numbers);

        let mut stretched = std::vec![false; pages.len()];
        let mut end = None;
        views.for_each_stretch(|from, count| {
            assert!(count > 0 && end.is_none_or(|end| from > end), "stretches are apart");
            end = Some(from + count);
            stretched[from as usize..][..count as usize].fill(true);
        });
        assert!(
            stretched.iter().eq(pages.iter().map(|view| *view != NOT).collect::<Vec<_>>().iter())
        );
    }
}

/// What changes between two lists, as REFRESH looks for it.
#[test]
fn two_lists_are_compared_page_by_page() {
    let mut choices = Choices::seed(0xc0de);
    for _ in 0..400 {
        let left = some_pages(&mut choices);
        let mut right = some_pages(&mut choices);
        // Some of it stays.
        let same = choices.below(left.len() as u64) as usize;
        let end = right.len().min(left.len());
        right.resize(left.len(), NOT);
        right[same.min(end)..].copy_from_slice(&left[same.min(end)..]);
        let (lefts, rights) = (runs(&mut choices, &left), runs(&mut choices, &right));
        let (mut gone, mut coming) = (Views::default(), Views::default());
        lefts.for_each_pair(&rights, |left, right, count| {
            let one_of = |view| if left == right { NOT } else { view };
            gone.push(one_of(left), count);
            coming.push(one_of(right), count);
        });
        let differ = |of: &[View]| -> Vec<View> {
            let pairs = left.iter().zip(&right).zip(of);
            pairs.map(|((left, right), view)| if left == right { NOT } else { *view }).collect()
        };
        assert_eq!((flat(&gone), flat(&coming)), (differ(&left), differ(&right)));
    }
}

/// The budget's end cuts a run, and what is before it stays where it is.
#[test]
fn the_first_pages_are_kept_where_they_are() {
    let mut choices = Choices::seed(0xcafe);
    for _ in 0..400 {
        let pages = some_pages(&mut choices);
        let mut views = runs(&mut choices, &pages);
        let there = pages.iter().filter(|view| **view != NOT).count() as u64;
        let count = choices.below(there + 2).min(there);
        views.keep(count);
        let at = |views: &Views| -> Vec<(u64, u64)> {
            let runs = views.frames();
            runs.flat_map(|(page, run, _)| (page..).zip(run.iter().map(|f| f.number()))).collect()
        };
        let all = (0..).zip(&pages).filter_map(|(page, view)| Some((page, view.number()?)));
        assert_eq!(at(&views), all.take(count as usize).collect::<Vec<_>>());
    }
}
