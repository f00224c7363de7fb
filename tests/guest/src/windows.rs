//! The PCI host bridge's memory windows, and placing BARs in them.

/// An address range that BARs can be placed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    next: u64,
    end: u64,
}

impl Window {
    /// The next free place for `size` bytes (a power of two), naturally
    /// aligned.
    pub fn place(&mut self, size: u64) -> Option<u64> {
        if !size.is_power_of_two() {
            return None;
        }
        let start = self.next.checked_next_multiple_of(size)?;
        let end = start.checked_add(size).filter(|end| *end <= self.end)?;
        self.next = end;
        Some(start)
    }
}

/// The windows a host bridge offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Windows {
    /// Below 4 GiB.
    pub mem32: Option<Window>,
    /// The 64-bit, prefetchable one.
    pub mem64: Option<Window>,
}

impl Windows {
    /// Reads a `ranges` property (PCI Bus Binding to IEEE 1275): per range
    /// three cells of PCI address, two of CPU address, two of size. Ranges
    /// that are not identity-mapped are left out.
    pub fn parse(ranges: &[u8]) -> Self {
        let mut windows = Self::default();
        for range in ranges.chunks_exact(28) {
            let mut cells = [0u32; 7];
            for (cell, bytes) in cells.iter_mut().zip(range.chunks_exact(4)) {
                *cell = bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
            }
            let [flags, pci_high, pci_low, cpu_high, cpu_low, size_high, size_low] = cells;
            let wide = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
            let (pci, cpu) = (wide(pci_high, pci_low), wide(cpu_high, cpu_low));
            let Some(end) = cpu.checked_add(wide(size_high, size_low)) else { continue };
            if pci == cpu {
                let window = Some(Window { next: cpu, end });
                match flags >> 24 & 3 {
                    2 => windows.mem32 = windows.mem32.or(window),
                    3 => windows.mem64 = windows.mem64.or(window),
                    _ => {}
                }
            }
        }
        windows
    }

    /// A place for a BAR of `size` bytes: in the 64-bit window if the BAR is
    /// 64 bits wide and prefetchable and there is one.
    pub fn place(&mut self, size: u64, wide: bool) -> Option<u64> {
        let window = if wide && self.mem64.is_some() { &mut self.mem64 } else { &mut self.mem32 };
        window.as_mut()?.place(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn ranges(ranges: &[[u32; 7]]) -> Vec<u8> {
        ranges.iter().flatten().flat_map(|cell| cell.to_be_bytes()).collect()
    }

    #[test]
    fn bars_go_where_they_belong_and_are_naturally_aligned() {
        let mut windows = Windows::parse(&ranges(&[
            [0x0100_0000, 0, 0, 0, 0x3eff_0000, 0, 0x1_0000],
            [0x0200_0000, 0, 0x1000_0000, 0, 0x1000_0000, 0, 0x2eff_0000],
            [0x4300_0000, 0x20, 0, 0x20, 0, 0x20, 0],
        ]));
        assert_eq!(windows.place(0x4000, false), Some(0x1000_0000));
        assert_eq!(windows.place(0x1_0000, false), Some(0x1001_0000));
        assert_eq!(windows.place(0x10_0000, true), Some(0x20_0000_0000));
        assert_eq!(windows.place(0x20_0000, true), Some(0x20_0020_0000));
    }

    #[test]
    fn what_does_not_fit_has_no_place() {
        let mut windows =
            Windows::parse(&ranges(&[[0x0200_0000, 0, 0x1000_0000, 0, 0x1000_0000, 0, 0x1_0000]]));
        assert_eq!(windows.place(0x2_0000, true), None);
        assert_eq!(windows.place(0x3000, false), None);
        assert_eq!(windows.place(0x1_0000, true), Some(0x1000_0000));
        assert_eq!(windows.place(0x1000, false), None);
    }

    #[test]
    fn shifted_wrapping_and_cut_ranges_are_left_out() {
        let mut bytes = ranges(&[
            [0x0200_0000, 0, 0x1000_0000, 0, 0x2000_0000, 0, 0x1_0000],
            [0x4300_0000, !0, 0, !0, 0, !0, 0],
        ]);
        bytes.extend([0x02, 0, 0]);
        assert_eq!(Windows::parse(&bytes), Windows::default());
    }
}
