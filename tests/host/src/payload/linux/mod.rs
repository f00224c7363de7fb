//! `scenario=linux`: the host is the VMM of one guest, a distribution's
//! kernel, and the machine's terminal is that guest's.
//!
//! The host says little, before the guest starts and after it has ended, on
//! lines that begin with `linux:`. docs/linux.md tells what goes where.

mod files;
mod holdings;
mod neighbours;
mod search;
mod siege;
mod sweep;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use host::frames::Run;
use host::linux::{Abi, Console, Dma, Granules, Kill, Options, place};
use host::net::{Segment, Station};
use hyp::abi;
use hyp::event::EventKind;
use hyp::stats::VmCounter;
use rt::println;
use spin::Mutex;

use super::calls::BOUNCER;
use super::lies::Lie;
use super::machine::Machine;
use super::run::FREE;
use super::vm::{DevicePlan, Input, Part, Plan, Shown, Vm, end};
use super::{clock, cpus, run, terminal};
use files::Files;
use holdings::Holdings;
use neighbours::Neighbours;
use siege::Siege;

/// How long the guest may run between two looks at the terminal, in
/// milliseconds: an interrupt of the UART's ends a wait, not this.
const LOOK: u64 = 20;
/// So many of these looks, at least, between two at the event log: a second.
const LOOKS_PER_LOG: u32 = 50;

/// The pool through which a kernel that speaks pKVM bounces: enough for the
/// devices' rings and a deep queue of the disk's.
const DMA_POOL: u64 = 16 << 20;

/// Pages of bounce memory of a disk: 1 MiB. A request of Linux' has up to 64
/// pages, and there should be several at a time.
const DISK_PAGES: u64 = 256;

/// Pages of bounce memory of a console: 2 MiB. Linux fills the receive queue
/// with 256 buffers of a page before the first byte comes.
const CONSOLE_PAGES: u64 = 512;

/// Runs the guest, and again after each of its resets; true if it ended as
/// it was meant to.
pub(super) fn run(mut machine: Machine) -> bool {
    match boot(&mut machine) {
        Ok(()) => true,
        Err(why) => {
            println!("linux: {why}");
            false
        }
    }
}

fn boot(machine: &mut Machine) -> Result<(), String> {
    let options = Options::parse(machine.command_line)
        .map_err(|word| format!("the command line's `{word}` makes no sense"))?;
    let lies = lies(machine.command_line)?;
    BOUNCER.version().map_err(|_| "no bouncer answers: start this image with bouncer below it")?;
    *FREE.lock() = machine.free_frames();
    let seed = machine.seed.to_vec();
    let mut files = Files::open(machine.take_ramdisk()).ok_or("the ramdisk has no `kernel`")?;
    terminal::open(machine.uart_interrupt);
    let ram: Vec<Run> = machine.frames_of_ram();
    let before = Holdings::now()?;
    let mut life = 1;
    loop {
        let how = one_life(&options, &mut files, &seed, &ram, life, &lies)?;
        before.compare()?;
        if options.kill == Some(Kill::InIo) && how != end::NOT_YET {
            return Err("the guest ended by itself before it could be killed".into());
        }
        if how == end::RESET {
            println!("linux: the guest resets");
            continue;
        }
        say_end(how, &options)?;
        if life == options.lives {
            return Ok(());
        }
        life += 1;
        println!("linux: life {life} of {}", options.lives);
    }
}

fn say_end(how: u8, options: &Options) -> Result<(), String> {
    match (how, options.kill) {
        (end::OFF, _) => println!("linux: guest powered off"),
        (end::NOT_YET, Some(_)) => println!("linux: guest killed"),
        _ => return Err("the guest died".into()),
    }
    Ok(())
}

/// `lie=`: ids of H rows, separated by commas, of which the first guest's
/// devices get one each, over and over.
fn lies(line: &str) -> Result<Vec<Lie>, String> {
    let words = line.split_ascii_whitespace();
    let list = words.filter_map(|word| word.strip_prefix("lie=")).next_back();
    let ids = list.unwrap_or_default().split(',').filter(|id| !id.is_empty());
    ids.map(|id| Lie::of(id).ok_or_else(|| format!("nobody lies like `{id}`"))).collect()
}

/// One guest from creation to the last frame; how it ended.
fn one_life(
    options: &Options,
    files: &mut Files,
    seed: &[u8],
    ram: &[Run],
    life: u64,
    lies: &[Lie],
) -> Result<u8, String> {
    let free = FREE.lock().available() >> 8;
    let wanted = options.memory * (1 + options.neighbours);
    if free < wanted {
        return Err(format!(
            "{free} MiB are free and {wanted} are wanted: give guests less, or the machine more"
        ));
    }
    let segment = Arc::new(Mutex::new(Segment::new(Station::new(number(seed)))));
    let disk = files.disk.as_ref().filter(|_| options.devices.blk);
    let disk = disk.map(|disk| (disk.as_ptr() as usize, disk.len()));
    let start = clock::now();
    let vm = Vm::build(&FREE, plan(options, files, seed, &segment, 0)?)
        .map_err(|problem| format!("cannot build the guest: {problem}"))?;
    let digest = vm.measurement().ok_or("bouncer does not tell its measurement")?;
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    println!(
        "linux: {:?}, {} MiB, {} vCPUs on {} CPUs, built in {} ms, measured sha256={digest}",
        options.abi,
        options.memory,
        options.vcpus,
        cpus::count(),
        since(start)
    );
    for (number, device) in vm.devices.iter().enumerate() {
        device.lock().lie = number.checked_rem(lies.len()).and_then(|at| lies.get(at).copied());
    }
    let neighbours = Neighbours::begin(options, files, seed, &segment)?;
    if options.kill == Some(Kill::InIo) {
        for device in &vm.devices {
            device.lock().silent_after = Some(Kill::requests(life));
        }
    }
    let unanswered = || vm.devices.iter().map(|device| device.lock().unanswered).sum::<u64>();
    let mut siege = options.attack.then(|| Siege::begin(&vm, options.marker, ram));
    run::admit(Arc::clone(&vm));
    let start = clock::now();
    let misled = || match options.policy {
        Dma::LegacyNoPlatform => stopped_device(&vm),
        _ => None,
    };
    let over = || match options.kill {
        // Linux waits for ever for a disk that needs a reset.
        None => misled().is_some(),
        Some(Kill::After(milliseconds)) => since(start) >= milliseconds,
        Some(Kill::InIo) => unanswered() > 0,
    };
    attend(&vm, over, siege.as_mut());
    let lived = since(start);
    if siege.is_none() {
        tell_undescribed();
    }
    let misled = misled();
    run::retire(&vm);
    vm.hear_the_rest();
    let how = vm.end();
    println!("linux: ran for {lived} ms, {}", counters(&vm));
    let residue = BOUNCER.stats(Some(vm.handle), VmCounter::SharedResidue as u64);
    if options.kill == Some(Kill::InIo) {
        println!("linux: requests of the disk that were not answered: {}", unanswered());
    }
    // Whatever else is found out: what the guest has written is its user's.
    if let Some((address, size)) = disk.filter(|_| how != end::RESET) {
        println!("linux: disk at {address:#x} size {size:#x}");
    }
    let held = siege.is_none_or(|siege| siege.end(&vm));
    let remains =
        vm.tear_down(&FREE).map_err(|problem| format!("cannot take it down: {problem}"))?;
    if let Some(pfn) = remains.leftover {
        return Err(format!("frame {pfn:#x} came back with the guest's bytes in it"));
    }
    println!("linux: {} frames came back, all zero", remains.frames);
    neighbours.end()?;
    if residue != Ok(0) {
        return Err(format!("bytes that were not zero in pages that it shared: {residue:?}"));
    }
    if let Some(why) = misled.filter(|_| how == end::NOT_YET) {
        return Err(why);
    }
    if !held {
        return Err("an attempt on the guest was not refused".into());
    }
    let vm = Arc::try_unwrap(vm).map_err(|_| "somebody still holds a guest that is gone")?;
    files.disk = vm.into_disks().pop().or(files.disk.take());
    Ok(how)
}

/// A device was stopped: what its driver did that a driver must not do if the
/// device does not say whose memory it takes.
fn stopped_device(vm: &Vm) -> Option<String> {
    let mut devices = (0..).zip(&vm.devices);
    let (number, hostile) =
        devices.find_map(|(number, device)| Some((number, device.lock().failed?)))?;
    Some(format!(
        "the guest was ended: device {number} lacks ACCESS_PLATFORM, and the guest's driver took it \
         and gave it memory that the guest keeps to itself ({hostile}); of that nothing was read"
    ))
}

/// Milliseconds since `start`.
fn since(start: u64) -> u64 {
    (clock::now() - start) / clock::milliseconds(1).max(1)
}

/// A number made of the machine's seed.
fn number(seed: &[u8]) -> u64 {
    seed.iter().rev().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What becomes of the options and the files: guest 0 has the terminal and
/// the disk, the others are its neighbours.
fn plan<'a>(
    options: &Options,
    files: &mut Files,
    seed: &[u8],
    segment: &Arc<Mutex<Segment>>,
    guest: u64,
) -> Result<Plan<'a>, String> {
    // What bouncer shows the host of this register it shows a guest, too.
    let granules = Granules::of(rt::try_mrs!("S3_0_C0_C7_0").unwrap_or_default());
    let load = place(files.kernel, files.initrd.len() as u64, options.memory << 20, granules)
        .map_err(|problem| format!("{problem}"))?;
    let devices = options.devices;
    let shares = options.policy.shares();
    let mut plans = Vec::new();
    if devices.blk && guest == 0 {
        let disk = files.disk.take().ok_or("devices=blk, but the ramdisk has no `disk.img`")?;
        plans.push(DevicePlan::Disk(disk, DISK_PAGES));
    }
    if devices.console {
        plans.push(DevicePlan::Console(CONSOLE_PAGES));
    }
    if devices.net {
        plans.push(DevicePlan::Net(Arc::clone(segment)));
    }
    if devices.rng {
        let mut seed = seed.to_vec();
        seed.extend(guest.to_le_bytes());
        plans.push(DevicePlan::Entropy(seed));
    }
    Ok(Plan {
        image: Part { at: load.kernel, bytes: files.kernel },
        initrd: Part { at: load.initrd, bytes: files.initrd },
        dma_pool: if options.abi == Abi::Pkvm && devices.any() && shares { DMA_POOL } else { 0 },
        on_demand: 0,
        flags: match options.abi {
            Abi::Rsi => abi::CREATE_RSI,
            Abi::Pkvm => 0,
            Abi::None => abi::CREATE_CONSOLE,
        },
        check_measurement: false,
        shown: if guest == 0 { Shown::AsItIs } else { Shown::IfAsked },
        input: match options.console {
            Console::Pl011 => Input::Uart,
            Console::Hvc0 => Input::Console,
        },
        vcpus: options.vcpus,
        ram_mib: options.memory,
        bootargs: match guest {
            0 => files.command_line.into(),
            _ => format!("{} neighbour={guest}", files.command_line),
        },
        policy: match options.policy {
            Dma::SharedPages => abi::POLICY_SHARED_PAGES,
            Dma::BounceBar => abi::POLICY_BOUNCE_BAR,
            Dma::DeviceMemory => abi::POLICY_DEVICE_MEMORY,
            Dma::LegacyNoPlatform => abi::POLICY_LEGACY,
        },
        devices: plans,
    })
}

/// Runs this CPU's share of the guest and passes on what is typed, until the
/// guest ends or it is `over` with it.
fn attend(vm: &Vm, over: impl Fn() -> bool, mut siege: Option<&mut Siege>) {
    let mut looks = 0;
    while vm.end() == end::NOT_YET && !over() {
        looks += 1;
        // A siege reads the log itself.
        if siege.is_none() && looks % LOOKS_PER_LOG == 0 {
            tell_undescribed();
        }
        if terminal::has_waiting() {
            vm.fetch_input();
        }
        if let Some(siege) = &mut siege {
            siege.round(vm);
        }
        run::until(LOOK, || {
            vm.end() != end::NOT_YET || over() || terminal::has_waiting() && vm.wants_input()
        });
    }
}

/// A guest that reaches for a device by an instruction which the CPU does not
/// describe is aborted, and may say nothing any more: so it is said here.
fn tell_undescribed() {
    while let Some(event) = BOUNCER.event_next() {
        if event.kind == EventKind::GuestUndescribed as u8 {
            println!(
                "\nlinux: refused: an access to the device at {:#x} without a syndrome (a pair, a \
                 vector, a base that is written back; ESR {:#x}): see docs/linux.md, Devices",
                event.address, event.syndrome
            );
        }
    }
}

/// What the guest cost, on one line: EL2's counters, then those of its devices.
fn counters(vm: &Vm) -> String {
    let el2 = (0..).zip(VmCounter::ALL).filter_map(|(index, counter)| {
        Some((counter.name(), BOUNCER.stats(Some(vm.handle), index).ok()?))
    });
    let devices = vm.devices.iter().flat_map(|device| device.lock().backend.counters());
    let words: Vec<String> =
        el2.chain(devices).map(|(name, value)| format!("{name}={value}")).collect();
    words.join(" ")
}
