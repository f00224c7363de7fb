//! Random numbers for guests (Arm DEN0098).

use super::rig::Rig;
use crate::entropy::Entropy;

const VERSION: u32 = 0x8400_0050;
const FEATURES: u32 = 0x8400_0051;
const RND_32: u32 = 0x8400_0053;
const RND_64: u32 = 0xC400_0053;

fn call(rig: &Rig, handle: u64, function: u32, argument: u64) -> [u64; 4] {
    rig.guest_smc(handle, function, &[argument])
}

#[test]
fn without_a_seed_there_is_no_generator() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(1);
    for function in [VERSION, FEATURES, RND_32, RND_64] {
        assert_eq!(call(&rig, handle, function, 1)[0] as i64, -1);
    }
}

#[test]
fn a_guest_gets_as_many_random_bits_as_it_asks_for_and_no_more() {
    let mut rig = Rig::new();
    rig.hyp.set_entropy(Entropy::new(b"seed of a test").0);
    let (handle, _) = rig.realm(1);
    assert_eq!(call(&rig, handle, VERSION, 0)[0], 0x1_0000);
    assert_eq!(call(&rig, handle, FEATURES, u64::from(RND_64))[0], 0);
    assert_eq!(call(&rig, handle, FEATURES, 0x8400_0000)[0] as i64, -1);
    let length = |value: u64| u64::from(64 - value.leading_zeros());
    for (function, width) in [(RND_32, 32_u64), (RND_64, 64)] {
        for wanted in 1..=3 * width {
            let [x0, x1, x2, x3] = call(&rig, handle, function, wanted);
            assert_eq!(x0, 0, "{wanted} bits");
            let [high, middle, low] = [x1, x2, x3].map(length);
            assert!(low <= wanted.min(width), "{wanted} bits: {x3:#x}");
            assert!(middle <= wanted.saturating_sub(width).min(width), "{wanted} bits: {x2:#x}");
            assert!(high <= wanted.saturating_sub(2 * width), "{wanted} bits: {x1:#x}");
        }
        for refused in [0, 3 * width + 1, 0x7fff_ffff] {
            assert_eq!(call(&rig, handle, function, refused), [-2_i64 as u64, 0, 0, 0]);
        }
        let [first, second] = [(); 2].map(|()| call(&rig, handle, function, 96));
        assert_ne!(first, second);
        assert!(first[1..].iter().any(|word| *word != 0));
    }
}
