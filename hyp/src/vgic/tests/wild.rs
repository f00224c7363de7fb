//! Accesses of anything anywhere.

use super::*;
use crate::sim::walk::Choices;

const VCPUS: usize = 3;

#[test]
fn no_access_panics_or_touches_another_redistributor() {
    let mut random = Choices::seed(7);
    let mut vgic = running(VCPUS);
    for _ in 0..20_000 {
        let (offset, size) = (random.bits() >> random.below(64), random.bits() as u8);
        let size = if random.below(4) == 0 { size } else { random.pick(&[1, 2, 4, 8]) };
        let value = random.bits();
        let _ = vgic.distributor_read(offset, size);
        let _ = vgic.distributor_write(offset, size, value);
        let _ = vgic.msi_frame_read(offset, size);
        let _ = vgic.msi_frame_write(offset, size, value);
        let _ = vgic.send_sgi(random.below(9) as usize, random.bits());
        let _ = vgic.msi(offset, value as u32);
        let _ = vgic.redistributor_read(offset, size);
        let before = vgic.clone();
        let kicked = vgic.redistributor_write(offset, size, value);
        let accessed = (offset / GICR_STRIDE) as usize;
        assert!(kicked.iter().all(|vcpu| vcpu == accessed));
        for vcpu in (0..VCPUS).filter(|&vcpu| vcpu != accessed) {
            let state = |vgic: &Vgic| std::format!("{:?}", vgic.cpus[vcpu]);
            if random.below(16) == 0 {
                assert_eq!(state(&vgic), state(&before), "offset {offset:#x} is not vCPU {vcpu}'s");
            }
        }
    }
}
