//! Debian's kernel with devices that bring their own memory, through the
//! module in linux/bounce: `cargo xtask run --guest debian --policy …`.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tests::file;
use tests::linux::{LONG, counter, left_out, left_out_without_pkvm, said, script};
use xtask::guest::archive::hex;
use xtask::guest::bounce;
use xtask::workspace::Workspace;

/// The policies under which devices bring their memory.
const POLICIES: [&str; 2] = ["bounce-bar", "device-memory"];
/// Bytes of a disk.
const DISK: usize = 2 << 20;

/// A disk's contents that no two sectors have alike.
fn contents() -> Vec<u8> {
    (0..DISK as u64 / 8)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

/// Uses every device: reads the whole disk and copies its first half to its
/// second, sends a file and hears its digest, takes random bytes. Prints the
/// digest of the disk before, and a word for each of the others.
const USE_ALL: &str = "sha256sum </dev/vda | cut -d' ' -f1\n\
    dd if=/dev/vda of=/dev/vda bs=64k count=16 seek=16 conv=notrunc 2>/dev/null; sync\n\
    head -c 300000 /dev/urandom >/tmp/file\n\
    heard=$(nc 10.0.2.2 9000 </tmp/file)\n\
    [ \"$heard\" = $(sha256sum </tmp/file | cut -d' ' -f1) ] && echo sent\n\
    dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c\n";
/// Tells how many devices had nothing refused. That a device had no room for a
/// moment is no fault: how many requests are in flight is a matter of the
/// host's pace, and the driver waits.
const REFUSED: &str = "mount -t debugfs debug /sys/kernel/debug\n\
    cat /sys/kernel/debug/virtio_bounce/* | grep -cE '^refused 0$'\n\
    dmesg | grep -cE 'Oops|kernel BUG|Unable to handle|WARNING: '\n";

/// Runs [`USE_ALL`] with these words, and looks at all that it did.
fn uses_all(test: &str, words: &[&str]) -> Result<Output> {
    let mut disk = contents();
    let path = file(test, "disk.img", &disk)?;
    let shown = path.display().to_string();
    let commands = format!("{USE_ALL}{REFUSED}exit 9\n");
    let more = ["--console", "hvc0", "--append", "quiet", "--verbose", "--disk", &shown];
    let more = [more.as_slice(), &["--timeout", LONG]].concat();
    let output = script(test, &commands, &[words, &more].concat())?;
    assert_eq!(output.status.code(), Some(9), "{}", said(&output));
    let digest = hex(&Sha256::digest(&disk));
    // Of four devices.
    let wanted = format!("{digest}\nsent\n16\n4\n0\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{}", said(&output));
    disk.copy_within(..DISK / 2, DISK / 2);
    ensure!(std::fs::read(&path)? == disk, "the disk differs: {}", said(&output));
    Ok(output)
}

/// A kernel that knows neither RSI nor pKVM, and shares nothing.
#[test]
fn a_kernel_that_knows_nothing_has_all_devices_and_shares_no_page() -> Result<()> {
    if left_out("a_kernel_that_knows_nothing_has_all_devices_and_shares_no_page") {
        return Ok(());
    }
    for policy in POLICIES {
        let words = ["--policy", policy, "--abi", "none"];
        let output = uses_all(&format!("bounce-none-{policy}"), &words)?;
        assert_eq!(counter(&output, "pages_shared")?, 0, "{}", said(&output));
    }
    Ok(())
}

/// More requests at once than the device has room for: the driver waits, and
/// nothing is lost or mixed up.
#[test]
fn a_device_without_room_is_waited_for() -> Result<()> {
    if left_out("a_device_without_room_is_waited_for") {
        return Ok(());
    }
    let half = 16 << 20;
    let mut disk: Vec<u8> = contents().repeat(2 * half / DISK);
    for (number, chunk) in (0_u64..).zip(disk.chunks_mut(DISK)) {
        chunk[..8].copy_from_slice(&number.to_le_bytes());
    }
    let path = file("bounce-room", "disk.img", &disk)?;
    let shown = path.display().to_string();
    let commands = "each() { for part in 0 1 2 3; do \"$@\" & done; wait; }\n\
        read_it() { dd if=/dev/vda of=/dev/null bs=4M count=1 skip=$((part + $1)) 2>/dev/null; }\n\
        copy_it() { dd if=/dev/vda of=/dev/vda bs=4M count=1 skip=$part seek=$((part + 4)) \
        conv=notrunc 2>/dev/null; }\n\
        each read_it 0 & each read_it 4; wait\n\
        sha256sum </dev/vda | cut -d' ' -f1\n\
        each copy_it; sync\n";
    let words = ["--policy", "bounce-bar", "--abi", "none", "--timeout", LONG, "--disk", &shown];
    let output = script("bounce-room", commands, &words)?;
    let wanted = format!("{}\n", hex(&Sha256::digest(&disk)));
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{}", said(&output));
    disk.copy_within(..half, half);
    ensure!(std::fs::read(&path)? == disk, "the disk differs: {}", said(&output));
    Ok(())
}

/// The bit is not the kernel's: it is refused by each device, until the module
/// comes and each is tried again.
#[test]
fn without_the_module_every_device_refuses() -> Result<()> {
    if left_out("without_the_module_every_device_refuses") {
        return Ok(());
    }
    let path = file("bounce-without", "disk.img", &[0; 1 << 16])?.display().to_string();
    let commands = "ls /sys/class/net /dev/vda 2>/dev/null\n\
        dmesg | grep -c 'virtio: device refuses features'\n\
        cat /sys/bus/virtio/devices/*/status\n";
    let words = ["--policy", "bounce-bar", "--without-module", "--abi", "none", "--disk", &path];
    let output = script("bounce-without", commands, &words)?;
    // ACKNOWLEDGE, DRIVER and FAILED: neither FEATURES_OK nor DRIVER_OK.
    let wanted = "/sys/class/net:\nlo\n3\n0x00000083\n0x00000083\n0x00000083\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{}", said(&output));
    Ok(())
}

/// A realm under attack, whose devices lose their drivers in the middle of
/// their work and get them back: of the guest's own memory the host sees one
/// page at most, the least pool that Linux makes for atomic allocations.
#[test]
fn a_realm_shares_one_page_at_most_and_rebinds_in_the_middle_of_io() -> Result<()> {
    if left_out("a_realm_shares_one_page_at_most_and_rebinds_in_the_middle_of_io") {
        return Ok(());
    }
    let disk = file("bounce-realm", "disk.img", &vec![0; DISK])?;
    let path = disk.display().to_string();
    let commands = "cd /sys/bus/pci/drivers/virtio-pci\n\
        rmmod virtio_bounce 2>/dev/null || echo 'in use'\n\
        for turn in 1 2 3; do\n\
            cat /dev/vda >/dev/null 2>&1 &\n\
            cat /dev/hwrng 2>/dev/null | head -c 100000 >/dev/null &\n\
            ping -c 100 -A 10.0.2.2 >/dev/null 2>&1 &\n\
            sleep 1\n\
            for device in 0000*; do echo $device >unbind; echo $device >bind; done\n\
            wait\n\
            ip address add 10.0.2.15/24 dev eth0; ip link set eth0 up\n\
        done\n\
        for device in 0000*; do echo $device >unbind; done\n\
        rmmod virtio_bounce && insmod /lib/modules/virtio_bounce.ko\n\
        for device in /sys/bus/pci/devices/*; do echo ${device##*/} >bind; done 2>/dev/null\n\
        ip address add 10.0.2.15/24 dev eth0; ip link set eth0 up; cd /\n";
    let commands = format!("{commands}{USE_ALL}{REFUSED}exit 7\n");
    let words = ["--policy", "device-memory", "--attack", "--verbose", "--disk", &path];
    let output = script("bounce-realm", &commands, &words)?;
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    let digest = hex(&Sha256::digest(vec![0; DISK]));
    let wanted = format!("in use\n{digest}\nsent\n16\n3\n0\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{}", said(&output));
    let shared = counter(&output, "pages_shared")?;
    ensure!(shared <= 1, "{shared} pages shared: {}", said(&output));
    ensure!(said(&output).contains("all of it was refused"), "{}", said(&output));
    Ok(())
}

/// Three kernels that know nothing, on one network.
#[test]
fn neighbours_that_know_nothing_talk_with_each_other() -> Result<()> {
    if left_out("neighbours_that_know_nothing_talk_with_each_other") {
        return Ok(());
    }
    let commands = "head -c 200000 /dev/urandom >/tmp/file\n\
        for address in 10.0.2.16 10.0.2.17; do\n\
            until ping -c 1 -W 1 $address >/dev/null; do :; done\n\
            heard=$(nc $address 9000 </tmp/file)\n\
            [ ${heard%% *} = $(sha256sum </tmp/file | cut -d' ' -f1) ] && echo $address\n\
        done\n\
        exit 8\n";
    let words = ["--policy", "bounce-bar", "--abi", "none", "--neighbours", "2", "--verbose"];
    let output = script("bounce-neighbours", commands, &words)?;
    assert_eq!(output.status.code(), Some(8), "{}", said(&output));
    assert_eq!(output.stdout, b"10.0.2.16\n10.0.2.17\n", "{}", said(&output));
    // The fourth is bouncer's own guest beside them.
    assert_eq!(said(&output).matches(" pages_shared=0 ").count(), 4, "{}", said(&output));
    Ok(())
}

/// A kernel that speaks pKVM's calls shares nothing for its devices (one page
/// at boot, which none uses). It is ended in the middle of its disk's work, and
/// leaves nothing.
#[test]
fn guests_with_pkvms_calls_killed_in_the_middle_of_io_leave_nothing() -> Result<()> {
    if left_out_without_pkvm("guests_with_pkvms_calls_killed_in_the_middle_of_io_leave_nothing")? {
        return Ok(());
    }
    let path = file("bounce-kills", "disk.img", &vec![0; 1 << 20])?.display().to_string();
    let commands =
        "while :; do dd if=/dev/zero of=/dev/vda bs=4k count=200 conv=notrunc,fsync; done";
    let words = ["--policy", "bounce-bar", "--abi", "pkvm", "--guest-memory", "64M"];
    let more = ["--console", "hvc0", "--append", "quiet", "--lives", "3", "--kill-in-io"];
    let rest = ["--verbose", "--disk", &path];
    let words = [words.as_slice(), &more, &rest].concat();
    let output = script("bounce-kills", commands, &words)?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = said(&output);
    assert_eq!(text.matches("linux: guest killed").count(), 3, "{text}");
    assert_eq!(text.matches("came back, all zero").count(), 3, "{text}");
    assert_eq!(text.matches(" pages_shared=1 ").count(), 3, "{text}");
    Ok(())
}

#[test]
#[ignore = "twelve boots: cargo xtask test --long"]
fn all_devices_work_whatever_the_kernel_speaks() -> Result<()> {
    if left_out_without_pkvm("all_devices_work_whatever_the_kernel_speaks")? {
        return Ok(());
    }
    for abi in ["none", "rsi", "pkvm"] {
        for cpus in ["1", "4"] {
            for policy in POLICIES {
                let words = ["--policy", policy, "--abi", abi, "--cpus", cpus, "--vcpus", cpus];
                let output = uses_all(&format!("bounce-{policy}-{abi}-{cpus}"), &words)?;
                let shared = counter(&output, "pages_shared")?;
                let most = u64::from(abi != "none");
                ensure!(shared <= most, "{abi}, {cpus} CPUs: {shared} pages: {}", said(&output));
            }
        }
    }
    Ok(())
}

/// By the kernel's own program, its strictest opinions included.
#[test]
fn the_modules_source_is_in_the_kernels_style() -> Result<()> {
    let test = "the_modules_source_is_in_the_kernels_style";
    if left_out_without_pkvm(test)? {
        return Ok(());
    }
    let command = bounce::checkpatch(&Workspace::find()?)?;
    let output = command.context("no checkpatch.pl")?.output()?;
    ensure!(output.status.success() && output.stdout.is_empty(), "{}", said(&output));
    Ok(())
}

/// Uses devices that lie, as far as they let it, and looks at the guest: does a
/// file in its memory stay what it was, and did its kernel stumble?
const LIED_TO: &str = "head -c 4000000 /dev/urandom >/tmp/file; sum=$(sha256sum /tmp/file)\n\
    { dd if=/dev/urandom of=/dev/vda bs=4k count=64 oflag=direct\n\
      dd if=/dev/vda of=/tmp/read bs=4k count=64 iflag=direct; } 2>/dev/null &\n\
    { ping -c 20 -A -W 1 10.0.2.2; nc -w 5 10.0.2.2 9000 </tmp/file; } >/dev/null 2>&1 &\n\
    head -c 1000 /dev/hwrng >/dev/null 2>&1 &\n\
    sleep 10\n\
    [ \"$sum\" = \"$(sha256sum /tmp/file)\" ] && echo kept\n\
    dmesg | grep -cE 'Oops|kernel BUG|Unable to handle|Internal error'\n";

/// A disk that answers and writes nothing, a network card that answers requests
/// nobody made, an entropy source whose answers are all 4 GiB long.
#[test]
fn a_lying_host_gets_nothing_past_the_drivers() -> Result<()> {
    if left_out("a_lying_host_gets_nothing_past_the_drivers") {
        return Ok(());
    }
    let path = file("bounce-lies", "disk.img", &vec![0x5a; 1 << 20])?.display().to_string();
    // The slots held what was written before, and the driver must not see it.
    let commands = format!(
        "{LIED_TO}wc -c </tmp/read; tr -d '\\0' </tmp/read | wc -c\n\
        dmesg | grep -q 'is not a head' && echo noticed\n\
        head -c 1000 /dev/hwrng | wc -c\nexit 5\n"
    );
    let lies = ["--lie", "H10.nothing,H1.beyond,H2.length"];
    let words = ["--policy", "bounce-bar", "--abi", "none", "--disk", &path];
    let output = script("bounce-lies", &commands, &[words.as_slice(), &lies].concat())?;
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert_eq!(output.stdout, b"kept\n0\n262144\n0\nnoticed\n1000\n", "{}", said(&output));
    Ok(())
}

#[test]
#[ignore = "eleven boots: cargo xtask test --long"]
fn every_lie_of_every_device_leaves_the_guest_whole() -> Result<()> {
    if left_out("every_lie_of_every_device_leaves_the_guest_whole") {
        return Ok(());
    }
    // For a disk that needs a reset Linux waits for ever, already when it looks
    // for partitions: of H7 the network has its share, not the disk.
    let rows = "H1.beyond H1.other H1.twice H2.length H3.jump H3.back H4.rewrite H5.config \
        H6.storm H2.length,H7.needs-reset H10.nothing";
    for (number, row) in rows.split_whitespace().enumerate() {
        let path = file("bounce-lie", "disk.img", &vec![0x5a; 1 << 20])?.display().to_string();
        let policy = POLICIES[number % 2];
        let words = ["--policy", policy, "--abi", "none", "--lie", row, "--disk", &path];
        let output = script("bounce-lie", &format!("{LIED_TO}exit 5\n"), &words)?;
        assert_eq!(output.status.code(), Some(5), "{row}: {}", said(&output));
        assert_eq!(output.stdout, b"kept\n0\n", "{row}: {}", said(&output));
    }
    Ok(())
}
