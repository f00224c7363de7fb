//! QEMU's `virt` machine.
//!
//! What the host may touch of it is a list of what is safe, not of what is
//! dangerous: the UART, the real-time clock (a PL031 counts seconds and has no
//! DMA), the interrupt distributor, of each redistributor the frame that has no
//! base registers in it, and PCIe, if all of it is behind an SMMU that bouncer
//! drives. Everything else could move memory around stage 2: fw_cfg's DMA
//! register, the virtio-mmio transports, PCIe functions without an SMMU, the
//! SMMU's own registers, the ITS and the LPI tables of the RD frames. The flash
//! and the GPIO block are left out because nobody needs them.

use crate::boot_info::BootInfo;
use crate::gicv3;
use crate::range::ByteRange;
use crate::{Bridge, Platform, Windows};

/// The machine.
#[derive(Clone, Copy, Debug)]
pub struct QemuVirt;

impl Platform for QemuVirt {
    const NAME: &'static str = "QEMU virt";
    const EARLY_UART: u64 = 0x0900_0000;

    fn host_may_see(node: &str) -> bool {
        matches!(node, "psci" | "timer" | "pmu" | "pl011" | "pl031" | "apb-pclk" | "aliases")
    }

    fn host_windows(info: &BootInfo, redistributors: &[u64], bridge: Option<&Bridge>) -> Windows {
        let mut windows = Windows::new();
        windows.extend([info.uart, info.distributor]);
        windows.extend(info.rtc);
        for frame in redistributors {
            windows.extend(
                frame
                    .checked_add(gicv3::SGI_FRAME)
                    .and_then(|sgi| ByteRange::new(sgi, gicv3::FRAME_SIZE)),
            );
        }
        windows.extend(bridge.iter().flat_map(|bridge| bridge.windows.iter().copied()));
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_trees;

    #[test]
    fn the_host_gets_no_register_that_can_start_dma() {
        let info = test_trees::read(&test_trees::virt().build()).unwrap();
        let frames = [0x80a_0000, 0x80c_0000];
        let windows = QemuVirt::host_windows(&info, &frames, None);
        let forbidden = [
            (0x0902_0000, 0x1000, "fw_cfg"),
            (0x0a00_0000, 0x4000, "virtio-mmio"),
            (0x0808_0000, 0x2_0000, "ITS"),
            (0x080a_0000, 0x1_0000, "RD frame of CPU 0"),
            (0x080c_0000, 0x1_0000, "RD frame of CPU 1"),
            (0x080e_0000, 0x2_0000, "redistributor without a CPU"),
            (0x0000_0000, 0x0800_0000, "flash"),
            (0x0901_1000, 0x1000, "behind the RTC"),
            (0x0903_0000, 0x1000, "GPIO"),
            (0x1000_0000, 0x3000_0000, "PCIe windows"),
        ];
        for (start, size, what) in forbidden {
            let range = ByteRange::new(start, size).unwrap();
            assert!(!windows.iter().any(|window| window.overlaps(range)), "{what}");
        }
        // With an SMMU the host gets PCIe, and nothing more.
        let tree = test_trees::TestTree { smmu: Some(test_trees::smmu()), ..test_trees::virt() };
        let bytes = tree.build();
        let tree = crate::parse::validate(&bytes).unwrap();
        let smmu = crate::smmu::find(tree, &info, 1 << 38).unwrap().unwrap();
        let with = QemuVirt::host_windows(&info, &frames, Some(&smmu.bridge));
        let pcie = [(0x3f00_0000, 0x100_0000), (0x3eff_0000, 0x1_0000), (0x1000_0000, 0x2eff_0000)];
        let pcie = pcie.map(|(start, size)| ByteRange::new(start, size).unwrap());
        assert_eq!(with.as_slice(), [windows.as_slice(), &pcie].concat());
        assert!(with.iter().all(|window| !window.overlaps(smmu.registers)));
        let rtc = ByteRange::new(0x0901_0000, 0x1000).unwrap();
        for allowed in [info.uart, info.distributor, rtc] {
            assert!(windows.contains(&allowed), "{allowed:?}");
        }
    }
}
