//! The PCI and virtio transport under a hostile driver and a hostile host.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkers::virtio_pci(data));
