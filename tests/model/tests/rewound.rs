//! Sequences share a machine that is rewound: nobody may be able to tell.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use hyp::machine::Vmid;
use hyp::sim::Random;
use model::machine::{Booted, Borrowed};
use model::sequence::Sequence;
use model::session::Session;

fn sequence(seed: u64) -> Sequence {
    let mut random = Random::new(seed);
    let bytes: Vec<u8> = (0..1200).map(|_| random.below(256) as u8).collect();
    Sequence::from_bytes(&bytes)
}

/// All that can be asked about a machine and its bouncer, in words.
fn everything(booted: &Booted) -> String {
    let mut all = Vec::new();
    let (hyp, machine) = (booted.hyp(), booted.hyp().machine());
    hyp.view_frames(|pfn, entry| all.push(format!("{pfn:x?} {entry:x?}")));
    machine.view_memory(|frame| {
        if frame.tag() != Some(0) || frame.is_hyp_mapped() {
            let (number, words) = (frame.number(), frame.words());
            all.push(format!("{number:x} {:x?} {words:x?} {}", frame.tag(), frame.is_hyp_mapped()));
        }
    });
    for vmid in 1..10 {
        all.push(format!("{:x?}", machine.leaves(Vmid(vmid))));
    }
    all.push(format!("{} {}", machine.effects(), machine.invalidations()));
    all.push(format!("{:?}", machine.take_violations()));
    let world = machine.world();
    all.push(format!("{:?} {:?} {}", world.device_log, world.power, world.steps_left(1)));
    all.join("\n")
}

#[test]
fn a_rewound_machine_is_one_that_has_just_booted() {
    let booted = everything(&Booted::new().unwrap());
    let mut rewound = 0;
    for seed in 1..40 {
        let machine = Borrowed::new().unwrap();
        rewound += u32::from(!machine.fresh);
        assert_eq!(everything(&machine), booted, "before sequence {seed}");
        drop(machine);
        let session = Session::new(false).unwrap();
        sequence(seed).events.iter().for_each(|event| session.apply(event).unwrap());
    }
    assert!(rewound > 30, "{rewound} of the machines had a past");
}

/// What a sequence does, word for word.
fn play(seed: u64) -> String {
    let session = Session::new(true).unwrap();
    sequence(seed).events.iter().for_each(|event| session.apply(event).unwrap());
    session.finish().unwrap();
    let last = everything(session.booted());
    format!("{}\n{:?}\n{:?}\n{last}", session.listing(), session.stats(), session.state())
}

#[test]
fn a_sequence_does_the_same_whatever_was_played_before() {
    let forwards: Vec<String> = (1..25).map(play).collect();
    for seed in (1..25).rev() {
        assert_eq!(play(seed), forwards[seed as usize - 1], "sequence {seed}");
    }
}
