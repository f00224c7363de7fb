//! Linux as the untrusted host, as a user has it: through `cargo xtask run
//! --host debian`, with Debian's kernel as it is.

use std::process::Output;
use std::sync::OnceLock;

use anyhow::{Result, bail, ensure};
use tests::file;
use tests::linux::{LONG, host_script, left_out, said};

/// What the script ends with.
const STATUS: i32 = 42;

/// What a host of two CPUs does to see what it is.
const LOOK: &str = r#"
hostname; nproc; cat /opt/a/extra /run/started
dmesg | grep -o -e 'All CPU(s) started at EL1' -e 'SMC Calling Convention v1[.][0-9]*'
tr '\0' '\n' </proc/device-tree/hypervisor/compatible
cat /sys/class/rtc/rtc0/name
[ "$(cat /sys/class/rtc/rtc0/since_epoch)" -gt 1700000000 ] && echo it is later than 2023
cpu1=/sys/devices/system/cpu/cpu1/online
echo 0 >$cpu1 && nproc && echo 1 >$cpu1 && nproc
devmem 0x40200000 2>&1; echo "devmem: $?"
devmem 0x09020000 2>&1; echo "devmem: $?"
dmesg | grep -c -e 'Internal error' -e BUG:
"#;
/// And what it sees then.
const SEEN: &str = "\
host
2
put in
started
SMC Calling Convention v1.1
All CPU(s) started at EL1
bouncer,hypervisor-1.0
rtc-pl031 9010000.pl031
it is later than 2023
1
2
Bus error
devmem: 135
Bus error
devmem: 135
0
";

/// One boot, for the tests that look at it.
fn host() -> Result<&'static Output> {
    static HOST: OnceLock<Result<Output, String>> = OnceLock::new();
    let boot = || -> Result<Output> {
        let start =
            file("linux-host", "start.sh", b"echo started >/run/started\n")?.display().to_string();
        let start = format!("/etc/bouncer/start={start}");
        let extra = file("linux-host", "extra", b"put in\n")?.display().to_string();
        let extra = format!("/opt/a/extra={extra}");
        let commands = format!("{LOOK}exit {STATUS}\n");
        let words = ["--verbose", "--cpus", "2", "--host-file", &start, "--host-file", &extra];
        host_script("linux-host", &commands, &words)
    };
    let host = HOST.get_or_init(|| boot().map_err(|error| format!("{error:#}")));
    host.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// Behind stage 2 and at EL1, with the files that were put in, its clock, its
/// CPUs, and the status of its script. What is not its own is a bus error for
/// the process that touches it, and for nobody else.
#[test]
fn debians_kernel_is_the_host() -> Result<()> {
    if left_out("debians_kernel_is_the_host") {
        return Ok(());
    }
    let output = host()?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), SEEN, "{}", said(output));
    assert_eq!(output.status.code(), Some(STATUS), "{}", said(output));
    Ok(())
}

/// What it tried is in bouncer's log, and nothing else is: what a kernel asks
/// for at boot is not an attempt.
#[test]
fn what_the_host_touched_is_logged_and_what_it_asked_for_is_not() -> Result<()> {
    if left_out("what_the_host_touched_is_logged_and_what_it_asked_for_is_not") {
        return Ok(());
    }
    let output = host()?;
    let text = said(output);
    let told: Vec<&str> = text.lines().filter(|line| line.contains("bouncer: the host")).collect();
    let [own, fw_cfg] = told[..] else { bail!("{text}") };
    ensure!(own.contains("touched 0x40200000, which is bouncer's"), "{own}");
    ensure!(fw_cfg.contains("touched 0x9020000, which is nobody's"), "{fw_cfg}");
    Ok(())
}

/// Each CPU model that a stock kernel is tried on, with 1 to 8 CPUs.
#[test]
#[ignore = "nine boots: cargo xtask test --long"]
fn debians_kernel_is_the_host_with_any_number_of_cpus() -> Result<()> {
    if left_out("debians_kernel_is_the_host_with_any_number_of_cpus") {
        return Ok(());
    }
    for model in ["cortex-a72", "neoverse-n1", "max"] {
        for cpus in ["1", "3", "8"] {
            let words = ["--cpu", model, "--cpus", cpus, "--timeout", LONG];
            let output = host_script("linux-host-models", "nproc\n", &words)?;
            let good = output.status.success() && output.stdout == format!("{cpus}\n").as_bytes();
            ensure!(good, "{cpus} x {model}: {}", said(&output));
        }
    }
    Ok(())
}

/// As much memory as xtask gives a machine. QEMU takes what is touched of it.
#[test]
#[ignore = "long: cargo xtask test --long"]
fn a_host_has_24_gib() -> Result<()> {
    if left_out("a_host_has_24_gib") {
        return Ok(());
    }
    let commands = "[ $(free -m | sed -n 's/^Mem: *\\([0-9]*\\).*/\\1/p') -gt 23000 ]\n";
    let words = ["--memory", "24G", "--timeout", LONG];
    let output = host_script("linux-host-large", commands, &words)?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    Ok(())
}

/// A host that reboots or panics ends the run, each in its own way.
#[test]
#[ignore = "two boots: cargo xtask test --long"]
fn a_host_that_reboots_or_panics_ends_the_run() -> Result<()> {
    if left_out("a_host_that_reboots_or_panics_ends_the_run") {
        return Ok(());
    }
    for (commands, status, says) in [
        ("reboot; sleep 100", 0, "the host reboots"),
        ("echo c >/proc/sysrq-trigger; sleep 100", 125, "reset itself, as a kernel that panics"),
    ] {
        let output = host_script("linux-host-end", commands, &["--timeout", LONG])?;
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        ensure!(said(&output).contains(says), "{}", said(&output));
    }
    Ok(())
}
