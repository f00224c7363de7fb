//! The Debian guest's first root folder: a static busybox, the modules for
//! virtio, and an init that ends in a script or a shell.

use std::path::Path;

use anyhow::{Context, Result};

use super::deb::{members, unxz};
use super::modules::{Module, name_of, ordered};
use super::screen::Keyboard;
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
    /// Where what is typed comes from.
    #[must_use]
    pub fn keyboard(&self) -> Keyboard {
        match self {
            Self::Script(_) => Keyboard::None,
            Self::Shell => Keyboard::Keys,
            Self::Lines => Keyboard::Stdin,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Lines => "lines",
            Self::Script(_) => "script",
        }
    }
}

/// What is in the first root folder.
#[derive(Debug, Clone, Copy)]
pub struct Root<'a> {
    /// The machine's name, and so the prompt's: `guest` or `host`.
    pub name: &'a str,
    /// A static busybox.
    pub busybox: &'a [u8],
    /// Modules in the order to load them.
    pub modules: &'a [Module],
    /// What the init shall do.
    pub task: &'a Task,
    /// Marks Linux's own output on the console (see [`super::output`]).
    pub word: &'a str,
    /// What an attacking host looks for, in digits.
    pub marker: Option<&'a str>,
    /// Further files. The init reads `etc/bouncer/start`, if there is one, as a
    /// part of itself before its task.
    pub files: &'a [Extra],
}

/// A further file in the first root folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Its path, without a slash at the beginning.
    pub path: String,
    /// What is in it.
    pub contents: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

/// Packs the initramfs.
#[must_use]
pub fn pack(root: &Root<'_>) -> Vec<u8> {
    let file = |contents: &[u8], mode| Node::File(contents.to_vec(), mode);
    let mut nodes = vec![
        // The kernel opens it for init before init can make it.
        ("dev", Node::Folder),
        ("dev/console", Node::Device(5, 1)),
        ("bin", Node::Folder),
        ("bin/busybox", file(root.busybox, 0o755)),
        ("init", file(INIT.as_bytes(), 0o755)),
        ("lib", Node::Folder),
        ("lib/modules", Node::Folder),
        ("etc", Node::Folder),
        ("etc/hostname", file(format!("{}\n", root.name).as_bytes(), 0o644)),
        ("etc/passwd", file(b"root::0:0:root:/root:/bin/sh\n", 0o644)),
        ("etc/group", file(b"root:x:0:\n", 0o644)),
        ("etc/bouncer", Node::Folder),
        ("etc/bouncer/word", file(root.word.as_bytes(), 0o400)),
        ("etc/bouncer/how", file(root.task.word().as_bytes(), 0o644)),
    ]
    .into_iter()
    .map(|(path, node)| (path.to_owned(), node))
    .collect::<Vec<_>>();
    if let Task::Script(script) = root.task {
        nodes.push(("etc/bouncer/script".to_owned(), file(script, 0o755)));
    }
    if let Some(digits) = root.marker {
        nodes.push(("etc/bouncer/marker".to_owned(), file(digits.as_bytes(), 0o400)));
    }
    let mut order = String::new();
    for module in root.modules {
        order = order + &module.name + "\n";
        nodes.push((format!("lib/modules/{}.ko", module.name), file(&module.bytes, 0o644)));
    }
    nodes.push(("lib/modules/order".to_owned(), file(order.as_bytes(), 0o644)));
    root.files.iter().for_each(|extra| add(&mut nodes, extra));
    tree(&nodes)
}

/// Adds a file, and the folders it lies in. One that is there is replaced: of
/// two entries of an archive the kernel's unpacking leaves the later.
fn add(nodes: &mut Vec<(String, Node)>, extra: &Extra) {
    let parents = extra.path.match_indices('/').filter_map(|(at, _)| extra.path.get(..at));
    for parent in parents {
        if !nodes.iter().any(|(path, _)| path == parent) {
            nodes.push((parent.to_owned(), Node::Folder));
        }
    }
    nodes.push((extra.path.clone(), Node::File(extra.contents.clone(), extra.mode)));
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
        let modules = [module];
        let root = Root {
            name: "guest",
            busybox: b"busybox!",
            modules: &modules,
            task: &script,
            word: "w-0",
            marker: Some("6b33"),
            files: &[],
        };
        let bytes = pack(&root);
        let text = String::from_utf8_lossy(&bytes);
        for wanted in
            ["etc/bouncer/script\0", "exit 7", "lib/modules/virtio_blk.ko\0", "w-0", "6b33"]
        {
            assert!(text.contains(wanted), "{wanted}");
        }
        let shell = pack(&Root { modules: &[], task: &Task::Shell, marker: None, ..root });
        assert!(!String::from_utf8_lossy(&shell).contains("bouncer/script\0"));
        assert!(!String::from_utf8_lossy(&shell).contains("bouncer/marker\0"));
        // What the init reads is what is packed.
        for name in ["word", "how", "script", "marker", "start"] {
            let path = format!("/etc/bouncer/{name}");
            assert!(INIT.contains(&path), "{path}");
        }
        for word in ["script)", "lines)"] {
            assert!(INIT.contains(word), "{word}");
        }
    }
    #[test]
    fn a_further_file_has_its_folders_before_it_and_only_once() {
        let extra = |path: &str| Extra { path: path.into(), contents: b"x".to_vec(), mode: 0o755 };
        let mut nodes = vec![("lib".to_owned(), Node::Folder)];
        for path in ["lib/a/b/c", "lib/a/d", "top"] {
            add(&mut nodes, &extra(path));
        }
        let paths: Vec<&str> = nodes.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["lib", "lib/a", "lib/a/b", "lib/a/b/c", "lib/a/d", "top"]);
        assert!(matches!(nodes.last(), Some((_, Node::File(_, 0o755)))));
    }
}
