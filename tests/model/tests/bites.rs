//! The oracle bites: what bouncer never does is done behind its back, and the
//! next comparison must name it.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use hyp::addr::Pfn;
use model::event::{Event, HostAction, HostCall};
use model::sequence::Sequence;
use model::session::Session;
use model::state::{Page, RAM};

/// A machine with one VM that owns four pages and can run.
fn session() -> Session {
    let session = Session::new(false).unwrap();
    let begin = Sequence::from_bytes(&[0b01]);
    begin.events.iter().for_each(|event| session.apply(event).unwrap());
    session.finish().unwrap();
    session
}

/// The frame at the first page of the VM's RAM.
fn guest_frame(session: &Session) -> u64 {
    let state = session.state();
    let mut frames = state.frames();
    frames.find(|(_, page)| *page == Page::Guest(0, RAM, false)).expect("four pages").0
}

/// Any call: the comparison comes after it, of what may have changed only. The
/// one of everything must see the same.
fn next(session: &Session) -> String {
    let call = Event::Host(0, HostAction::Call(HostCall::Version));
    let seen = session.apply(&call).expect_err("it must be seen");
    assert_eq!(session.finish(), Err(seen.clone()));
    seen
}

/// Table and index of the level-3 descriptor of `gfn`.
fn descriptor(session: &Session, root: Pfn, gfn: u64) -> (Pfn, usize) {
    let machine = session.booted().hyp().machine();
    let below = |table, index| Pfn::containing(machine.peek(table, index) & 0x7f_ffff_f000);
    let middle = below(root, (gfn >> 18) as usize).unwrap();
    let pages = below(middle, (gfn >> 9 & 0x1ff) as usize).unwrap();
    (pages, (gfn & 0x1ff) as usize)
}

#[test]
fn a_word_in_a_guests_frame_that_the_guest_did_not_write() {
    let session = session();
    let frame = Pfn::new(guest_frame(&session)).unwrap();
    session.booted().hyp().machine().poke(frame, 511, 0x666);
    assert!(next(&session).contains("contains"));
}

#[test]
fn a_mapping_of_the_hosts_that_the_frame_table_does_not_know() {
    let session = session();
    let frame = guest_frame(&session);
    let (table, index) = descriptor(&session, session.booted().hyp().host_regime().root, frame);
    session.booted().hyp().machine().poke(table, index, frame << 12 | 0x7ff);
    assert!(next(&session).contains("the host has frame"));
}

#[test]
fn a_hole_in_the_hosts_memory() {
    let session = session();
    let frame = guest_frame(&session) + 8;
    let (table, index) = descriptor(&session, session.booted().hyp().host_regime().root, frame);
    session.booted().hyp().machine().poke(table, index, 0);
    assert!(next(&session).contains("the host lacks frame"));
}

#[test]
fn a_mapping_of_a_guests_to_anything_else() {
    let session = session();
    let view = session.booted().hyp().view_vm(session.state().vm_in(0).unwrap().handle).unwrap();
    let (table, index) = descriptor(&session, view.regime.root, RAM);
    let hosts = guest_frame(&session) + 8;
    session.booted().hyp().machine().poke(table, index, hosts << 12 | 0x7ff);
    assert!(next(&session).contains("VM 0 maps"));
}
