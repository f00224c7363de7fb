//! Boots with another story than the usual one: the machine is switched off
//! under a guest that holds secrets, and a disk lies to its guest.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::{boot, file, machine, one_at_a_time, ready};
use xtask::cpio::newc;
use xtask::qemu::{Boot, End, Machine, Module};
use xtask::story::{Config, Run, tell};

/// First byte of RAM on QEMU virt, and where the modules are put, clear of
/// bouncer (at 2 MiB) and of QEMU's device tree (at 128 MiB).
const RAM: u64 = 0x4000_0000;
const HOST: u64 = RAM + (64 << 20);
const RAMDISK: u64 = RAM + (144 << 20);
const MIB: u64 = 1 << 20;
/// What the guest keeps in its memory and in its registers.
const MARKER: [&[u8]; 2] = [b"BOUNCER-", b"SECRET-0"];

/// The usual machine with this command line for the host, and an empty disk.
fn host(test: &str, bootargs: &str) -> Result<Boot> {
    let (_, images) = ready()?;
    let guest = std::fs::read(&images.guest)?;
    let archive = newc(&[("guest.img", &guest), ("disk.img", &[0; 64 << 10])]);
    let ramdisk = file(test, "ramdisk.cpio", &archive.bytes)?;
    let bootargs = Some(bootargs.to_owned());
    Ok(Boot {
        machine: Machine { memory: 512, ..machine()? },
        kernel: images.bouncer,
        modules: vec![
            Module { path: images.host, address: HOST, bootargs },
            Module { path: ramdisk, address: RAMDISK, bootargs: None },
        ],
        blobs: Vec::new(),
        gdb: None,
        timeout: Some(Duration::from_secs(300)),
    })
}

/// A guest sits on its secrets, nobody has taken anything back, and the host
/// switches the machine off. Whoever owns the memory next must not find them:
/// not in frames, not in the registers bouncer kept, not on its stacks.
#[test]
fn c9_no_secret_is_in_memory_after_power_off() -> Result<()> {
    let test = "leave-off";
    let machine = host(test, "scenario=leave-off")?;
    let dump = file(test, "memory.bin", b"")?;
    let size = machine.machine.memory * MIB;
    let (ended, transcript) = boot(&machine, |qemu| qemu.save_memory(RAM, size, &dump))?;
    let tail = transcript.tail(20).join("\n");
    assert_eq!(ended.end, End::PoweredOff, "{tail}");
    let said = |start: &str| transcript.lines.iter().any(|line| line.starts_with(start));
    assert!(said("@guest ready"), "the secrets were planted: {tail}");
    assert!(said("@host leaves"), "and the host left: {tail}");

    let memory = std::fs::read(&dump).context("the machine's memory was not saved")?;
    std::fs::remove_file(&dump)?;
    assert_eq!(memory.len() as u64, size);
    let marker = MARKER.concat();
    let found = memory.windows(marker.len()).position(|bytes| bytes == marker);
    assert_eq!(found.map(|offset| format!("{:#x}", RAM + offset as u64)), None);
    Ok(())
}

/// The backend breaks every rule of the used ring. The guest may lose its
/// disk; it must end by its own decision, and stay closed.
#[test]
fn h_a_disk_that_lies_gets_nothing_out_of_its_guest() -> Result<()> {
    let machine = host("lies", "scenario=lies policy=bounce-bar")?;
    let (ended, transcript) = boot(&machine, |_| Ok(()))?;
    let tail = transcript.tail(20).join("\n");
    assert_eq!(ended.end, End::PoweredOff, "{tail}");
    assert_eq!(transcript.panic, None);
    for row in ["H1", "H2", "H3", "H5", "H6", "H7", "H10"] {
        let lies = transcript.attacks_of(row);
        assert!(!lies.is_empty(), "{row} was never tried: {tail}");
        for lie in lies {
            assert_eq!(lie.outcome, "refused", "{}: {}: {}", lie.id, lie.what, lie.detail);
        }
    }
    Ok(())
}

/// Two runs in one tree and of one name, with disks of their own: neither sees
/// the other's disk or hears its console.
#[test]
fn two_runs_at_once_do_not_meet() -> Result<()> {
    let (workspace, images) = ready()?;
    let _turn = one_at_a_time();
    let run = |byte: u8| -> Result<Run> {
        let mut config = Config::new("twins");
        config.disk = Some(file("twins", &format!("{byte}.img"), &vec![byte; 100_000])?);
        config.machine = Machine { cpus: 1, memory: 512, ..Machine::default() };
        config.scenario = "leave-off".into();
        tell(&workspace, &images, &config, &mut |_| {})
    };
    let runs = std::thread::scope(|scope| {
        let twins = [b'1', b'2'].map(|byte| {
            scope.spawn({
                let run = &run;
                move || (byte, run(byte))
            })
        });
        twins.map(|twin| twin.join().expect("a thread has panicked"))
    });
    for (byte, run) in runs {
        let run = run?;
        let said = run.transcript.tail(20).join("\n");
        assert_eq!(run.end, End::PoweredOff, "{said}");
        for name in ["disk.img", "disk-after.img"] {
            let disk = std::fs::read(run.folder.join(name))?;
            assert!(disk[..100_000].iter().all(|is| *is == byte), "{name}: {said}");
        }
        let console = std::fs::read_to_string(run.folder.join("console.log"))?;
        assert_eq!(console.matches("@host leaves").count(), 1, "{console}");
    }
    Ok(())
}
