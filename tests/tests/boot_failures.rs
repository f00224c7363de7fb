//! B1: what is wrong at boot ends in a clear message and an orderly stop
//! before anything runs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tests::tiny::{Program, RAM};
use tests::{boot, file, machine, ready};
use xtask::qemu::{Boot, End, Machine, Module};

/// Where QEMU puts a flat Image that asks for no other place, and bouncer.
const BOUNCER: u64 = RAM + (2 << 20);
/// Where the program that runs before bouncer lies in RAM.
const MEDDLER: u64 = 32 << 20;
/// Where the host's kernel is put.
const HOST: u64 = RAM + (64 << 20);
/// Fields of a device tree's header (Devicetree Specification, 5.2).
mod header {
    pub(crate) const MAGIC: u32 = 0;
    pub(crate) const TOTAL_SIZE: u32 = 4;
    pub(crate) const STRUCTURE: u32 = 8;
    pub(crate) const STRINGS: u32 = 12;
}

/// A boot with everything in place but the ramdisk.
fn good() -> Result<Boot> {
    let (_, images) = ready()?;
    Ok(Boot {
        machine: Machine { cpus: 1, memory: 512, ..machine()? },
        kernel: images.bouncer,
        modules: vec![Module { path: images.host, address: HOST, bootargs: Some(String::new()) }],
        blobs: Vec::new(),
        gdb: None,
        timeout: Some(Duration::from_secs(60)),
    })
}

/// Lets a program meddle before bouncer is entered.
fn meddled(test: &str, program: Program) -> Result<Boot> {
    let mut boot = good()?;
    let image = program.jump(BOUNCER).image(MEDDLER);
    let bouncer = std::mem::replace(&mut boot.kernel, file(test, "meddler.img", &image)?);
    boot.blobs.push((bouncer, BOUNCER));
    Ok(boot)
}

/// Overwrites a big-endian word of the device tree.
fn tree_word(offset: u32, value: u32) -> Program {
    Program::default().set(3, value.swap_bytes().into()).store(3, 0, offset)
}

/// Boots; bouncer must say one of `reasons`, start nothing and power off.
fn refused(bad: &Boot, reasons: &[&str]) -> Result<()> {
    let (ended, transcript) = boot(bad, |_| Ok(()))?;
    let console = transcript.lines.join("\n");
    assert_eq!(ended.end, End::PoweredOff, "no orderly stop:\n{console}");
    let error = transcript.lines.iter().find(|line| line.starts_with("bouncer: error: "));
    let error = error.with_context(|| format!("no clear message:\n{console}"))?;
    assert!(reasons.iter().any(|reason| error.contains(reason)), "unexpected: {error}");
    assert_eq!(transcript.panic, None, "a panic is no clear message");
    assert!(!console.contains("host:"), "the host ran all the same:\n{console}");
    Ok(())
}

fn with_host_module(test: &str, contents: &[u8]) -> Result<Boot> {
    let mut boot = good()?;
    let path: PathBuf = file(test, "host.img", contents)?;
    boot.modules = vec![Module { path, address: HOST, bootargs: Some(String::new()) }];
    Ok(boot)
}

#[test]
fn b1_without_a_host_kernel() -> Result<()> {
    refused(&Boot { modules: Vec::new(), ..good()? }, &["no host kernel"])
}

#[test]
fn b1_a_host_kernel_that_is_none() -> Result<()> {
    refused(&with_host_module("b1-text", &b"not a kernel\n".repeat(100))?, &["host kernel"])
}

#[test]
fn b1_a_host_kernel_cut_off_in_its_header() -> Result<()> {
    refused(&with_host_module("b1-cut", &Program::default().hang().image(0)[..40])?, &["host"])
}

#[test]
fn b1_without_el2() -> Result<()> {
    let mut boot = good()?;
    boot.machine.virtualization = false;
    refused(&boot, &["virtualization=on"])
}

#[test]
fn b1_with_a_gicv2() -> Result<()> {
    let mut boot = good()?;
    boot.machine.gic = 2;
    refused(&boot, &["gic-version=3"])
}

#[test]
fn b1_with_too_little_memory_for_the_modules() -> Result<()> {
    let mut boot = good()?;
    boot.machine.memory = 64;
    refused(&boot, &["outside RAM"])
}

#[test]
fn b1_with_too_little_memory_for_the_host() -> Result<()> {
    // QEMU puts the device tree in the middle, at 8 MiB.
    let mut boot_it = good()?;
    boot_it.machine.memory = 16;
    boot_it.modules[0].address = RAM + (12 << 20);
    let (ended, transcript) = boot(&boot_it, |_| Ok(()))?;
    assert_eq!(ended.end, End::PoweredOff);
    assert_eq!(transcript.host_result.as_deref(), Some("fail"));
    assert!(transcript.lines.iter().any(|line| line == "host: no room for the host's heap"));
    Ok(())
}

#[test]
fn b1_without_a_ramdisk() -> Result<()> {
    let (ended, transcript) = boot(&good()?, |_| Ok(()))?;
    assert_eq!(ended.end, End::PoweredOff);
    assert_eq!(transcript.host_result.as_deref(), Some("fail"));
    assert!(transcript.lines.iter().any(|line| line.contains("the ramdisk has no guest.img")));
    Ok(())
}

#[test]
fn b1_without_a_device_tree() -> Result<()> {
    refused(&meddled("b1-none", Program::default().set(0, 0))?, &["no device tree"])
}

#[test]
fn b1_a_device_tree_with_another_magic_number() -> Result<()> {
    refused(&meddled("b1-magic", tree_word(header::MAGIC, 0xd00d_feee))?, &["no device tree"])
}

#[test]
fn b1_a_truncated_device_tree() -> Result<()> {
    for size in [8, 64, 1024] {
        let boot = meddled("b1-short", tree_word(header::TOTAL_SIZE, size))?;
        refused(&boot, &["device tree"])?;
    }
    Ok(())
}

#[test]
fn b1_a_device_tree_whose_blocks_lie_elsewhere() -> Result<()> {
    for field in [header::STRUCTURE, header::STRINGS] {
        for offset in [0x7fff_fff0, 0xffff_fffc, 3] {
            refused(&meddled("b1-blocks", tree_word(field, offset))?, &["device tree"])?;
        }
    }
    Ok(())
}

/// No failure, but found at the same place: firmware that has used LPIs leaves
/// the redistributor with tables in memory, which is the host's from now on.
#[test]
fn lpis_that_firmware_left_on_are_switched_off() -> Result<()> {
    // GICR_CTLR of CPU 0 on QEMU virt; PROPBASER and PENDBASER hold addresses.
    const REDISTRIBUTOR: u64 = 0x080a_0000;
    let mut program = Program::default().set(3, REDISTRIBUTOR);
    for (offset, value) in [(0x70, (RAM + (48 << 20)) | 0xf), (0x78, RAM + (49 << 20)), (0, 1)] {
        program = program.set(4, value).store(4, 3, offset);
    }
    let (ended, transcript) = boot(&meddled("b-lpis", program)?, |_| Ok(()))?;
    let console = transcript.lines.join("\n");
    assert_eq!((ended.end, &transcript.panic), (End::PoweredOff, &None), "{console}");
    assert!(console.contains("bouncer: firmware had left LPIs on at 0x80a0000: off"), "{console}");
    assert!(console.contains("host: "), "and the host runs:\n{console}");
    Ok(())
}

#[test]
fn b1_a_device_tree_full_of_garbage() -> Result<()> {
    let mut program = Program::default().set(3, 0xa5a5_a5a5);
    for offset in (56..1024).step_by(4) {
        program = program.store(3, 0, offset);
    }
    refused(&meddled("b1-garbage", program)?, &["device tree"])
}
