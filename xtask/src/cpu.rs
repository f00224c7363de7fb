//! CPU models: any that QEMU has and bouncer can run on.

use std::process::Command;

use anyhow::{Context, Result};

use crate::Usage;
use crate::qemu::PROGRAM;
pub use crate::threats::MODELS as TESTED;

/// The model of a machine for which no other was asked.
pub const DEFAULT: &str = "cortex-a72";

/// First letters of the names of models that have no AArch64, and whole names.
const OLD_FAMILIES: [&str; 6] = ["arm", "pxa", "sa1", "ti925", "cortex-m", "cortex-r5"];
const OLD_MODELS: [&str; 4] = ["cortex-a7", "cortex-a8", "cortex-a9", "cortex-a15"];

/// The value of `--cpu`. Whether this QEMU has the model is asked later
/// ([`check`]), once there is a QEMU.
///
/// # Errors
/// Why bouncer cannot run on it, for the user.
pub fn parse(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.starts_with('-') || !text.chars().all(is_name) {
        return Err("no name of a CPU model".into());
    }
    let is_old =
        OLD_FAMILIES.iter().any(|family| text.starts_with(family)) || OLD_MODELS.contains(&text);
    match text {
        "host" => Err("that takes KVM, below which there is no EL2 to run at".into()),
        _ if is_old => Err("a 32-bit CPU; bouncer runs on AArch64".into()),
        _ => Ok(text.to_owned()),
    }
}

/// Does the installed QEMU have this model?
///
/// # Errors
/// If not, with those it has; or when QEMU cannot be asked.
pub fn check(model: &str) -> Result<()> {
    let output = Command::new(PROGRAM)
        .args(["-cpu", "help"])
        .output()
        .with_context(|| format!("cannot run {PROGRAM}"))?;
    let known = models(&String::from_utf8_lossy(&output.stdout));
    // A QEMU that answers in another way may still know it, and will say.
    if known.is_empty() || known.iter().any(|name| name == model) {
        return Ok(());
    }
    Err(Usage(format!("this QEMU has no CPU model {model:?}; it has {}", known.join(", "))).into())
}

/// The models bouncer can run on, out of what `-cpu help` says.
fn models(help: &str) -> Vec<String> {
    let indented = help.lines().filter(|line| line.starts_with(' '));
    let names = indented.filter_map(|line| line.split_whitespace().next());
    names.filter_map(|name| parse(name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tested_models_and_others_are_taken() {
        for name in TESTED.iter().chain(&["cortex-a35", "cortex-a57", "neoverse-v2", "grace"]) {
            assert_eq!(parse(name).as_deref(), Ok(*name));
        }
        assert!(TESTED.contains(&DEFAULT));
    }

    #[test]
    fn what_cannot_run_bouncer_is_refused_with_the_reason() {
        for (name, reason) in [
            ("host", "KVM"),
            ("cortex-a15", "32-bit"),
            ("cortex-a7", "32-bit"),
            ("cortex-m33", "32-bit"),
            ("arm926", "32-bit"),
            ("max,sve=off", "no name"),
            ("-M", "no name"),
            ("", "no name"),
        ] {
            assert!(parse(name).unwrap_err().contains(reason), "{name}");
        }
    }

    #[test]
    fn qemus_list_is_read_without_what_cannot_run_bouncer() {
        let help = "Available CPUs:\n  a64fx\n  arm926\n  cortex-a15\n  cortex-a710\n  max\n  \
                    pxa250 (deprecated)\n";
        assert_eq!(models(help), ["a64fx", "cortex-a710", "max"]);
        assert_eq!(models("nonsense"), [""; 0]);
    }
}
