//! The guest as a realm: Arm CCA's services by SMC (`docs/abi.md`), as a stock
//! kernel uses them, and what must come of using them wrongly.

#![allow(unsafe_code)]

use super::hostile::Attacks;
use super::{Machine, pkvm, secrets, yes};
use core::cell::UnsafeCell;
use hyp::abi::guest;
use hyp::abi::rsi::{self as id, ripas, status};
use hyp::layout;
use rt::mmu::{Memory, map, map_identity};
use rt::smccc::{smc, smc_all, smc_imm1};
use rt::{attempt, println};

const PAGE: u64 = 4096;
/// The bit that tells the alias of a page.
const ALIAS: u64 = 1 << (id::IPA_BITS - 1);
/// Where a page is seen a second time, executable.
const CODE_VIEW: u64 = 0x70_0000_0000;

#[repr(C, align(4096))]
struct Config(UnsafeCell<[u64; 512]>);

// SAFETY: used by the boot CPU, before any other runs.
unsafe impl Sync for Config {}

static CONFIG: Config = Config(UnsafeCell::new([u64::MAX; 512]));

fn call(function: u32, a: [u64; 4]) -> [u64; 4] {
    smc(function.into(), [a[0], a[1], a[2], a[3], 0, 0, 0])
}

fn set(base: u64, top: u64, state: u64) -> [u64; 4] {
    call(id::IPA_STATE_SET, [base, top, state, 0])
}

/// Takes up protection as Linux does: version, configuration, all of memory
/// private. `None` if no realm services answer or they say nonsense.
pub(crate) fn start(ram: &core::ops::Range<usize>) -> Option<pkvm::Protection> {
    let [x0, low, high, _] = call(id::VERSION, [id::REVISION, 0, 0, 0]);
    if [x0, low, high] != [status::SUCCESS, id::REVISION, id::REVISION] {
        return None;
    }
    let page = CONFIG.0.get();
    if call(id::REALM_CONFIG, [page as u64, 0, 0, 0])[0] != status::SUCCESS {
        return None;
    }
    // SAFETY: the page is this function's, and EL2 is done with it.
    let config = unsafe { page.read_volatile() };
    if config[0] != id::IPA_BITS || config[1..].iter().any(|word| *word != 0) {
        return None;
    }
    let (start, end) = (ram.start as u64, ram.end as u64);
    let [x0, top, response, _] = set(start, end, ripas::RAM);
    if [x0, top, response] != [status::SUCCESS, end, id::ACCEPT] {
        return None;
    }
    map_identity(ALIAS | start, end - start, Memory::Normal).ok()?;
    Some(pkvm::Protection { ranges: true, guard: false, realm: true })
}

/// Shares one page; the code, and where the page is now.
pub(crate) fn share(page: u64) -> (i64, u64) {
    (change(page, ripas::EMPTY), ALIAS | page)
}

/// Takes it back; the same.
pub(crate) fn unshare(page: u64) -> (i64, u64) {
    (change(page, ripas::RAM), page)
}

/// 0 if the whole page is in the wanted state afterwards.
fn change(page: u64, state: u64) -> i64 {
    let done = set(page, page + PAGE, state);
    if done[..3] == [status::SUCCESS, page + PAGE, id::ACCEPT] { 0 } else { -1 }
}

/// The story of a realm: it keeps a secret, lends a page, and attacks.
pub(crate) fn tell(machine: &Machine) -> bool {
    if !machine.protection.realm {
        println!("guest: this is no realm; start it with RSI");
        return false;
    }
    let kept = secrets::keep(machine);
    let lent = secrets::lend(machine);
    let mut attacks = Attacks::new();
    other_front_end(&mut attacks);
    let moved = halves(machine, &mut attacks);
    ranges(machine, &mut attacks);
    configuration(machine, &mut attacks);
    let measured = measurements(&mut attacks);
    println!("@guest attacks refused={}", yes(attacks.all_refused));
    kept && lent && moved && measured && attacks.all_refused
}

/// Nothing of pKVM's is here, and nothing that nobody defined.
fn other_front_end(attacks: &mut Attacks) {
    let none = u64::MAX;
    for (what, function) in [
        ("realm-asks-for-pkvm-uid", guest::UID),
        ("realm-shares-by-hvc", guest::MEM_SHARE),
        ("realm-grants-by-hvc", guest::MMIO_GUARD_MAP),
        ("psci-of-a-realm-by-hvc", 0x8400_0000),
    ] {
        // Not even an instruction (DEN0137 A4.5, RDNBQF).
        let call = attempt::try_hvc(function.into(), [layout::RAM, 1, 0]);
        attacks.note("G2", what, call.is_err_and(attempt::Fault::is_undefined));
    }
    let dirty = smc(u64::from(id::IPA_STATE_SET) | 1 << 32, [0; 7]);
    attacks.note("G2", "dirty-upper-half", dirty[0] == none);
    refusals(attacks);
    let immediate = smc_imm1(id::VERSION.into(), [id::REVISION, 0, 0, 0, 0, 0, 0]);
    attacks.note("G2", "smc-with-an-immediate", immediate[0] == none);
}

/// What bouncer has nothing behind fails in the specification's words.
fn refusals(attacks: &mut Attacks) {
    let page = layout::RAM;
    let failed = |code: u64| [code, 0, 0, 0];
    let host = |ipa: u64| call(id::HOST_CALL, [ipa, 0, 0, 0]);
    let refused = host(page) == failed(status::ERROR_UNKNOWN)
        && [page + 8, ALIAS | page].map(host) == [failed(status::ERROR_INPUT); 2];
    attacks.note("G2", "host-call-of-a-realm", refused);
    let token = || call(id::ATTESTATION_TOKEN_CONTINUE, [page, 0, PAGE, 0]);
    let before = token();
    let begun = call(id::ATTESTATION_TOKEN_INIT, [1, 2, 3, 4]);
    let refused = before == failed(status::ERROR_STATE)
        && begun == [status::SUCCESS, id::TOKEN_BOUND, 0, 0]
        && token() == failed(status::ERROR_UNKNOWN)
        && token() == failed(status::ERROR_STATE);
    attacks.note("G2", "token-of-a-realm", refused);
}

/// A page is in one half; in the other there is nothing. True if no contents
/// make the journey.
fn halves(machine: &Machine, attacks: &mut Attacks) -> bool {
    let page = machine.spare.end as u64 - PAGE;
    let alias = ALIAS | page;
    let aborts =
        |result: Result<u64, attempt::Fault>| result.is_err_and(|fault| fault.is_external_abort());
    // SAFETY: spare memory, used by nobody.
    if unsafe { attempt::try_write_u64(page, 7) }.is_err() {
        return false;
    }
    attacks.note("G1", "private-page-at-its-alias", aborts(attempt::try_read_u64(alias)));
    let (shared, _) = share(page);
    attacks.note("G1", "shared-page-at-home", aborts(attempt::try_read_u64(page)));
    // SAFETY: as above; if it runs, it runs a zero word, which is undefined.
    let executed = map(CODE_VIEW, alias, PAGE, Memory::Code).is_ok()
        && unsafe { attempt::try_exec(CODE_VIEW) }.is_err_and(|fault| fault.class() == 0x21);
    attacks.note("G1", "execute-shared-page", executed);
    let above = attempt::try_read_u64(alias) == Ok(0);
    // SAFETY: as above.
    let written = unsafe { attempt::try_write_u64(alias + 8, 8) }.is_ok();
    let again = change(page, ripas::EMPTY);
    let (back, _) = unshare(page);
    attacks.note("G1", "page-taken-back-at-its-alias", aborts(attempt::try_read_u64(alias)));
    let below = [0, 8].map(|offset| attempt::try_read_u64(page + offset)) == [Ok(0), Ok(0)];
    for (what, device) in
        [("console-at-its-alias", layout::UART), ("gic-at-its-alias", layout::GICD)]
    {
        let mapped = map_identity(ALIAS | device, PAGE, Memory::Device).is_ok();
        attacks.note("G1", what, mapped && aborts(attempt::try_read_u32(ALIAS | device)));
    }
    println!(
        "@guest realm shared={shared} again={again} back={back} above={} below={}",
        yes(above),
        yes(below)
    );
    shared == 0 && again == 0 && back == 0 && above && written && below
}

/// Ranges that are not the guest's to share, or not ranges at all.
fn ranges(machine: &Machine, attacks: &mut Attacks) {
    let (start, end) = (machine.ram.start as u64, machine.ram.end as u64);
    let page = machine.spare.end as u64 - PAGE;
    for (what, base, top) in [
        ("share-empty-range", page, page),
        ("share-backwards", page, page - PAGE),
        ("share-misaligned", page + 8, page + PAGE),
        ("share-misaligned-end", page, page + PAGE + 8),
        ("share-behind-ram", end, end + PAGE),
        ("share-over-the-end-of-ram", page, end + PAGE),
        ("share-before-ram", start - PAGE, start + PAGE),
        ("share-everything", 0, 1 << 39),
        ("share-the-lower-half", 0, ALIAS),
        ("share-wrapping", !0xfff, PAGE),
        ("share-to-the-end-of-all", page, !0xfff),
        ("share-an-alias", ALIAS | page, (ALIAS | page) + PAGE),
        ("share-up-to-an-alias", page, ALIAS | page),
        ("share-beyond-39-bits", 1 << 39 | page, (1 << 39 | page) + PAGE),
        ("share-console", layout::UART, layout::UART + PAGE),
        ("share-gic", layout::GICD, layout::GICD + PAGE),
        ("share-config-space", layout::ECAM, layout::ECAM + PAGE),
        ("share-bar-window", layout::PCI_MEM64, layout::PCI_MEM64 + PAGE),
    ] {
        // In the lower half the Host rejects; elsewhere the range is wrong.
        let within = base % PAGE == 0 && top % PAGE == 0 && base < top && top <= ALIAS;
        let answer = match within {
            true => [status::SUCCESS, base, id::REJECT, 0],
            false => [status::ERROR_INPUT, 0, 0, 0],
        };
        let refused =
            [ripas::EMPTY, ripas::RAM].iter().all(|state| set(base, top, *state) == answer);
        attacks.note("G2", what, refused);
    }
    for (what, state) in [("share-as-device", ripas::DEV), ("share-as-destroyed", 2)] {
        let answer = call(id::IPA_STATE_SET, [page, page + PAGE, state, 0]);
        attacks.note("G2", what, answer == [status::ERROR_INPUT, 0, 0, 0]);
    }
    let device = call(id::IPA_STATE_GET, [layout::UART, layout::UART + PAGE, 0, 0]);
    attacks.note("G2", "state-of-a-device", device == [0, layout::UART + PAGE, ripas::DEV, 0]);
}

/// What EL2 writes for the guest goes into its private memory only.
fn configuration(machine: &Machine, attacks: &mut Attacks) {
    let page = machine.spare.end as u64 - PAGE;
    let refused =
        |ipa: u64| call(id::REALM_CONFIG, [ipa, 0, 0, 0]) == [status::ERROR_INPUT, 0, 0, 0];
    for (what, ipa) in [
        ("configuration-behind-ram", machine.ram.end as u64),
        ("configuration-misaligned", page + 8),
        ("configuration-into-the-console", layout::UART),
        ("configuration-into-an-alias", ALIAS | page),
        ("configuration-wrapping", !0xfff),
    ] {
        attacks.note("G2", what, refused(ipa));
    }
    let (shared, _) = share(page);
    attacks.note("G2", "configuration-into-a-shared-page", shared == 0 && refused(page));
    let _ = unshare(page);
}

/// The guest may add to what was measured, and change nothing of it.
fn measurements(attacks: &mut Attacks) -> bool {
    // x0 and the 64 bytes in x1 to x8; x9 to x17 are the caller's.
    let read = |index| {
        let mut x = core::array::from_fn(|register| 0x5afe_0000 + register as u64);
        let before: [u64; 18] = x;
        (x[0], x[1]) = (id::MEASUREMENT_READ.into(), index);
        smc_all(&mut x);
        let kept = if x[0] == status::SUCCESS { 9 } else { 4 };
        (x[kept..] == before[kept..]).then(|| core::array::from_fn::<u64, 9, _>(|n| x[n]))
    };
    let failed = |index| read(index).is_some_and(|x| x[..4] == [status::ERROR_INPUT, 0, 0, 0]);
    let extend = |index, bytes| {
        let mut x = core::array::from_fn(|register| register as u64);
        (x[0], x[1], x[2]) = (id::MEASUREMENT_EXTEND.into(), index, bytes);
        smc_all(&mut x);
        x[0]
    };
    let initial = read(0);
    for (what, index, bytes) in [
        ("extend-the-initial-measurement", 0, 8),
        ("extend-a-fifth-measurement", 5, 8),
        ("extend-by-too-much", 1, 65),
        ("extend-by-everything", 1, u64::MAX),
    ] {
        attacks.note("G2", what, extend(index, bytes) == status::ERROR_INPUT);
    }
    attacks.note("G2", "read-a-fifth-measurement", failed(5));
    let zero = read(1) == Some([0; 9]);
    let extended = extend(1, 64) == status::SUCCESS && read(1).is_some_and(|x| x != [0; 9]);
    println!("@guest measurement zero={} extended={}", yes(zero), yes(extended));
    initial.is_some_and(|x| x[0] == status::SUCCESS) && initial == read(0) && zero && extended
}
