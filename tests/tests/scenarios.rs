//! Boots with another story than the usual one: the machine is switched off
//! under a guest that holds secrets, and a disk lies to its guest.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::debugger::{Debugger, free_port};
use tests::{boot, file, machine, one_at_a_time, ready};
use xtask::cpio::newc;
use xtask::qemu::{Boot, End, Machine, Module};
use xtask::story::{Config, Run, tell};
use xtask::transcript::Transcript;

/// First byte of RAM on QEMU virt, and where the modules are put, clear of
/// bouncer (at 2 MiB) and of QEMU's device tree (at 128 MiB).
const RAM: u64 = 0x4000_0000;
const HOST: u64 = RAM + (64 << 20);
/// Where QEMU puts bouncer.
const BOUNCER: u64 = RAM + (2 << 20);
const RAMDISK: u64 = RAM + (144 << 20);
const MIB: u64 = 1 << 20;
/// What the guest keeps in its memory and in its registers.
const MARKER: [&[u8]; 2] = [b"BOUNCER-", b"SECRET-0"];

/// How `enter_world` (el2-boot/src/vectors.S) begins: it saves x29, x30 and x19
/// to x22, and loads the world's PC and PSTATE.
const ENTER_WORLD: [u32; 3] = [0xa9b9_7bfd, 0xa901_53f3, 0xa902_5bf5];

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

/// How the host leaves, and what must be seen of it.
struct Leaving {
    scenario: &'static str,
    end: End,
    /// What is done to the machine when the host says that it leaves.
    then: fn(&Boot) -> Result<()>,
}

/// A guest sits on its secrets, nobody has taken anything back, and the machine
/// ends. Whoever owns it next must not find them: not in frames, not in the
/// registers bouncer kept, not on its stacks, and in no register of any CPU.
fn nothing_is_left(leaving: &Leaving) -> Result<()> {
    let test = leaving.scenario;
    let mut machine = host(test, &format!("scenario={test}"))?;
    machine.machine.cpus = machine.machine.cpus.max(2);
    machine.machine.look_after_reset = true;
    let port = format!("tcp:127.0.0.1:{}", free_port()?);
    machine.machine.extra.extend(["-gdb".into(), port]);
    let dump = file(test, "memory.bin", b"")?;
    let size = machine.machine.memory * MIB;
    let (mut transcript, mut trouble) = (Transcript::default(), None);
    let mut registers = String::new();
    let ended = {
        let _turn = one_at_a_time();
        machine.run(
            |line| {
                if line.starts_with("@host leaves") {
                    trouble = (leaving.then)(&machine).err();
                }
                transcript.push(line);
            },
            |qemu| {
                registers = qemu.registers()?;
                qemu.save_memory(RAM, size, &dump)
            },
        )?
    };
    let tail = transcript.tail(20).join("\n");
    if let Some(trouble) = trouble {
        return Err(trouble.context(tail));
    }
    assert_eq!(ended.end, leaving.end, "{tail}");
    let said = |start: &str| transcript.lines.iter().any(|line| line.starts_with(start));
    assert!(said("@guest ready"), "the secrets were planted: {tail}");
    assert!(said("@host leaves"), "and the host left: {tail}");

    let memory = std::fs::read(&dump).context("the machine's memory was not saved")?;
    std::fs::remove_file(&dump)?;
    assert_eq!(memory.len() as u64, size);
    let copies: Vec<String> =
        copies_in(&memory).map(|offset| format!("{:#x}", RAM + offset as u64)).collect();
    assert!(copies.is_empty(), "{} copies in memory: {copies:?}", copies.len());
    assert!(registers.contains("X30"), "QEMU tells of no registers: {registers}");
    for half in MARKER {
        let word = u64::from_le_bytes(half.try_into()?);
        assert!(!registers.contains(&format!("{word:016x}")), "in a register:\n{registers}");
    }
    if leaving.scenario == "leave-break-out" {
        assert!(transcript.panic.is_some(), "bouncer was not broken: {tail}");
        assert!(!said("x0"), "the console is the host's, a guest's registers are not: {tail}");
    }
    Ok(())
}

/// Where the marker is. Wherever it lies, one of its eight-byte pieces lies on
/// an eight-byte boundary: half a GiB byte by byte would take a minute.
fn copies_in(memory: &[u8]) -> impl Iterator<Item = usize> {
    let marker = MARKER.concat();
    let pieces: Vec<u64> = marker
        .windows(8)
        .filter_map(|piece| piece.try_into().ok().map(u64::from_le_bytes))
        .collect();
    let (words, _) = memory.as_chunks::<8>();
    words.iter().enumerate().filter_map(move |(index, word)| {
        let word = u64::from_le_bytes(*word);
        if word == 0 {
            return None;
        }
        let piece = pieces.iter().position(|piece| *piece == word)?;
        let start = (8 * index).checked_sub(piece)?;
        (memory.get(start..start + marker.len()) == Some(&marker)).then_some(start)
    })
}

#[test]
fn a_copy_is_found_wherever_it_lies() {
    for offset in 0..24 {
        let mut memory = vec![b'B'; 64];
        memory[offset..offset + 16].copy_from_slice(&MARKER.concat());
        assert!(copies_in(&memory).any(|found| found == offset), "at {offset}");
    }
    assert_eq!(copies_in(b"BOUNCER-SECRET-1BOUNCER-SECRET-").next(), None);
}

const fn nothing(_: &Boot) -> Result<()> {
    Ok(())
}

#[test]
fn c9_no_secret_is_in_memory_after_power_off() -> Result<()> {
    nothing_is_left(&Leaving { scenario: "leave-off", end: End::PoweredOff, then: nothing })
}

/// The guest runs on CPU 1 while CPU 0 ends the machine.
#[test]
fn c18_no_secret_is_left_of_a_guest_that_is_out_at_power_off() -> Result<()> {
    nothing_is_left(&Leaving { scenario: "leave-off-out", end: End::PoweredOff, then: nothing })
}

#[test]
fn c18_no_secret_is_left_of_a_guest_that_is_out_at_a_reset() -> Result<()> {
    nothing_is_left(&Leaving { scenario: "leave-reset-out", end: End::Reset, then: nothing })
}

/// bouncer's own code is overwritten from outside, so that CPU 0 has an
/// exception in EL2 while the guest runs on CPU 1: it fails closed.
#[test]
fn c18_no_secret_is_left_of_a_guest_that_is_out_when_bouncer_breaks() -> Result<()> {
    nothing_is_left(&Leaving { scenario: "leave-break-out", end: End::PoweredOff, then: sabotage })
}

/// Overwrites the first instruction of the world switch with one that is
/// UNDEFINED.
fn sabotage(machine: &Boot) -> Result<()> {
    let image = std::fs::read(&machine.kernel)?;
    let code: Vec<u8> = ENTER_WORLD.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut places = image.windows(code.len()).enumerate().filter(|(_, bytes)| *bytes == code);
    let (offset, _) = places.next().context("the world switch does not begin as it did")?;
    assert!(places.next().is_none(), "there are two world switches");
    let port = machine.machine.extra.last().context("no debugger's port")?;
    let mut debugger = Debugger::connect(port.trim_start_matches("tcp:"))?;
    debugger.physical()?;
    debugger.write(BOUNCER + offset as u64, &[0; 4])?;
    debugger.detach()
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
