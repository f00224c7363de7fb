//! The harness itself: what it sees is what the machine did.

use std::time::Duration;

use anyhow::Result;
use tests::tiny::{Program, RAM};
use tests::{boot, emulator, file};
use xtask::qemu::{Boot, End, Machine};

fn machine(test: &str, program: &Program) -> Result<Boot> {
    emulator()?;
    Ok(Boot {
        machine: Machine { memory: 128, ..Machine::default() },
        kernel: file(test, "kernel.img", &program.image(0))?,
        modules: Vec::new(),
        blobs: Vec::new(),
        gdb: None,
        timeout: Some(Duration::from_secs(60)),
    })
}

#[test]
fn console_and_power_off_are_seen() -> Result<()> {
    let program = Program::default().print("@host result=pass\nlast words").power_off();
    let (ended, transcript) = boot(&machine("emulator-off", &program)?, |_| Ok(()))?;
    assert_eq!(ended.end, End::PoweredOff);
    assert!(ended.status.success());
    assert_eq!(transcript.host_result.as_deref(), Some("pass"));
    assert_eq!(transcript.lines.last().map(String::as_str), Some("last words"));
    Ok(())
}

#[test]
fn memory_can_be_read_after_power_off() -> Result<()> {
    let place = RAM + (32 << 20);
    let program = Program::default().set(3, place).set(4, 0x2174_6f62).store(4, 3, 8).power_off();
    let boot_it = machine("emulator-memory", &program)?;
    let saved = file("emulator-memory", "saved", b"")?;
    let (ended, _) = boot(&boot_it, |qemu| qemu.save_memory(place, 16, &saved))?;
    assert_eq!(ended.end, End::PoweredOff);
    assert_eq!(std::fs::read(saved)?, b"\0\0\0\0\0\0\0\0bot!\0\0\0\0");
    Ok(())
}

#[test]
fn a_machine_that_hangs_is_ended_at_the_limit() -> Result<()> {
    let program = Program::default().print("going round").hang();
    let limited =
        Boot { timeout: Some(Duration::from_secs(3)), ..machine("emulator-hang", &program)? };
    let (ended, transcript) = boot(&limited, |_| Ok(()))?;
    assert_eq!(ended.end, End::TimedOut);
    assert_eq!(transcript.lines, ["going round"]);
    Ok(())
}

#[test]
fn qemus_own_complaint_is_in_the_console() -> Result<()> {
    let mut wrong = machine("emulator-wrong", &Program::default().hang())?;
    wrong.machine.cpu = "no-such-cpu".into();
    let (ended, transcript) = boot(&wrong, |_| Ok(()))?;
    assert_eq!(ended.end, End::Died);
    assert!(!ended.status.success());
    assert!(transcript.lines.iter().any(|line| line.contains("no-such-cpu")));
    Ok(())
}
