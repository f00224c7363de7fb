//! A guest that speaks Arm CCA's RSI, as a stock kernel does.

use super::rig::{PAGES, RAM_GFN, Rig, pfn};
use crate::abi::rsi::{self as id, ripas, status};
use crate::abi::{self, exit, host};
use crate::addr::Gfn;
use crate::layout;
use crate::psci::function;

/// Bit 38: the shared half.
const ALIAS: u64 = 1 << (id::IPA_BITS - 1);

fn ipa(page: u64) -> u64 {
    (RAM_GFN + page) << 12
}

/// What the guest's stage 2 has at an address.
fn mapped(rig: &Rig, handle: u64, address: u64) -> Option<u64> {
    let machine = rig.hyp.machine();
    let handle = crate::vm::Handle::from_raw(handle);
    let gfn = Gfn::containing(address).unwrap();
    let leaf = rig.hyp.with_vm(handle, |vm| Ok(vm.memory.lookup(machine, gfn))).unwrap();
    leaf.map(|leaf| leaf.pfn.number())
}

fn set(rig: &Rig, handle: u64, base: u64, top: u64, state: u64) -> [u64; 4] {
    rig.guest_smc(handle, id::IPA_STATE_SET, &[base, top, state, 0])
}

fn get(rig: &Rig, handle: u64, base: u64, top: u64) -> [u64; 3] {
    let [status, top, state, _] = rig.guest_smc(handle, id::IPA_STATE_GET, &[base, top]);
    [status, top, state]
}

#[test]
fn linux_finds_a_realm() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(1);
    let version = [status::SUCCESS, 0x1_0000, 0x1_0000, 0];
    assert_eq!(rig.guest_smc(handle, id::VERSION, &[0x1_0000]), version);
    assert_eq!(rig.guest_smc(handle, id::VERSION, &[0x1_0001])[0], status::ERROR_INPUT);
    assert_eq!(rig.guest_smc(handle, id::FEATURES, &[0]), [status::SUCCESS, 0, 0, 0]);
    assert_eq!(rig.guest_smc(handle, function::PSCI_VERSION, &[])[0], 0x1_0001);
}

#[test]
fn a_pkvm_guest_has_no_realm_interface() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.vm(1);
    for call in [id::VERSION, id::REALM_CONFIG, id::IPA_STATE_SET, function::PSCI_VERSION] {
        let arguments = [ipa(0), ipa(1), ripas::EMPTY, 0];
        assert_eq!(rig.guest_smc(handle, call, &arguments)[0] as i64, -1);
        if call != function::PSCI_VERSION {
            assert_eq!(rig.guest_hvc(handle, u64::from(call), &arguments).0, -1);
        }
    }
    assert_eq!(rig.frame_state(ram), 3);
}

#[test]
fn the_configuration_is_written_into_the_guests_own_page_and_nowhere_else() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.realm(1);
    for page in ram..ram + PAGES {
        rig.hyp.machine().plant(pfn(page), 0x5ec2e7);
    }
    assert_eq!(rig.guest_smc(handle, id::REALM_CONFIG, &[ipa(1)])[0], status::SUCCESS);
    let machine = rig.hyp.machine();
    assert_eq!(machine.peek(pfn(ram + 1), 0), 39);
    assert!((1..512).all(|index| machine.peek(pfn(ram + 1), index) == 0));
    for other in [0, 2, 3] {
        assert_eq!(machine.tag(pfn(ram + other)), Some(0x5ec2e7));
    }
}

#[test]
fn a_page_is_below_while_private_and_above_while_shared() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.realm(1);
    let before = rig.ownership();
    assert_eq!(get(&rig, handle, ipa(0), ipa(64)), [0, ipa(64), ripas::RAM]);

    let shared = [status::SUCCESS, ipa(3), id::ACCEPT, 0];
    assert_eq!(set(&rig, handle, ipa(1), ipa(3), ripas::EMPTY), shared);
    assert_eq!(mapped(&rig, handle, ipa(1)), None);
    assert_eq!(mapped(&rig, handle, ALIAS | ipa(1)), Some(ram + 1));
    assert_eq!([0, 1, 2, 3].map(|page| rig.frame_state(ram + page)), [3, 2, 2, 3]);
    assert_eq!(get(&rig, handle, ipa(0), ipa(64)), [0, ipa(1), ripas::RAM]);
    assert_eq!(get(&rig, handle, ipa(1), ipa(64)), [0, ipa(3), ripas::EMPTY]);
    assert_eq!(get(&rig, handle, ipa(2), ipa(3)), [0, ipa(3), ripas::EMPTY]);
    assert_eq!(get(&rig, handle, ipa(3), ipa(64)), [0, ipa(64), ripas::RAM]);

    // Twice makes no difference.
    assert_eq!(set(&rig, handle, ipa(1), ipa(3), ripas::EMPTY), shared);
    // Back, in two steps: what is private already, and what is not.
    let all = |base| set(&rig, handle, base, ipa(4), ripas::RAM);
    assert_eq!(all(ipa(0)), [0, ipa(1), id::ACCEPT, 0]);
    assert_eq!(all(ipa(1)), [0, ipa(3), id::ACCEPT, 0]);
    assert_eq!(all(ipa(3)), [0, ipa(4), id::ACCEPT, 0]);
    assert_eq!(mapped(&rig, handle, ALIAS | ipa(1)), None);
    assert_eq!(mapped(&rig, handle, ipa(1)), Some(ram + 1));
    assert_eq!(rig.ownership(), before);
}

/// Contents of a granule that leaves a realm do not leave with it (RMM 1.0,
/// DEN0137 A2.2.4, RTMGSL), nor do the host's come in.
#[test]
fn c16_a_page_is_zeros_when_it_is_shared_and_when_it_comes_back() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.realm(1);
    let all = || (0..PAGES).map(|page| rig.hyp.machine().tag(pfn(ram + page)));
    let plant = |value| {
        (0..PAGES).for_each(|page| rig.hyp.machine().plant(pfn(ram + page), value));
    };
    plant(0x5ec2e7);
    let done = [status::SUCCESS, ipa(PAGES), id::ACCEPT, 0];
    assert_eq!(set(&rig, handle, ipa(1), ipa(PAGES), ripas::EMPTY), done);
    let secret = Some(0x5ec2e7);
    assert!(all().eq([secret, Some(0), Some(0), Some(0)]), "page 0 is not shared");

    // What is shared already is the two's common memory: a second call, and
    // one that is refused, leave it alone.
    plant(0xbad);
    assert_eq!(set(&rig, handle, ipa(1), ipa(PAGES), ripas::EMPTY), done);
    let rejected = [status::SUCCESS, ipa(1), id::REJECT, 0];
    assert_eq!(set(&rig, handle, ipa(1), ipa(65), ripas::RAM), rejected);
    let pinned = crate::addr::PfnRange::one(pfn(ram + 2));
    assert_eq!(rig.hyp.with_memory(|memory| memory.pin(pinned)), Ok(1));
    assert_eq!(set(&rig, handle, ipa(1), ipa(PAGES), ripas::RAM), rejected);
    assert_eq!(rig.hyp.with_memory(|memory| memory.unpin(pinned)), Ok(1));
    assert!(all().all(|tag| tag == Some(0xbad)));

    assert_eq!(set(&rig, handle, ipa(1), ipa(PAGES), ripas::RAM), done);
    assert!(all().eq([Some(0xbad), Some(0), Some(0), Some(0)]), "nothing of the host's");
}

/// Whoever can still reach a page at the moment of its wipe writes to it.
#[test]
fn c16_nobody_reaches_a_page_while_it_is_wiped() {
    let mut rig = Rig::new();
    let (handle, ram) = rig.realm(1);
    rig.hyp.machine().set_hostile(true);
    for state in [ripas::EMPTY, ripas::RAM] {
        let done = [status::SUCCESS, ipa(PAGES), id::ACCEPT, 0];
        assert_eq!(set(&rig, handle, ipa(0), ipa(PAGES), state), done);
        assert!((0..PAGES).all(|page| rig.hyp.machine().tag(pfn(ram + page)) == Some(0)));
    }
}

#[test]
fn all_of_ram_is_private_ram_in_one_call_whether_donated_or_not() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(1);
    let done = [status::SUCCESS, ipa(64), id::ACCEPT, 0];
    assert_eq!(set(&rig, handle, ipa(0), ipa(64), ripas::RAM), done);
    let flags = [ipa(0), ipa(64), ripas::RAM, id::CHANGE_DESTROYED];
    assert_eq!(rig.guest_smc(handle, id::IPA_STATE_SET, &flags), done);
}

#[test]
fn what_is_not_ram_is_devices_below_and_nothing_above() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(1);
    let devices = |base, top| get(&rig, handle, base, top);
    assert_eq!(devices(layout::UART, layout::UART + 0x1000)[1..], [0x900_1000, ripas::DEV]);
    assert_eq!(devices(0, ALIAS), [0, layout::RAM, ripas::DEV]);
    assert_eq!(devices(ipa(64), ALIAS), [0, ALIAS, ripas::DEV]);
    assert_eq!(devices(layout::PCI_MEM64, ALIAS), [0, ALIAS, ripas::DEV]);
    assert_eq!(devices(ALIAS, ALIAS + 0x1000)[0], status::ERROR_INPUT);
}

#[test]
fn a_page_that_was_never_given_is_asked_for_and_the_call_made_again() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(1);
    let missing = ipa(PAGES);
    let call = [missing - 0x1000, missing + 0x1000, ripas::EMPTY, 0];
    // As far as there is memory.
    assert_eq!(rig.guest_smc(handle, id::IPA_STATE_SET, &call), [0, missing, id::ACCEPT, 0]);
    // A host that never gives it gets its CPU back each time.
    for _ in 0..3 {
        rig.script(move |vcpu| {
            vcpu.frame.pc = 0x4000_0200;
            vcpu.frame.x[..5].copy_from_slice(&[
                u64::from(id::IPA_STATE_SET),
                missing,
                missing + 0x1000,
                ripas::EMPTY,
                0,
            ]);
            super::rig::sync(0x17 << 26)
        });
        assert_eq!(rig.run(handle)[..2], [exit::MEM_FAULT, missing]);
    }
    let frame = rig.frames(1);
    rig.hvc(host::FRAME_DONATE, &[handle, frame, RAM_GFN + PAGES, 1, 0]).unwrap();
    // The guest is where it was: on the SMC, its registers untouched.
    rig.script(move |vcpu| {
        assert_eq!(vcpu.frame.pc, 0x4000_0200);
        assert_eq!(vcpu.frame.x[..3], [u64::from(id::IPA_STATE_SET), missing, missing + 0x1000]);
        super::rig::sync(0x17 << 26)
    });
    rig.script_check(move |vcpu| {
        assert_eq!(vcpu.frame.pc, 0x4000_0204);
        assert_eq!(vcpu.frame.x[..3], [status::SUCCESS, missing + 0x1000, id::ACCEPT]);
    });
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    assert_eq!(rig.frame_state(frame), 2);
}

#[test]
fn an_alias_that_wants_a_table_asks_for_memcache() {
    let mut rig = Rig::new();
    // A root and a table of each level for RAM; five more for two aliases.
    let (handle, _) = rig.building_with(1, 8, abi::CREATE_RSI);
    let ballast = rig.frames(1);
    rig.hvc(host::FRAME_DONATE, &[handle, ballast, RAM_GFN + 9, 1, 0]).unwrap();
    rig.hvc(host::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
    let handle_of = crate::vm::Handle::from_raw(handle);
    // Somebody used up the memcache.
    let machine = rig.hyp.machine();
    let taken = rig.hyp.with_memory_and_vm(handle_of, |memory, vm| {
        Ok(memory.hyp_donate_host(machine, vm.memory.memcache(), 4))
    });
    assert_eq!(taken, Ok(4));
    rig.script_smc(u64::from(id::IPA_STATE_SET), &[ipa(0), ipa(1), ripas::EMPTY, 0]);
    assert_eq!(rig.run(handle)[..2], [exit::MEM_FAULT, ALIAS | ipa(0)]);
    let more = rig.frames(2);
    rig.hvc(host::VM_TOPUP, &[handle, more, 2]).unwrap();
    let done = [status::SUCCESS, ipa(1), id::ACCEPT, 0];
    assert_eq!(set(&rig, handle, ipa(0), ipa(1), ripas::EMPTY), done);
}

#[test]
fn the_console_is_served_by_the_host_and_only_below() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(1);
    rig.script_store(layout::UART, 1, 0x41);
    assert_eq!(rig.run(handle), [exit::MMIO | 1 << 8 | 1 << 9, layout::UART, 0x41]);
    for refused in [ALIAS | layout::UART, layout::UART + 0x1000, ALIAS | layout::GICD] {
        rig.script_load(refused, 4, 3);
        rig.script_check(|_| ());
        assert_eq!(rig.run(handle)[0], exit::INTERRUPT, "{refused:#x} is an abort of its own");
    }
    // The distributor answers below: GICD_TYPER.
    rig.script_load(layout::GICD + 4, 4, 3);
    rig.script_check(|vcpu| assert_ne!(vcpu.frame.x[3], 0));
    assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
}

#[test]
fn measurements_are_the_hosts_history_and_the_guests_own() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(1);
    let digest = [0, 1].map(|part| rig.hvc(host::VM_MEASUREMENT, &[handle, part]).unwrap());
    let read = |index, check: fn([u64; 8])| {
        rig.script_smc(u64::from(id::MEASUREMENT_READ), &[index]);
        rig.script_check(move |vcpu| {
            assert_eq!(vcpu.frame.x[0], status::SUCCESS);
            check(core::array::from_fn(|word| vcpu.frame.x[1 + word]));
        });
        assert_eq!(rig.run(handle)[0], exit::INTERRUPT);
    };
    let [_, x1, x2, x3] = rig.guest_smc(handle, id::MEASUREMENT_READ, &[0]);
    assert_eq!([x1, x2, x3], [digest[0][0], digest[0][1], digest[1][0]]);
    read(0, |words| assert_eq!(words[4..], [0; 4], "32 bytes and padding"));
    read(1, |words| assert_eq!(words, [0; 8]));
    let extend = |index, bytes| {
        let words = [index, bytes, 1, 2, 3, 4, 5, 6, 7, 8];
        rig.guest_smc(handle, id::MEASUREMENT_EXTEND, &words)[0]
    };
    assert_eq!(extend(1, 64), status::SUCCESS);
    read(1, |words| assert_ne!(words[..4], [0; 4]));
    read(2, |words| assert_eq!(words, [0; 8]));
    for (index, bytes) in [(0, 8), (5, 8), (u64::MAX, 8), (1, 65), (1, u64::MAX)] {
        assert_eq!(extend(index, bytes), status::ERROR_INPUT, "{index} {bytes}");
    }
    for index in [5, u64::MAX] {
        assert_eq!(rig.guest_smc(handle, id::MEASUREMENT_READ, &[index])[0], status::ERROR_INPUT);
    }
}

#[test]
fn the_front_end_is_part_of_the_measurement() {
    let mut rig = Rig::new();
    let (pkvm, _) = rig.vm(1);
    let (realm, _) = rig.realm(1);
    let digest = |handle| rig.hvc(host::VM_MEASUREMENT, &[handle, 0]).unwrap();
    assert_ne!(digest(pkvm), digest(realm));
}

#[test]
fn psci_of_a_realm_is_by_smc() {
    let mut rig = Rig::new();
    let (handle, _) = rig.realm(2);
    rig.script_smc(u64::from(function::CPU_ON_64), &[1, ipa(0), 7]);
    assert_eq!(rig.run(handle)[..2], [exit::CPU_ON, 1]);
    rig.script_smc(u64::from(function::SYSTEM_OFF), &[]);
    assert_eq!(rig.run(handle)[..2], [exit::SHUTDOWN, 0]);
}
