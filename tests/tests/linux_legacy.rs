//! Debian's kernel and a device that lacks ACCESS_PLATFORM: `cargo xtask run
//! --guest debian --policy legacy-no-platform`.

use anyhow::{Result, ensure};
use tests::file;
use tests::linux::{counter, left_out, said, script};

/// A stock realm takes the device: Linux on arm64 asks for the bit, and does
/// without it where it is not there. It puts private rings on it, the host's
/// first look at one is an abort, and the device is stopped. Linux would wait
/// for its disk for ever; the run ends by itself, and says why.
#[test]
fn a_stock_realm_gives_such_a_device_private_rings_and_nothing_of_them_is_read() -> Result<()> {
    let test = "a_stock_realm_gives_such_a_device_private_rings_and_nothing_of_them_is_read";
    if left_out(test) {
        return Ok(());
    }
    let disk = vec![0x5a; 1 << 20];
    let path = file("legacy", "disk.img", &disk)?;
    let shown = path.display().to_string();
    let words = ["--policy", "legacy-no-platform", "--verbose", "--disk", &shown];
    let output = script("legacy", "echo never\n", &words)?;
    let text = said(&output);
    // Not the script's status, and not that of a run that takes too long.
    assert_eq!(output.status.code(), Some(125), "{text}");
    ensure!(output.stdout.is_empty(), "the script has run: {text}");
    for line in [
        "linux: the guest was ended: device ",
        " lacks ACCESS_PLATFORM, and the guest's driver took it",
        "is not the device's to touch",
        "of that nothing was read",
        "came back, all zero",
    ] {
        ensure!(text.contains(line), "no {line}: {text}");
    }
    // It is a realm that has shared its bounce buffers, for all the good.
    ensure!(counter(&output, "pages_shared")? >= 16_384, "{text}");
    // Nothing was served, so nothing was written.
    assert_eq!(counter(&output, "disk_requests")?, 0, "{text}");
    assert_eq!(std::fs::read(&path)?, disk);
    Ok(())
}
