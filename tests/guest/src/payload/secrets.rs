//! Secrets in memory and registers while the host has the CPU, and a page
//! lent for a while.

#![allow(unsafe_code)]

use super::pkvm::{mem_share, mem_unshare};
use super::{Machine, interrupts, realm, yes};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use guest::secret;
use rt::{cpu, println, timer};

global_asm!(include_str!("secrets.S"));

unsafe extern "C" {
    fn fp_load(values: *const [u128; 32]);
    fn fp_store(values: *mut [u128; 32]);
    fn hold_in_registers(low: u64, high: u64, until: u64, wait: u64) -> u64;
}

/// V0 to V31 now. The payload is compiled without floating point, so they are
/// what [`load_fp`] put there.
pub(crate) fn read_fp() -> [u128; 32] {
    let mut values = [0; 32];
    // SAFETY: stores 512 bytes there and changes nothing else.
    unsafe { fp_store(&raw mut values) };
    values
}

/// Sets V0 to V31.
pub(crate) fn load_fp(values: &[u128; 32]) {
    // SAFETY: no compiled code uses these registers.
    unsafe { fp_load(values) };
}

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; 4096]>);

// SAFETY: used by the boot CPU only.
unsafe impl Sync for Page {}

static SECRET: Page = Page(UnsafeCell::new([0; 4096]));
static LENT: Page = Page(UnsafeCell::new([0; 4096]));

fn secret_page() -> &'static mut [u8; 4096] {
    // SAFETY: each caller runs on the boot CPU and keeps it only while it
    // looks; no two are alive at once.
    unsafe { &mut *SECRET.0.get() }
}

/// Puts the marker into a private page and V8 to V15; the page's address.
pub(super) fn plant() -> u64 {
    secret::plant(secret_page());
    load_fp(&[u128::from_le_bytes(secret::marker()); 32]);
    SECRET.0.get() as u64
}

/// Is the private page as [`plant`] left it?
pub(super) fn page_intact() -> bool {
    secret::is_intact(secret_page())
}

fn fp_intact() -> bool {
    let marker = u128::from_le_bytes(secret::marker());
    read_fp()[8..16].iter().all(|value| *value == marker)
}

/// Keeps the marker in x19 to x28 for so long, waiting or spinning.
fn hold(milliseconds: u64, wait: bool) -> bool {
    let [low, high] = secret::marker_words();
    let until = timer::now().saturating_add(timer::ticks(1000 * milliseconds));
    timer::set(until);
    // SAFETY: the routine keeps the procedure call standard.
    let changed = unsafe { hold_in_registers(low, high, until, wait.into()) };
    timer::cancel();
    changed == 0
}

/// Plants the secrets, hands the CPU to the host in both ways a guest can, and
/// looks whether they are still there. `secret_ms=` is how long.
pub(crate) fn keep(machine: &Machine) -> bool {
    let milliseconds =
        machine.argument("secret_ms").and_then(|word| word.parse().ok()).unwrap_or(200).min(60_000);
    let page = plant();
    println!("guest: a secret is in page {page:#x}, in x19 to x28 and in v8 to v15");
    println!("@guest secret planted=yes page={page:#x} ms={milliseconds}");
    let waited = hold(milliseconds / 2, true);
    let spun = hold(milliseconds / 2, false);
    let fp = fp_intact();
    let memory = secret::is_intact(secret_page());
    let intact = waited && spun && fp && memory;
    println!(
        "@guest secret intact={} memory={} registers={} fp={}",
        yes(intact),
        yes(memory),
        yes(waited && spun),
        yes(fp)
    );
    intact
}

/// Holds the secrets until the host ends the machine.
pub(crate) fn hold_for_ever(wait: bool) -> ! {
    let page = plant();
    println!("@guest ready page={page:#x}");
    let [low, high] = secret::marker_words();
    loop {
        // SAFETY: the routine keeps the procedure call standard. It comes back
        // only when the counter is at its end.
        unsafe { hold_in_registers(low, high, u64::MAX, wait.into()) };
    }
}

/// Shares a page or takes it back: the code, and where the page is then.
type Step = fn(u64) -> (i64, u64);

fn in_place(page: u64) -> (i64, u64) {
    (mem_share(page, 1).0, page)
}

fn back_in_place(page: u64) -> (i64, u64) {
    (mem_unshare(page, 1).0, page)
}

/// Text of the lent page.
const GREETING: &[u8; 16] = b"lent by a guest.";

/// Lends a page, lets the host answer in it, takes it back: the host must see
/// it in between and neither before nor after. A realm's page is full of the
/// marker before, which nobody meant to share, and must be zeros both ways.
pub(crate) fn lend(machine: &Machine) -> bool {
    let milliseconds =
        machine.argument("lend_ms").and_then(|word| word.parse().ok()).unwrap_or(1000).min(60_000);
    let address = LENT.0.get();
    let (share, unshare) = match machine.protection.realm {
        true => (realm::share as Step, realm::unshare as Step),
        false => (in_place as Step, back_in_place as Step),
    };
    let read = |view: u64| {
        // SAFETY: the page is alive for ever, here or at its alias; the host
        // may write it, so it is read as volatile bytes.
        core::array::from_fn::<u8, 16, _>(|index| unsafe {
            (view as *const u8).add(index).read_volatile()
        })
    };
    if machine.protection.realm {
        // SAFETY: this page is used here alone.
        secret::plant(unsafe { &mut *address });
    } else {
        // SAFETY: as above. In place, the host sees what is there.
        unsafe { address.cast::<[u8; 16]>().write_volatile(*GREETING) };
    }
    println!("@guest lend state=private ipa={address:p}");
    let (shared, view) = share(address as u64);
    println!("@guest lend state=shared ipa={address:p} code={shared}");
    let lent = if machine.protection.realm { [0; 16] } else { *GREETING };
    let answered = interrupts::wait(milliseconds, || read(view) != lent);
    let (unshared, view) = unshare(address as u64);
    let kept = read(view);
    if machine.protection.realm {
        let words = (0..4096u64).step_by(8);
        // SAFETY: the page is private again, and used here alone.
        let mut words = words.map(|at| unsafe { ((view + at) as *const u64).read_volatile() });
        println!("@guest lend state=back zeros={}", yes(words.all(|word| word == 0)));
    }
    println!(
        "@guest lend state=returned ipa={address:p} code={unshared} answered={} text={}",
        yes(answered),
        kept.escape_ascii()
    );
    // A host that still had it would change it now.
    secret::plant(secret_page());
    timer::set(timer::now() + timer::ticks(1000 * milliseconds.min(200)));
    let before = interrupts::timer_taken();
    cpu::wait_until(|| interrupts::timer_taken() != before);
    let stable = read(view) == kept;
    println!("@guest lend state=checked stable={}", yes(stable));
    shared == 0 && unshared == 0 && stable
}
