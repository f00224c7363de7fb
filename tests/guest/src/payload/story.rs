//! The story: everything a protected guest normally does, once.

use super::bounce_hal::{self, BounceHal};
use super::checked_transport::CheckedTransport;
use super::device::{self, Opened};
use super::direct_hal::DirectHal;
use super::disk::BlockDisk;
use super::iommu_hal::{self, IommuHal};
use super::pci::{self, Bus, Function, Msi};
use super::share_hal::{self, ShareHal};
use super::{Machine, checks, interrupts, secrets, smp, yes};
use alloc::string::String;
use core::fmt::Write;
use guest::contract::{Dma, Refusal};
use guest::files::{self, Content, Disk, SECTOR};
use rt::println;
use virtio_drivers::Hal;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::transport::DeviceType;

/// Number of the disk, and of the console, among the devices.
const DISK: usize = 0;
const CONSOLE: usize = 1;

/// Longest wait for the console, in milliseconds.
const PATIENCE: u64 = 20_000;

/// Tells it; true if it ended well.
pub(crate) fn tell(machine: &Machine) -> bool {
    println!("guest: memory and registers are mine alone; nothing is shared yet");
    let checked = checks::all(machine);
    let together = smp::start_all(machine);
    let kept = secrets::keep(machine);
    let Some((mut bus, functions)) = pci::enumerate(&machine.tree) else {
        println!("guest: no PCI host bridge");
        return false;
    };
    let mut msi = Msi::new(&machine.tree);
    let mut open = |kind, index| open(machine, &mut bus, &mut msi, &functions, kind, index);
    let stored = match open(DeviceType::Block, DISK) {
        Some(Ok(opened)) => with_disk(machine, opened),
        Some(Err(refusal)) => refused("disk", refusal),
        None => {
            println!("guest: no disk");
            false
        }
    };
    let spoken = match open(DeviceType::Console, CONSOLE) {
        Some(Ok(opened)) => with_console(opened),
        Some(Err(refusal)) => refused("console", refusal),
        None => true,
    };
    checked && together && kept && stored && spoken
}

fn open(
    machine: &Machine,
    bus: &mut Bus,
    msi: &mut Option<Msi>,
    functions: &[Function],
    kind: DeviceType,
    index: usize,
) -> Option<Result<Opened, Refusal>> {
    let function = functions.iter().find(|function| function.kind == kind)?;
    Some(device::open(machine, bus, msi.as_mut(), function, index))
}

fn refused(device: &str, refusal: Refusal) -> bool {
    println!("guest: I go without the {device}: {refusal:?}");
    println!("@guest device name={device} refused={refusal:?}");
    false
}

fn with_disk(machine: &Machine, opened: Opened) -> bool {
    let dma = opened.dma();
    match opened.contract.dma {
        Dma::Bounce(_) | Dma::Memory(_) => {
            let done = use_disk::<BounceHal<DISK>>(machine, opened, dma);
            let (counters, high_water) = bounce_hal::counters(DISK);
            report(dma, counters, high_water, 0, 0);
            done
        }
        Dma::Direct => use_disk::<DirectHal>(machine, opened, dma),
        Dma::SharedPages | Dma::ForcedBounce => {
            let done = use_disk::<ShareHal<DISK>>(machine, opened, dma);
            let Some(shared) = share_hal::close(DISK) else { return false };
            report(dma, shared.counters, shared.high_water, shared.hypercalls, shared.leaked);
            done && shared.leaked == 0
        }
        Dma::Table => {
            let done = use_disk::<IommuHal<DISK>>(machine, opened, dma);
            let Some(table) = iommu_hal::close(DISK) else { return false };
            iommu_hal::tell(&table);
            report(dma, table.used.copied, table.high_water, table.counters.calls(), table.lost());
            done && table.lost() == 0
        }
    }
}

fn report(
    dma: &str,
    counters: guest::slots::Counters,
    high_water: usize,
    hypercalls: u64,
    leaked: usize,
) {
    println!(
        "@guest dma kind={dma} bytes_in={} bytes_out={} high_water={high_water} shares={} unshares={} hypercalls={hypercalls} leaked={leaked}",
        counters.bytes_in, counters.bytes_out, counters.shares, counters.unshares
    );
}

/// What the guest does with its disk.
pub(super) fn use_disk<H: Hal>(machine: &Machine, opened: Opened, dma: &str) -> bool {
    let Opened { transport, verdict, intid, .. } = opened;
    let driver = match VirtIOBlk::<H, CheckedTransport>::new(transport) {
        Ok(driver) if verdict.get().is_none() => driver,
        Ok(_) | Err(_) => return refused("disk", verdict.get().unwrap_or(Refusal::Changed)),
    };
    let mut disk = BlockDisk::new(driver);
    // The first request polls, the rest sleep until the device's interrupt.
    let mut sector = [0; SECTOR];
    if !disk.read(0, &mut sector) {
        println!("guest: sector 0 cannot be read");
        return false;
    }
    disk.intid = intid;
    let done = match work(machine, &mut disk, dma) {
        Ok(()) => true,
        Err(error) => {
            println!("guest: the disk failed: {error:?}");
            false
        }
    };
    println!(
        "@guest io polled={} interrupts={} msix={}",
        disk.polled,
        disk.interrupted,
        yes(intid.is_some())
    );
    done && (intid.is_none() || disk.interrupted > 0)
}

fn work(machine: &Machine, disk: &mut impl Disk, dma: &str) -> Result<(), files::Error> {
    let content = files::look(disk)?;
    let kind = match &content {
        Content::Fat(kind, _) => kind,
        Content::Raw => "raw",
    };
    println!("guest: my disk holds {kind}, and reaches me through {dma} memory only");
    println!("@guest disk kind={kind} sectors={} dma={dma}", disk.sectors());
    let note = machine.argument("note").unwrap_or("written by a protected guest");
    match content {
        Content::Fat(_, entries) => {
            for entry in &entries {
                println!("guest:   {:>10}  {}", entry.size, entry.name);
                println!("@guest file name={} size={}", word(&entry.name), entry.size);
            }
            if let Some(name) = machine.argument("hash") {
                print_hash(name, dma, files::hash_file(disk, name)?);
            }
            if machine.argument("write") != Some("none") {
                let mut line = String::from(note);
                line.push('\n');
                files::write_file(disk, "GUEST.TXT", line.as_bytes())?;
                println!("@guest wrote file=GUEST.TXT bytes={}", line.len());
            }
        }
        Content::Raw => {
            print_hash("disk", dma, files::hash_disk(disk)?);
            if machine.argument("write") == Some("last-sector") {
                files::write_last_sector(disk, note.as_bytes())?;
                println!("@guest wrote sector={} bytes={SECTOR}", disk.sectors() - 1);
            }
        }
    }
    Ok(())
}

/// A name as one word of a machine-readable line.
fn word(name: &str) -> String {
    name.chars().map(|letter| if letter.is_whitespace() { '_' } else { letter }).collect()
}

fn print_hash(name: &str, dma: &str, hash: [u8; 32]) {
    let mut hex = String::new();
    for byte in hash {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    println!("guest: SHA-256 of {name} is {hex}");
    println!("@guest sha256 file={} hex={hex} dma={dma}", word(name));
}

fn with_console(opened: Opened) -> bool {
    let dma = opened.dma();
    let sent = match opened.contract.dma {
        Dma::Bounce(_) | Dma::Memory(_) => greet::<BounceHal<CONSOLE>>(opened),
        Dma::Direct => greet::<DirectHal>(opened),
        Dma::SharedPages | Dma::ForcedBounce => {
            let sent = greet::<ShareHal<CONSOLE>>(opened);
            sent && share_hal::close(CONSOLE).is_some_and(|report| report.leaked == 0)
        }
        Dma::Table => {
            let sent = greet::<IommuHal<CONSOLE>>(opened);
            sent && iommu_hal::close(CONSOLE).is_some_and(|report| report.lost() == 0)
        }
    };
    println!("@guest console dma={dma} sent={}", yes(sent));
    sent
}

fn greet<H: Hal>(opened: Opened) -> bool {
    let Opened { transport, verdict, .. } = opened;
    match VirtIOConsole::<H, CheckedTransport>::new(transport) {
        Ok(mut console) if verdict.get().is_none() => {
            let line = b"hello from a protected guest, over virtio-console\n";
            interrupts::at_most(PATIENCE, || console.send_bytes(line).is_ok())
        }
        Ok(_) | Err(_) => refused("console", verdict.get().unwrap_or(Refusal::Changed)),
    }
}
