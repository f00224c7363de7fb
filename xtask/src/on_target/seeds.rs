//! Rounds worth repeating: those that have taken an edge that no round before
//! them took. The next rounds are like them, with one thing changed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::edges::{Edges, Flags};
use crate::workspace::Workspace;

/// Most seeds that are kept: a new image finds all its edges anew.
const MOST: usize = 500;
/// Numbers of a mix.
const NUMBERS: usize = 9;

/// How often the host does what: `Mix` of the payload `host` says what each
/// number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix([u16; NUMBERS]);

/// The payload's own.
const USUAL: Mix = Mix([6, 3, 8, 5, 78, 10, 8, 24, 4]);
/// Least and most of each number.
const BOUNDS: [(u16, u16); NUMBERS] =
    [(0, 40), (0, 40), (0, 60), (0, 40), (10, 100), (2, 60), (1, 8), (4, 80), (1, 8)];

impl Default for Mix {
    fn default() -> Self {
        USUAL
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u16>, _> = text.split(',').map(str::parse).collect();
        let numbers = numbers.ok().and_then(|numbers| numbers.try_into().ok());
        let mix = Mix(numbers.ok_or("a mix is nine numbers, as a round prints them")?);
        // What the host would refuse: something must be done, and no rate is
        // once in zero times.
        match [4, 5, 6, 8].iter().all(|&index| mix.0[index] > 0) {
            true => Ok(mix),
            false => Err("the fifth, sixth, seventh and ninth number of a mix are not 0".into()),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u16::to_string).collect();
        write!(f, "{}", numbers.join(","))
    }
}

/// What a round does, apart from its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Choice {
    pub(super) seed: u64,
    pub(super) mix: Mix,
}

/// A kept one.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    choice: Choice,
    /// Edges it was the first to take.
    found: usize,
}

/// Everything that is kept from run to run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Seeds {
    /// The image whose edges are counted.
    image: String,
    /// The edges taken so far.
    edges: String,
    kept: Vec<Kept>,
    #[serde(skip)]
    covered: Edges,
    #[serde(skip)]
    path: PathBuf,
}

impl Seeds {
    /// What earlier runs have kept. Another image has other edges: then only
    /// the seeds stay.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(super) fn load(workspace: &Workspace, flags: &Flags) -> Result<Self> {
        let path = workspace.folder("fuzz-on-target")?.join("seeds.json");
        let mut seeds = Self::default();
        if path.exists() {
            let text = std::fs::read_to_string(&path)?;
            seeds = serde_json::from_str(&text).with_context(|| {
                format!("{} is damaged: delete it to begin anew", path.display())
            })?;
        }
        if seeds.image == flags.image {
            seeds.covered = Edges::from_text(&seeds.edges);
        } else {
            seeds.image.clone_from(&flags.image);
        }
        seeds.path = path;
        Ok(seeds)
    }

    /// Edges taken so far.
    pub(super) fn covered(&self) -> usize {
        self.covered.count()
    }

    /// Takes in what a round has reached; returns how much of it is new.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn learn(&mut self, choice: Choice, taken: &Edges) -> Result<usize> {
        let found = self.covered.add(taken);
        if found > 0 {
            self.kept.push(Kept { choice, found });
            // The oldest go: their image is long gone.
            self.kept.drain(..self.kept.len().saturating_sub(MOST));
            self.edges = self.covered.to_text();
            std::fs::write(&self.path, serde_json::to_string_pretty(self)?)?;
        }
        Ok(found)
    }

    /// What to try next: now and then something quite new, else something
    /// kept with another seed or another number in its mix.
    pub(super) fn next(&self, random: &mut Random) -> Choice {
        let fresh = Choice { seed: random.bits() & 0xffff_ffff, mix: Mix::default() };
        if self.kept.is_empty() || random.below(4) == 0 {
            return fresh;
        }
        let Some(kept) = self.kept.get(random.below(self.kept.len())) else { return fresh };
        let Choice { seed, mut mix } = kept.choice;
        let index = random.below(NUMBERS);
        if let (Some(number), Some((least, most))) = (mix.0.get_mut(index), BOUNDS.get(index)) {
            *number = least + random.below(usize::from(most - least) + 1) as u16;
        }
        let seed = if random.below(2) == 0 { seed } else { fresh.seed };
        Choice { seed, mix }
    }
}

/// xorshift64*: a run with `--seed` chooses the same again.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_read_as_it_was_shown() {
        assert_eq!(USUAL.to_string().parse(), Ok(USUAL));
        for text in ["", "1,2,3", "6,3,8,5,78,0,8,24,4", "6,3,8,5,78,10,8,24,x"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
        for ((least, most), number) in BOUNDS.iter().zip(USUAL.0) {
            assert!((least..=most).contains(&&number));
        }
    }

    #[test]
    fn what_reaches_something_new_is_kept_and_varied() {
        let folder = std::env::temp_dir().join(format!("bouncer-seeds-{}", std::process::id()));
        let mut seeds = Seeds { path: folder.clone(), ..Seeds::default() };
        let choice = Choice { seed: 7, mix: Mix([1; NUMBERS]) };
        assert_eq!(seeds.learn(choice, &Edges::from_text("011")).unwrap(), 2);
        assert_eq!(seeds.learn(choice, &Edges::from_text("010")).unwrap(), 0);
        let written: Seeds =
            serde_json::from_str(&std::fs::read_to_string(&folder).unwrap()).unwrap();
        std::fs::remove_file(folder).unwrap();
        assert_eq!((written.kept.len(), written.edges.as_str()), (1, "011"));
        let mut random = Random::new(3);
        let next: Vec<Choice> = (0..64).map(|_| seeds.next(&mut random)).collect();
        // Children of the kept one differ from it in one number at most.
        let child = |next: &&Choice| next.mix != USUAL;
        assert!(next.iter().filter(child).count() > 32);
        for next in next.iter().filter(child) {
            let other = next.mix.0.iter().filter(|number| **number != 1).count();
            assert!(other <= 1, "{next:?}");
            assert_eq!(next.mix.to_string().parse(), Ok(next.mix));
        }
        assert!(next.iter().any(|next| next.seed == 7));
    }
}
