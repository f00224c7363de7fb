//! Which edges of bouncer's code a round has taken: one byte for each, set by
//! the instrumentation (sancov's flags), in EL2's memory, read from outside.

use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSymbol};
use sha2::{Digest, Sha256};

use crate::qemu::Qemu;
use crate::story::BOUNCER;

/// The bounds of the flags, as `image.ld` names them.
const BOUNDS: [&str; 2] = ["__start___sancov_bools", "__stop___sancov_bools"];

/// Where the flags of one image are.
#[derive(Debug, Clone)]
pub(super) struct Flags {
    start: u64,
    /// How many edges there are.
    pub(super) total: usize,
    /// The image they belong to.
    pub(super) image: String,
}

impl Flags {
    /// Finds them by the image's symbols.
    ///
    /// # Errors
    /// If the image was built without instrumentation.
    pub(super) fn find(elf: &Path) -> Result<Self> {
        let bytes = std::fs::read(elf)?;
        let file = object::File::parse(&*bytes)?;
        let address = |name: &str| {
            let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
            symbol.map(|symbol| symbol.address()).with_context(|| format!("no symbol {name}"))
        };
        let [start, stop] = [address(BOUNDS[0])?, address(BOUNDS[1])?];
        if stop <= start {
            bail!("{} is not instrumented: it has no flags for edges", elf.display());
        }
        let digest = Sha256::digest(&bytes);
        let image = digest.iter().take(8).map(|byte| format!("{byte:02x}"));
        let total = usize::try_from(stop - start)?;
        Ok(Self { start: BOUNCER + start, total, image: image.collect() })
    }

    /// Reads them out of a machine that has stopped, by way of `file`.
    ///
    /// # Errors
    /// When the emulator does not give its memory out.
    pub(super) fn read(&self, qemu: &mut Qemu, file: &Path) -> Result<Edges> {
        qemu.save_memory(self.start, self.total as u64, file)?;
        let flags =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        std::fs::remove_file(file)?;
        Ok(Edges(flags.iter().map(|flag| *flag != 0).collect()))
    }
}

/// A set of edges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Edges(Vec<bool>);

impl Edges {
    /// How many.
    pub(super) fn count(&self) -> usize {
        self.0.iter().filter(|taken| **taken).count()
    }

    /// Adds others; returns how many of them are new.
    pub(super) fn add(&mut self, others: &Self) -> usize {
        let before = self.count();
        self.0.resize(self.0.len().max(others.0.len()), false);
        for (here, there) in self.0.iter_mut().zip(&others.0) {
            *here |= there;
        }
        self.count() - before
    }

    /// As text of ones and zeros.
    pub(super) fn to_text(&self) -> String {
        self.0.iter().map(|taken| if *taken { '1' } else { '0' }).collect()
    }

    /// From such text.
    pub(super) fn from_text(text: &str) -> Self {
        Self(text.chars().map(|digit| digit == '1').collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_add_up_and_survive_as_text() {
        let mut all = Edges::default();
        assert_eq!(all.add(&Edges::from_text("0101")), 2);
        assert_eq!(all.add(&Edges::from_text("0110")), 1);
        assert_eq!(all.add(&Edges::from_text("0110")), 0);
        assert_eq!((all.count(), all.to_text().as_str()), (3, "0111"));
    }
}
