//! Linux as the untrusted host, as a user has it: through `cargo xtask run
//! --host debian`, with Debian's kernel as it is.

use std::process::Output;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use tests::file;
use tests::linux::{host_script, left_out, said};

/// What the script ends with.
const STATUS: i32 = 42;

/// One boot, for the tests that look at it.
fn host() -> Result<&'static Output> {
    static HOST: OnceLock<Result<Output, String>> = OnceLock::new();
    let boot = || -> Result<Output> {
        let start =
            file("linux-host", "start.sh", b"echo started >/run/started\n")?.display().to_string();
        let start = format!("/etc/bouncer/start={start}");
        let extra = file("linux-host", "extra", b"put in\n")?.display().to_string();
        let extra = format!("/opt/a/extra={extra}");
        let commands = format!(
            "hostname; nproc; cat /opt/a/extra /run/started\n\
             dmesg | grep -o 'All CPU(s) started at EL1'\n\
             exit {STATUS}\n"
        );
        let words = ["--cpus", "2", "--host-file", &start, "--host-file", &extra];
        host_script("linux-host", &commands, &words)
    };
    let host = HOST.get_or_init(|| boot().map_err(|error| format!("{error:#}")));
    host.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// Behind stage 2, with the files that were put in, and the status of its script.
#[test]
fn debians_kernel_is_the_host() -> Result<()> {
    if left_out("debians_kernel_is_the_host") {
        return Ok(());
    }
    let output = host()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text == "host\n2\nput in\nstarted\nAll CPU(s) started at EL1\n", "{}", said(output));
    assert_eq!(output.status.code(), Some(STATUS), "{}", said(output));
    Ok(())
}
