//! The lies that the host's devices tell a Linux guest's drivers.

use clap::ValueEnum;

/// A lie, by its row in docs/threats.md. The host's payload tells it
/// (`tests/host/src/payload/lies.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lie {
    /// An id beyond the queue
    #[value(name = "H1.beyond")]
    IdBeyond,
    /// The id of another request
    #[value(name = "H1.other")]
    IdOther,
    /// Every answer twice
    #[value(name = "H1.twice")]
    Twice,
    /// 4 GiB written
    #[value(name = "H2.length")]
    Length,
    /// A used index that jumps
    #[value(name = "H3.jump")]
    IndexJump,
    /// A used index that runs backwards
    #[value(name = "H3.back")]
    IndexBack,
    /// Descriptors and buffers rewritten after the answer
    #[value(name = "H4.rewrite")]
    Rewrite,
    /// Another configuration with every request
    #[value(name = "H5.config")]
    Configuration,
    /// Ten interrupts for every request
    #[value(name = "H6.storm")]
    Storm,
    /// A reset asked for after every request
    #[value(name = "H7.needs-reset")]
    NeedsReset,
    /// Answers without data
    #[value(name = "H10.nothing")]
    Nothing,
}

impl Lie {
    /// How the host is told of it.
    #[must_use]
    pub fn id(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The host's own list, as its source has it.
    #[test]
    fn the_host_knows_the_same_lies() {
        let source = include_str!("../../../tests/host/src/payload/lies.rs");
        let arms = source.lines().filter_map(|line| {
            let (_, id) = line.trim().strip_prefix("Lie::")?.split_once(" => \"H")?;
            id.strip_suffix("\",").map(|id| format!("H{id}"))
        });
        let own = Lie::value_variants().iter().map(|lie| lie.id());
        assert_eq!(own.collect::<Vec<_>>(), arms.collect::<Vec<_>>());
    }
}
