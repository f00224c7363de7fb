//! The one front door: sets up, builds, boots, shows, tests and checks
//! bouncer. `cargo xtask --help` tells what there is; the end-to-end tests
//! use the same functions.
//!
//! Read [`story`] first: it boots the machine once and judges what it saw.
//! What the payloads say to it is in [`console`], how QEMU is driven in
//! [`qemu`].

pub mod attack;
pub mod bad_entry;
pub mod bench;
pub mod build;
pub mod check;
pub mod cli;
pub mod console;
pub mod coverage;
pub mod cpio;
pub mod cpu;
pub mod disk;
pub mod dma;
pub mod files;
pub mod fuzz;
pub mod guest;
pub mod host;
pub mod image;
pub mod mutants;
pub mod on_target;
pub mod qemu;
pub mod report;
pub mod run;
pub mod runs;
pub mod setup;
pub mod status;
pub mod story;
pub mod term;
pub mod test;
pub mod threats;
pub mod tiny;
pub mod trace;
pub mod transcript;
pub mod tree;
pub mod uboot;
pub mod view;
pub mod workspace;

/// How a task ended that could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All held.
    Pass,
    /// A promise or a test failed.
    Fail,
    /// Ctrl-C.
    Interrupted,
    /// The status of a guest's script.
    Status(u8),
}

/// What is wrong with the command line, where its grammar cannot tell.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

impl Outcome {
    /// The exit status for it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Pass => status::PASS,
            Self::Fail => status::FAIL,
            Self::Interrupted => status::INTERRUPTED,
            Self::Status(status) => status,
        }
    }
}
