//! Linux as the protected guest, as a user has it: through `cargo xtask run
//! --guest debian`, with Debian's kernel.
//!
//! What Debian's archive has must be fetched once. `BOUNCER_OFFLINE=1`
//! (`cargo xtask test --offline`) leaves these tests out, and says so.

use std::path::PathBuf;
use std::process::Output;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use tests::linux::{LONG, counter, left_out, left_out_without_pkvm, program, said, script, xtask};
use tests::{file, ready, two_at_a_time};
use xtask::guest::debian;
use xtask::guest::initramfs::{self, Task};
use xtask::guest::options::Abi;
use xtask::guest::pins::{Pins, Role};

/// What one realm did, for the tests that look at it.
struct Realm {
    output: Output,
    disk: PathBuf,
}

const MARKER: &[u8] = b"written by a realm";
/// Sector of the disk that the realm writes to, and the disk's odd size.
const SECTOR: usize = 7;
const DISK_SIZE: usize = 1_000_000;
const STATUS: i32 = 42;

fn realm() -> Result<&'static Realm> {
    static REALM: OnceLock<Result<Realm, String>> = OnceLock::new();
    let boot = || -> Result<Realm> {
        let disk = file("linux-realm", "disk.img", &vec![0x5a; DISK_SIZE])?;
        let commands = format!(
            "uname -m; nproc; dmesg | grep -i 'RSI version'\n\
             ls -d /sys/devices/platform/arm-cca-dev\n\
             dd if=/dev/vda bs=512 skip=1953 count=1 2>/dev/null | od -An -tx1 | head -1\n\
             printf '{}' | dd of=/dev/vda bs=512 seek={SECTOR} conv=notrunc 2>/dev/null\n\
             exit {STATUS}\n",
            String::from_utf8_lossy(MARKER)
        );
        let path = disk.display().to_string();
        let output =
            script("linux-realm", &commands, &["--disk", &path, "--vcpus", "2", "--abi", "rsi"])?;
        Ok(Realm { output, disk })
    };
    let realm = REALM.get_or_init(|| boot().map_err(|error| format!("{error:#}")));
    realm.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

#[test]
fn debians_kernel_runs_as_a_realm() -> Result<()> {
    if left_out("debians_kernel_runs_as_a_realm") {
        return Ok(());
    }
    let realm = realm()?;
    let text = String::from_utf8_lossy(&realm.output.stdout);
    for wanted in ["aarch64\n2\n", "Using RSI version", "/sys/devices/platform/arm-cca-dev"] {
        ensure!(text.contains(wanted), "{wanted:?}: {}", said(&realm.output));
    }
    Ok(())
}

#[test]
#[ignore = "eighteen boots: cargo xtask test --long"]
fn debians_kernel_runs_as_a_realm_on_every_cpu_model() -> Result<()> {
    if left_out("debians_kernel_runs_as_a_realm_on_every_cpu_model") {
        return Ok(());
    }
    // Four vCPUs on a machine with two CPUs, and the pointer authentication of
    // the newest models is slow to emulate: a limit that only a hang reaches.
    let limit = ["--timeout", "3600"];
    let mut bad = Vec::new();
    for model in xtask::threats::MODELS {
        for cpus in ["1", "4"] {
            let begun = std::time::Instant::now();
            let words = ["--cpu", model, "--cpus", cpus, "--vcpus", cpus];
            let output = script("linux-models", "nproc\n", &[&words[..], &limit].concat())?;
            let good = output.status.success() && output.stdout == format!("{cpus}\n").as_bytes();
            let word = if good { "runs" } else { "FAILS" };
            let line = format!("{cpus} x {model}: {word} ({} s)\n", begun.elapsed().as_secs());
            std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes())?;
            if !good {
                bad.push(format!("{cpus} x {model}: {}", said(&output)));
            }
        }
    }
    ensure!(bad.is_empty(), "{}", bad.join("\n"));
    Ok(())
}

#[test]
fn a_scripts_status_is_passed_on() -> Result<()> {
    if left_out("a_scripts_status_is_passed_on") {
        return Ok(());
    }
    let realm = realm()?;
    assert_eq!(realm.output.status.code(), Some(STATUS), "{}", said(&realm.output));
    Ok(())
}

#[test]
fn what_linux_writes_is_in_the_users_file_and_nothing_else_is() -> Result<()> {
    if left_out("what_linux_writes_is_in_the_users_file_and_nothing_else_is") {
        return Ok(());
    }
    let realm = realm()?;
    let mut wanted = vec![0x5a; DISK_SIZE];
    wanted[SECTOR * 512..][..MARKER.len()].copy_from_slice(MARKER);
    let disk = std::fs::read(&realm.disk)?;
    assert_eq!(disk.len(), DISK_SIZE);
    let differs = disk.iter().zip(&wanted).position(|(is, wanted)| is != wanted);
    assert_eq!(differs, None, "{}", said(&realm.output));
    // The guest saw the user's bytes, too.
    let text = String::from_utf8_lossy(&realm.output.stdout);
    ensure!(text.contains("5a 5a 5a 5a"), "{}", said(&realm.output));
    Ok(())
}

/// The host tries to get at the guest from its first instruction to its last.
/// The marker is in a file, a process and registers, and nowhere else.
#[test]
fn a_realm_is_protected_while_it_runs() -> Result<()> {
    if left_out("a_realm_is_protected_while_it_runs") {
        return Ok(());
    }
    let disk = file("linux-attack", "disk.img", &vec![0; 2 << 20])?;
    let path = disk.display().to_string();
    let commands = "for turn in 1 2 3; do\n\
            dd if=/dev/zero of=/dev/vda bs=4k count=100 conv=notrunc 2>/dev/null\n\
            echo 3 >/proc/sys/vm/drop_caches; cat /dev/vda >/dev/null; sleep 1\n\
        done\n\
        wc -c </run/marker; ps | grep -c '[w]hile :'\n";
    let output = script("linux-attack", commands, &["--attack", "--disk", &path])?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    // The guest did make the marker, and a process had it all the while.
    assert_eq!(output.stdout, b"16\n1\n", "{}", said(&output));
    let text = said(&output);
    ensure!(text.contains(" attempts refused, marker found 0 times in "), "{text}");
    ensure!(text.contains("all of it was refused"), "{text}");
    Ok(())
}

/// The same search finds what the guest gives away: what goes to the disk goes
/// through pages that the guest shared. And pages of a device that is no longer
/// used are the guest's alone again.
#[test]
fn what_a_realm_shows_is_found_and_what_it_takes_back_is_not_to_be_had() -> Result<()> {
    let test = "what_a_realm_shows_is_found_and_what_it_takes_back_is_not_to_be_had";
    if left_out(test) {
        return Ok(());
    }
    let disk = file("linux-shown", "disk.img", &[0; 1 << 16])?;
    let path = disk.display().to_string();
    let commands = "dd if=/run/marker of=/dev/vda bs=512 seek=9 conv=notrunc 2>/dev/null; sync\n\
        cd /sys/bus/pci/drivers/virtio-pci\n\
        for device in 0000*; do\n\
            [ -e $device/virtio*/net ] && echo $device >unbind\n\
        done\n\
        sleep 1; exit 7\n";
    // A CPU more than vCPUs: what its TLB holds, only an invalidation takes.
    let words = ["--attack=shown", "--cpus", "3", "--disk", &path];
    let output = script("linux-shown", commands, &words)?;
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    let text = said(&output);
    ensure!(text.contains("pages the guest shared"), "{text}");
    ensure!(!text.contains(": 0 in pages the guest shared"), "{text}");
    ensure!(text.contains("C4"), "no page came back to the guest: {text}");
    Ok(())
}

/// A kernel that leaves what was freed in its pages, as most were built until
/// lately: whatever it shares, at boot and at each rebinding of a driver, and
/// whatever of its processes was in those pages, the host gets zeros. bouncer's
/// oracle counts what is in each page at the moment it is shared, and the host
/// (status 123 otherwise) asks for that count.
#[test]
fn no_page_that_a_realm_shares_holds_what_its_kernel_left_there() -> Result<()> {
    let test = "no_page_that_a_realm_shares_holds_what_its_kernel_left_there";
    if left_out(test) {
        return Ok(());
    }
    let disk = file("linux-residue", "disk.img", &[0; 1 << 16])?;
    let path = disk.display().to_string();
    let commands = "cat /proc/cmdline\n\
        cd /sys/bus/pci/drivers/virtio-pci\n\
        for turn in 1 2 3; do\n\
            for child in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom bs=64k count=16 2>/dev/null | wc -c; done\n\
            for device in 0000*; do echo $device >unbind; echo $device >bind; done\n\
        done >/dev/null\n\
        exit 6\n";
    let words = ["--oracle=off", "--verbose", "--append", "init_on_alloc=0", "--disk", &path];
    let output = script("linux-residue", commands, &words)?;
    let text = said(&output);
    assert_eq!(output.status.code(), Some(6), "{text}");
    ensure!(text.contains("init_on_alloc=0"), "{text}");
    let shared = counter(&output, "pages_shared")?;
    ensure!(shared > 16_000, "{shared} pages shared: {text}");
    assert_eq!(counter(&output, "bytes_shared_not_zero")?, 0, "{text}");
    Ok(())
}

/// Every device offers ACCESS_PLATFORM, and Linux takes it (bits 32 and 33 of
/// the features agreed on): with the policy of all its devices a driver that
/// does not is refused, before it could name private addresses.
#[test]
fn every_device_of_a_realm_speaks_of_its_platforms_addresses() -> Result<()> {
    if left_out("every_device_of_a_realm_speaks_of_its_platforms_addresses") {
        return Ok(());
    }
    let disk = file("linux-bits", "disk.img", &[0; 1 << 16])?;
    let path = disk.display().to_string();
    // Character n + 1 of the file is bit n.
    let commands = "for device in /sys/bus/virtio/devices/*; do cut -c33-34 $device/features; done";
    let words = ["--console", "hvc0", "--disk", &path];
    let output = script("linux-bits", commands, &words)?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    // Disk, network, entropy, console.
    assert_eq!(output.stdout, b"11\n11\n11\n11\n", "{}", said(&output));
    Ok(())
}

/// A kernel that does without MSI: each device has a line (INTx) of its own,
/// level-triggered, that a read of its ISR takes down.
#[test]
fn a_realm_without_msi_has_a_line_for_each_device() -> Result<()> {
    if left_out("a_realm_without_msi_has_a_line_for_each_device") {
        return Ok(());
    }
    let disk = file("linux-lines", "disk.img", &[0; 1 << 16])?;
    let path = disk.display().to_string();
    let commands = "printf written | dd of=/dev/vda bs=512 seek=3 conv=notrunc 2>/dev/null; sync\n\
        head -c 100000 /dev/urandom >/tmp/file\n\
        heard=$(nc 10.0.2.2 9000 </tmp/file)\n\
        [ $heard = $(sha256sum </tmp/file | cut -d' ' -f1) ] && echo sent\n\
        dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c\n\
        grep virtio /proc/interrupts | grep -c Level\n\
        dmesg | grep -c 'nobody cared'\n\
        exit 9\n";
    let output = script("linux-lines", commands, &["--append", "pci=nomsi", "--disk", &path])?;
    assert_eq!(output.status.code(), Some(9), "{}", said(&output));
    assert_eq!(output.stdout, b"sent\n16\n3\n0\n", "{}", said(&output));
    ensure!(std::fs::read(&disk)?[3 * 512..].starts_with(b"written"), "{}", said(&output));
    Ok(())
}

/// A script in a guest of the user's: Debian's files, but xtask knows nothing
/// of what is in them. `kernel` stands in for Debian's.
fn own_kernel(test: &str, kernel: Option<&[u8]>, commands: &str, more: &[&str]) -> Result<Output> {
    let (workspace, _) = ready()?;
    let task = Task::Script(commands.into());
    let kind = debian::Kind { abi: Abi::Rsi, newest: false, module: false };
    let own = debian::make(&workspace, &kind, &task, "own", None)?;
    let kernel = file(test, "kernel", kernel.unwrap_or(&own.kernel))?.display().to_string();
    let initrd = file(test, "initrd", &own.initrd)?.display().to_string();
    let _turn = two_at_a_time();
    let words = ["run", "--guest", "linux", "--kernel", &kernel, "--initrd", &initrd];
    Ok(xtask(&[words.as_slice(), more].concat())?.output()?)
}

/// A user's own kernel, ramdisk, arguments and disk.
#[test]
fn a_users_own_kernel_runs_as_a_realm() -> Result<()> {
    if left_out("a_users_own_kernel_runs_as_a_realm") {
        return Ok(());
    }
    let disk = file("linux-own", "disk.img", &[0; 1 << 16])?;
    let path = disk.display().to_string();
    let commands = "cat /proc/cmdline; ls /sys/devices/platform | grep cca\n\
        printf own >/dev/vda; sync\n";
    let more = ["--append", "quiet my=word", "--abi", "rsi", "--disk", &path];
    let output = own_kernel("linux-own", None, commands, &more)?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = said(&output);
    ensure!(text.contains("quiet my=word") && text.contains("arm-cca-dev"), "{text}");
    ensure!(std::fs::read(&disk)?.starts_with(b"own"), "{text}");
    Ok(())
}

/// A kernel whose pages are four of bouncer's, where the CPU has them
/// (ID_AA64MMFR0_EL1.TGran16): it shares the pool of its devices in its own
/// units. Where the CPU has none of 16 KiB, the host says so and does not start
/// it.
#[test]
fn a_kernel_of_16_kib_pages_runs_as_a_realm_where_the_cpu_has_them() -> Result<()> {
    if left_out("a_kernel_of_16_kib_pages_runs_as_a_realm_where_the_cpu_has_them") {
        return Ok(());
    }
    let (workspace, _) = ready()?;
    let package = debian::package(&workspace, &Pins::own()?, Role::Kernel16k)?;
    let kernel = initramfs::kernel(&package)?;
    let commands = "grep -m1 KernelPageSize /proc/self/smaps; dmesg | grep -c 'RSI version'\n";
    let words = ["--abi", "rsi", "--append", "quiet", "--cpu"];
    let run = |cpu| {
        own_kernel("linux-16k", Some(&kernel), commands, &[words.as_slice(), &[cpu]].concat())
    };
    let output = run("max")?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = said(&output);
    ensure!(text.contains("KernelPageSize:       16 kB\n1\n"), "{text}");
    let output = run("cortex-a72")?;
    let text = said(&output);
    ensure!(!output.status.success() && text.contains("16 KiB"), "{text}");
    Ok(())
}

/// A guest that resets itself is built anew, with its disk as it left it.
#[test]
fn a_realm_that_reboots_finds_its_disk_as_it_left_it() -> Result<()> {
    if left_out("a_realm_that_reboots_finds_its_disk_as_it_left_it") {
        return Ok(());
    }
    let disk = file("linux-reboot", "disk.img", &[b'.'; 1 << 16])?;
    let path = disk.display().to_string();
    let commands = "lives=$(head -c 3 /dev/vda | tr -d .)\n\
        echo \"lives: <$lives>\"\n\
        printf \"${lives}x\" | dd of=/dev/vda conv=notrunc 2>/dev/null; sync\n\
        [ \"$lives\" = xx ] || busybox reboot -f\n";
    let output = own_kernel("linux-reboot", None, commands, &["--disk", &path, "--verbose"])?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = said(&output);
    for lives in ["lives: <>", "lives: <x>", "lives: <xx>"] {
        ensure!(text.contains(lives), "{lives}: {text}");
    }
    assert_eq!(text.matches("linux: the guest resets").count(), 2, "{text}");
    ensure!(std::fs::read(&disk)?.starts_with(b"xxx."), "{text}");
    Ok(())
}

/// PTRACE_SINGLESTEP ran the child to its end, breakpoints and watchpoints hit
/// nothing, and a uprobe killed the program that it probed.
#[test]
fn a_realm_steps_breaks_watches_and_probes() -> Result<()> {
    if left_out("a_realm_steps_breaks_watches_and_probes") {
        return Ok(());
    }
    let program = program("linux-debug", "debugged")?.display().to_string();
    let commands = "mkdir -p /tmp; cat /dev/vda > /tmp/debugged; chmod +x /tmp/debugged\n\
         /tmp/debugged\n\
         mount -t tracefs none /sys/kernel/tracing; cd /sys/kernel/tracing\n\
         echo \"p:up /tmp/debugged:$(/tmp/debugged where)\" > uprobe_events\n\
         echo 1 > events/uprobes/up/enable\n\
         /tmp/debugged probe; echo status=$?\n\
         echo hits=$(grep -c 'up: (' trace)\n";
    let output = script("linux-debug", commands, &["--disk", &program, "--abi", "rsi"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    ensure!(lines.contains(&"steps=20"), "{}", said(&output));
    for kind in ["breakpoints=", "watchpoints="] {
        let at = lines.iter().position(|line| line.starts_with(kind)).context("not told")?;
        let hits = lines.get(at).and_then(|line| line.strip_prefix(kind));
        let slots = lines.get(at + 1).and_then(|line| line.strip_prefix("of="));
        // Each one that the kernel offers stops the program once.
        ensure!(hits.is_some() && hits == slots && hits != Some("0"), "{}", said(&output));
    }
    let probed = ["sum=35", "status=0", "hits=5"].iter().all(|line| lines.contains(line));
    ensure!(probed, "{}", said(&output));
    Ok(())
}

/// Two realms at once on one network, beside our own guest: they reach each
/// other, and what one sends is what the other gets. Neither's end leaves
/// anything behind.
#[test]
fn two_realms_at_once_talk_with_each_other() -> Result<()> {
    if left_out("two_realms_at_once_talk_with_each_other") {
        return Ok(());
    }
    let commands = "until ping -c 1 -W 1 10.0.2.16 >/dev/null; do :; done\n\
        ping -c 3 10.0.2.16 | grep -c 'bytes from 10.0.2.16'\n\
        ping -c 2 -s 4000 10.0.2.2 | grep -c '4008 bytes from'\n\
        head -c 300000 /dev/urandom >/tmp/file\n\
        for address in 10.0.2.16 10.0.2.2; do\n\
            heard=$(nc $address 9000 </tmp/file)\n\
            [ ${heard%% *} = $(sha256sum </tmp/file | cut -d' ' -f1) ] && echo $address\n\
        done\n\
        exit 8\n";
    let output = script("linux-two", commands, &["--neighbours", "1", "--verbose"])?;
    assert_eq!(output.status.code(), Some(8), "{}", said(&output));
    assert_eq!(output.stdout, b"3\n2\n10.0.2.16\n10.0.2.2\n", "{}", said(&output));
    // The second one is our own guest, in Rust and with pKVM's calls.
    for number in [1, 2] {
        let wanted = format!("of neighbour {number} came back, all zero");
        ensure!(said(&output).contains(&wanted), "{}", said(&output));
    }
    Ok(())
}

/// A neighbour that does not live as long as it should is told.
#[test]
fn a_neighbour_that_ends_before_its_time_is_told() -> Result<()> {
    if left_out("a_neighbour_that_ends_before_its_time_is_told") {
        return Ok(());
    }
    let commands = "until ping -c 1 -W 1 10.0.2.16 >/dev/null; do :; done\n\
        while ping -c 1 -W 1 10.0.2.16 >/dev/null; do :; done\n";
    let does = "beside=\"sh -c 'sleep 3; poweroff -f'\"";
    let words = ["--neighbours", "1", "--append", does];
    let output = script("linux-neighbour", commands, &words)?;
    assert_eq!(output.status.code(), Some(123), "{}", said(&output));
    ensure!(said(&output).contains("ended before its time"), "{}", said(&output));
    Ok(())
}

#[test]
fn a_kernel_with_the_pkvm_guest_driver_runs_as_a_protected_guest() -> Result<()> {
    if left_out_without_pkvm("a_kernel_with_the_pkvm_guest_driver_runs_as_a_protected_guest")? {
        return Ok(());
    }
    let disk = file("linux-pkvm", "disk.img", &[0; 1 << 16])?;
    let path = disk.display().to_string();
    let commands = "dmesg | grep -c 'created restricted DMA pool'; printf pkvm >/dev/vda; exit 6";
    let output = script("linux-pkvm", commands, &["--abi", "pkvm", "--disk", &path])?;
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    ensure!(output.stdout.starts_with(b"1\n"), "{}", said(&output));
    ensure!(std::fs::read(&disk)?.starts_with(b"pkvm"), "what it wrote is not in the file");
    Ok(())
}

/// Ends of which the guest knows nothing, each after another number of requests
/// of its disk: all of its memory comes back each time, wiped, and neither the
/// host nor bouncer has a frame more or less than before.
#[test]
fn fifty_guests_killed_in_the_middle_of_io_leave_nothing() -> Result<()> {
    if left_out_without_pkvm("fifty_guests_killed_in_the_middle_of_io_leave_nothing")? {
        return Ok(());
    }
    let disk = file("linux-kills", "disk.img", &vec![0; 1 << 20])?;
    let path = disk.display().to_string();
    let commands =
        "while :; do dd if=/dev/zero of=/dev/vda bs=4k count=200 conv=notrunc,fsync; done";
    let words = ["--abi", "pkvm", "--guest-memory", "64M", "--console", "hvc0", "--disk", &path];
    let more =
        ["--append", "quiet", "--lives", "50", "--kill-in-io", "--verbose", "--timeout", LONG];
    let output = script("linux-kills", commands, &[words.as_slice(), &more].concat())?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.matches("linux: guest killed").count(), 50, "{text}");
    let unanswered = "requests of the disk that were not answered: ";
    assert_eq!(text.matches(unanswered).count(), 50, "{text}");
    ensure!(!text.contains(&format!("{unanswered}0")), "no request was under way: {text}");
    assert_eq!(text.matches("came back, all zero").count(), 50, "{text}");
    Ok(())
}

#[test]
fn twenty_boots_in_a_row_leave_nothing() -> Result<()> {
    if left_out("twenty_boots_in_a_row_leave_nothing") {
        return Ok(());
    }
    let words = ["--console", "hvc0", "--append", "quiet", "--lives", "20", "--verbose"];
    let words = [words.as_slice(), &["--timeout", LONG]].concat();
    let output = script("linux-boots", "nproc; exit 5", &words)?;
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert_eq!(output.stdout, b"2\n".repeat(20), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.matches("came back, all zero").count(), 20, "{text}");
    Ok(())
}
