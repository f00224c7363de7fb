//! The generator against bouncer itself, on the simulated machine.

use super::*;
use hyp::abi::host as id;
use hyp::machine::MAX_CPUS;
use hyp::sim::{Layout, SimMachine};
use hyp::trap::{Trap, TrapKind};
use hyp::vcpu::state::Frame;
use hyp::{HostPlatform, Hypervisor};
use std::collections::BTreeMap;
use std::vec::Vec;

/// The simulated machine's RAM begins here.
const RAM: u64 = 0x4_0000;

fn arena() -> Arena {
    Arena {
        first: RAM + 0x400,
        count: 256,
        ram: core::iter::once(RAM..RAM + 0x1000).collect(),
        bouncer: Vec::from([RAM + 0xff0]),
    }
}

fn bouncer() -> Hypervisor<SimMachine> {
    let layout = Layout::new(16);
    let platform = HostPlatform { redistributors: [const { None }; MAX_CPUS] };
    let frames = layout.frame_table();
    let hyp = Hypervisor::new(layout.machine(), frames, &layout.boot(), platform).unwrap();
    hyp.machine().attach(hyp.host_regime());
    hyp.machine().attach_dma(hyp.dma_root());
    hyp
}

fn trap(hyp: &Hypervisor<SimMachine>, class: u64, x: [u64; 6]) -> [u64; 4] {
    let mut frame = Frame::default();
    frame.x[..6].copy_from_slice(&x);
    let trap = Trap { kind: TrapKind::Sync, esr: class << 26 | 1 << 25, far: 0, hpfar: 0 };
    hyp.handle_host_trap(&mut frame, trap);
    [0, 1, 2, 3].map(|register| frame.x[register])
}

/// Plays alone; each hypercall with its answer's x0.
fn play(seed: u64, calls: usize) -> Vec<(Step, u64)> {
    let (hyp, world) = (bouncer(), World::new(arena()));
    let mut generator = Generator::new(seed, 0, Mix::default());
    let mut done = Vec::new();
    for _ in 0..calls {
        let step = generator.step(&world);
        let answer = match step {
            Step::Hvc { function, arguments: [a, b, c, d, e] } => {
                trap(&hyp, 0x16, [function, a, b, c, d, e])
            }
            Step::Smc { function, arguments: [a, b, c] } => {
                trap(&hyp, 0x17, [function, a, b, c, 0, 0])
            }
            _ => [0; 4],
        };
        world.learn(&step, answer);
        done.push((step, answer[0]));
    }
    assert_eq!(hyp.machine().take_violations(), Vec::<std::string::String>::new());
    done
}

#[test]
fn every_call_that_changes_memory_is_both_granted_and_refused() {
    let mut seen: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (step, code) in play(1, 8000) {
        if let Step::Hvc { function, .. } = step {
            let counts = seen.entry(function).or_default();
            if code == 0 { counts.0 += 1 } else { counts.1 += 1 }
        }
    }
    for function in [
        id::VM_CREATE,
        id::VM_TOPUP,
        id::FRAME_DONATE,
        id::FRAME_SHARE,
        id::VM_FINALISE,
        id::VCPU_RUN,
        id::VM_STOP,
        id::FRAME_RECLAIM,
        id::VM_DESTROY,
        id::DEVICE_CREATE,
    ] {
        let (granted, refused) = seen.get(&function.into()).copied().unwrap_or_default();
        assert!(granted >= 5 && refused >= 5, "{function:#x}: {granted} granted, {refused} not");
    }
}

#[test]
fn a_seed_is_a_run_and_its_beginning_does_not_depend_on_its_length() {
    assert_eq!(play(7, 400)[..200], play(7, 200));
    assert_ne!(play(7, 200), play(9, 200));
}

#[test]
fn the_host_never_names_its_own_home_nor_ends_the_machine() {
    let (world, home) = (World::new(arena()), RAM..RAM + 0x400);
    for seed in 0..20 {
        let mut generator = Generator::new(seed, 1, Mix::default());
        for _ in 0..2000 {
            match generator.step(&world) {
                Step::Hvc { function, arguments } => {
                    let (pfn, count) = match u32::try_from(function) {
                        Ok(id::VM_CREATE) => (arguments[0], arguments[1]),
                        Ok(id::VM_TOPUP) => (arguments[1], arguments[2]),
                        Ok(id::FRAME_DONATE) => (arguments[1], arguments[3]),
                        Ok(id::FRAME_SHARE) => (arguments[3], arguments[4]),
                        _ => continue,
                    };
                    let end = pfn.saturating_add(count.clamp(1, 512));
                    assert!(end <= home.start || pfn >= home.end, "{pfn:#x} × {count:#x}");
                }
                Step::Smc { function, .. } => {
                    assert!(![0x8400_0002, 0x8400_0008, 0x8400_0009].contains(&function));
                }
                Step::Touch { address, .. } => assert!(!home.contains(&(address >> 12))),
                Step::Load { pfn, .. } => assert!(!home.contains(&pfn)),
            }
        }
    }
}

#[test]
fn a_program_fits_its_pages_and_does_not_hold_the_secret_as_a_word() {
    for seed in 0..200 {
        let words = code(&mut Random::new(seed), 32);
        assert_eq!(words.len(), CODE_PAGES as usize * 1024);
        let pairs = words.windows(2).map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32);
        assert!(pairs.into_iter().all(|pair| pair != SECRET));
    }
}
