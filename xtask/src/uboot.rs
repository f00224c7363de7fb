//! `--loader u-boot`: U-Boot instead of QEMU's own loader.
//!
//! U-Boot starts at EL2 as the machine's firmware, finds a disk with the images
//! and a script, edits the device tree as the script says, and enters bouncer
//! by `booti`: at another address than QEMU would, with the ramdisk that Linux's
//! convention hands over. It leaves behind what loaders leave: copies of the
//! tree, memory reservations, a disk that may write to memory.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::build::Images;
use crate::guest::deb;
use crate::guest::debian::package;
use crate::guest::pins::{Pins, Role};
use crate::qemu::{Boot, Module};
use crate::workspace::Workspace;

/// Where the script puts bouncer, the host's kernel and the tree.
const BOUNCER: u64 = 0x4040_0000;
const HOST: u64 = 0x4600_0000;
const TREE: u64 = 0x4800_0000;
/// Room for the tree: what QEMU pads it to, and what is added.
const TREE_ROOM: u64 = 0x18_0000;
/// Where the firmware's image is in the package.
const IMAGE: &str = "usr/lib/u-boot/qemu_arm64/u-boot.bin";
/// Largest ramdisk: the disk is FAT16, and the tree's end is below it.
const MAX_RAMDISK: u64 = 256 << 20;

/// Makes `boot` start U-Boot, with all it needs on a disk in `folder`.
///
/// # Errors
/// When U-Boot cannot be fetched, or the disk cannot be made.
pub fn load(workspace: &Workspace, folder: &Path, images: &Images, boot: &mut Boot) -> Result<()> {
    let modules = std::mem::take(&mut boot.modules);
    let [Module { bootargs: Some(hosts), .. }, Module { path: ramdisk, address, .. }] =
        &modules[..]
    else {
        bail!("U-Boot hands over a kernel and a ramdisk")
    };
    if std::fs::metadata(ramdisk)?.len() > MAX_RAMDISK {
        bail!("with --loader u-boot the guest's disk may have {} MiB", MAX_RAMDISK >> 20);
    }
    let firmware = folder.join("u-boot.bin");
    std::fs::write(&firmware, firmware_of(workspace)?)?;
    let disk = folder.join("u-boot-disk");
    if disk.exists() {
        std::fs::remove_dir_all(&disk)?;
    }
    std::fs::create_dir(&disk)?;
    std::fs::copy(&images.bouncer, disk.join("bouncer.img"))?;
    std::fs::copy(&images.host, disk.join("host.img"))?;
    std::fs::copy(ramdisk, disk.join("ramdisk.img"))?;
    let script = script(&boot.machine.command_line, hosts, *address);
    std::fs::write(disk.join("boot.cmd"), &script)?;
    std::fs::write(disk.join("boot.scr"), script_image(script.as_bytes()))?;

    boot.machine.firmware = Some(firmware);
    // QEMU shows a folder as a disk with one FAT partition.
    let folder = serde_json::to_string(&disk.display().to_string())?;
    boot.machine.extra.extend([
        "-blockdev".to_owned(),
        format!(r#"{{"driver":"vvfat","node-name":"loader","dir":{folder},"read-only":true}}"#),
        "-device".to_owned(),
        "virtio-blk-pci,drive=loader,romfile=".to_owned(),
    ]);
    Ok(())
}

/// U-Boot for QEMU's `virt` machine, out of Debian's package.
fn firmware_of(workspace: &Workspace) -> Result<Vec<u8>> {
    let package = package(workspace, &Pins::own()?, Role::Loader)?;
    let mut members = deb::members(&package, |path| path == IMAGE)?;
    Ok(members.pop().with_context(|| format!("the package has no {IMAGE}"))?.bytes)
}

/// What U-Boot is to do; docs/booting.md explains it line by line.
fn script(own: &str, hosts: &str, ramdisk: u64) -> String {
    let mut script = String::new();
    let module = format!("/chosen/module@{HOST:x}");
    let lines = [
        "setenv initrd_high 0xffffffffffffffff".to_owned(),
        "setenv fdt_high 0xffffffffffffffff".to_owned(),
        "fdt addr ${fdt_addr}".to_owned(),
        format!("fdt move ${{fdt_addr}} {TREE:#x} {TREE_ROOM:#x}"),
        // One copy of the random bytes is enough.
        "fdt addr ${fdt_addr}".to_owned(),
        "fdt set /chosen rng-seed <0 0 0 0 0 0 0 0>".to_owned(),
        "fdt addr ${fdtcontroladdr}".to_owned(),
        "fdt set /chosen rng-seed <0 0 0 0 0 0 0 0>".to_owned(),
        format!("fdt addr {TREE:#x}"),
        "fdt set /chosen '#address-cells' <1>".to_owned(),
        "fdt set /chosen '#size-cells' <1>".to_owned(),
        format!("load ${{devtype}} ${{devnum}}:${{distro_bootpart}} {HOST:#x} host.img"),
        format!("fdt mknode /chosen module@{HOST:x}"),
        format!("fdt set {module} compatible multiboot,kernel multiboot,module"),
        format!("fdt set {module} reg <{HOST:#x} 0x${{filesize}}>"),
        format!("fdt set {module} bootargs {}", quoted(hosts)),
        format!("setenv bootargs {}", quoted(own)),
        format!("load ${{devtype}} ${{devnum}}:${{distro_bootpart}} {BOUNCER:#x} bouncer.img"),
        format!("load ${{devtype}} ${{devnum}}:${{distro_bootpart}} {ramdisk:#x} ramdisk.img"),
        format!("booti {BOUNCER:#x} {ramdisk:#x}:${{filesize}} {TREE:#x}"),
        // Whatever is wrong: no prompt that waits for ever.
        "reset".to_owned(),
    ];
    for line in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(script, "{line}");
    }
    script
}

/// A word of U-Boot's shell.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        if matches!(char, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    quoted + "\""
}

/// The script as `mkimage -T script` packs it: U-Boot's legacy image header,
/// then the length of each file in it, a zero, and the file.
fn script_image(script: &[u8]) -> Vec<u8> {
    const MAGIC: u32 = 0x2705_1956;
    /// Linux, arm64, a script, not compressed.
    const KIND: [u8; 4] = [5, 22, 6, 0];
    let mut data = (script.len() as u32).to_be_bytes().to_vec();
    data.extend([0; 4]);
    data.extend(script);
    let mut header = Vec::new();
    for word in [MAGIC, 0, 0, data.len() as u32, 0, 0, crc32(&data)] {
        header.extend(word.to_be_bytes());
    }
    header.extend(KIND);
    header.extend([0; 32]);
    let sum = crc32(&header).to_be_bytes();
    header.splice(4..8, sum);
    header.extend(data);
    header
}

/// CRC-32 as in Ethernet and zlib.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_script_has_a_header_that_u_boot_accepts() {
        let image = script_image(b"reset\n");
        assert_eq!(image.len(), 64 + 8 + 6);
        assert_eq!(&image[..4], [0x27, 0x05, 0x19, 0x56]);
        let mut header = image[..64].to_vec();
        header[4..8].fill(0);
        assert_eq!(image[4..8], crc32(&header).to_be_bytes());
        assert_eq!(image[24..28], crc32(&image[64..]).to_be_bytes());
    }

    #[test]
    fn command_lines_reach_the_tree_as_they_are() {
        let script = script("log=debug", "hash=A$B.TXT note=\"x\"", 0x4900_0000);
        assert!(script.contains(r#"bootargs "hash=A\$B.TXT note=\"x\"""#), "{script}");
        assert!(script.contains("setenv bootargs \"log=debug\"\n"));
        assert!(script.ends_with("booti 0x40400000 0x49000000:${filesize} 0x48000000\nreset\n"));
    }
}
