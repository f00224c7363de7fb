//! What it takes to start Linux as a guest, as far as no machine is needed:
//! the words of the host's command line, and where a kernel and its ramdisk
//! go in the guest's memory.

mod image;
mod marker;
mod options;

pub use image::{BadKernel, Granules, Load, place};
pub use marker::Marker;
pub use options::{Abi, Console, Devices, Dma, Kill, Options};
