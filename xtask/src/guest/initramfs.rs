//! The Debian guest's first root folder: a static busybox, the modules for
//! virtio, and an init that ends in a script or a shell.

use std::path::Path;

use anyhow::{Context, Result};

use super::deb::{members, unxz};
use super::modules::{Module, name_of, ordered};
use crate::cpio::{Node, tree};

/// The init.
const INIT: &str = include_str!("init.sh");
/// Modules the guest should have; what they need comes along.
const WANTED: [&str; 8] = [
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "arm_cca_guest",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "nls_utf8",
];

/// What the init shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// A shell for a person at a terminal.
    Shell,
    /// A shell that reads commands without prompt and echo.
    Lines,
    /// A script; its status is the run's.
    Script(Vec<u8>),
}

impl Task {
    fn word(&self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Lines => "lines",
            Self::Script(_) => "script",
        }
    }
}

/// Packs the initramfs. `word` marks the guest's own output on the console
/// (see [`super::output`]); `marker` is what the host looks for, in digits.
#[must_use]
pub fn pack(
    busybox: &[u8],
    modules: &[Module],
    task: &Task,
    word: &str,
    marker: Option<&str>,
) -> Vec<u8> {
    let file = |contents: &[u8], mode| Node::File(contents.to_vec(), mode);
    let mut nodes = vec![
        // The kernel opens it for init before init can make it.
        ("dev", Node::Folder),
        ("dev/console", Node::Device(5, 1)),
        ("bin", Node::Folder),
        ("bin/busybox", file(busybox, 0o755)),
        ("init", file(INIT.as_bytes(), 0o755)),
        ("lib", Node::Folder),
        ("lib/modules", Node::Folder),
        ("etc", Node::Folder),
        ("etc/passwd", file(b"root::0:0:root:/root:/bin/sh\n", 0o644)),
        ("etc/group", file(b"root:x:0:\n", 0o644)),
        ("etc/bouncer", Node::Folder),
        ("etc/bouncer/word", file(word.as_bytes(), 0o400)),
        ("etc/bouncer/how", file(task.word().as_bytes(), 0o644)),
    ]
    .into_iter()
    .map(|(path, node)| (path.to_owned(), node))
    .collect::<Vec<_>>();
    if let Task::Script(script) = task {
        nodes.push(("etc/bouncer/script".to_owned(), file(script, 0o755)));
    }
    if let Some(digits) = marker {
        nodes.push(("etc/bouncer/marker".to_owned(), file(digits.as_bytes(), 0o400)));
    }
    let mut order = String::new();
    for module in modules {
        order = order + &module.name + "\n";
        nodes.push((format!("lib/modules/{}.ko", module.name), file(&module.bytes, 0o644)));
    }
    nodes.push(("lib/modules/order".to_owned(), file(order.as_bytes(), 0o644)));
    tree(&nodes)
}

/// busybox out of its package.
///
/// # Errors
/// When it is not in there.
pub fn busybox(package: &Path) -> Result<Vec<u8>> {
    let found = members(package, |path| path == "usr/bin/busybox" || path == "bin/busybox")?;
    let member = found.into_iter().next();
    Ok(member.with_context(|| format!("{} has no busybox", package.display()))?.bytes)
}

/// The kernel's Image out of its package.
///
/// # Errors
/// When it is not in there.
pub fn kernel(package: &Path) -> Result<Vec<u8>> {
    let is_kernel = |path: &str| {
        path.rsplit('/').next().is_some_and(|name| name.split('-').next() == Some("vmlinuz"))
    };
    let member = members(package, is_kernel)?.into_iter().next();
    Ok(member.with_context(|| format!("{} has no kernel", package.display()))?.bytes)
}

/// The wanted modules out of their package, in the order to load them.
///
/// # Errors
/// When one is not in there, or is damaged.
pub fn modules(package: &Path) -> Result<Vec<Module>> {
    // A package has a thousand modules; they stay compressed until wanted.
    let files = members(package, |path| name_of(path).is_some())?;
    ordered(&WANTED, |name| {
        let found = files.iter().find(|file| name_of(&file.path).as_deref() == Some(name));
        let Some(file) = found else { return Ok(None) };
        let bytes = if file.path.ends_with(".xz") {
            unxz(&file.bytes).with_context(|| format!("{} is damaged", file.path))?
        } else {
            file.bytes.clone()
        };
        Module::new(name, bytes).map(Some)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_finds_its_task_its_word_and_its_modules() {
        let module =
            Module { name: "virtio_blk".into(), needs: Vec::new(), bytes: b"elf".to_vec() };
        let script = Task::Script(b"exit 7\n".to_vec());
        let bytes = pack(b"busybox!", &[module], &script, "w-0", Some("6b33"));
        let text = String::from_utf8_lossy(&bytes);
        for wanted in
            ["etc/bouncer/script\0", "exit 7", "lib/modules/virtio_blk.ko\0", "w-0", "6b33"]
        {
            assert!(text.contains(wanted), "{wanted}");
        }
        let shell = pack(b"busybox!", &[], &Task::Shell, "w-0", None);
        assert!(!String::from_utf8_lossy(&shell).contains("bouncer/script\0"));
        assert!(!String::from_utf8_lossy(&shell).contains("bouncer/marker\0"));
        // What the init reads is what is packed.
        for name in ["word", "how", "script", "marker"] {
            let path = format!("/etc/bouncer/{name}");
            assert!(INIT.contains(&path), "{path}");
        }
        for word in ["script)", "lines)"] {
            assert!(INIT.contains(word), "{word}");
        }
    }
}
