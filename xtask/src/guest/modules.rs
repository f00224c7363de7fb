//! The kernel's modules in the order in which they must be loaded.
//!
//! A package has no `modules.dep` (depmod writes that on the machine), but
//! each module says in its `.modinfo` section what it needs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

/// A module that can be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name as the kernel says it, with underscores.
    pub name: String,
    /// The names of those it needs.
    pub needs: Vec<String>,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

impl Module {
    /// Takes a module's file (not compressed).
    ///
    /// # Errors
    /// When it is no kernel module.
    pub fn new(name: &str, bytes: Vec<u8>) -> Result<Self> {
        let needs = needs(&bytes).with_context(|| format!("{name} is no kernel module"))?;
        Ok(Self { name: name.to_owned(), needs, bytes })
    }
}

/// The module's name for a path: `drivers/char/virtio-rng.ko.xz` holds
/// `virtio_rng`.
#[must_use]
pub fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = file.strip_suffix(".ko.xz").or_else(|| file.strip_suffix(".ko"))?;
    Some(stem.replace('-', "_"))
}

/// The wanted modules and all they need, each after what it needs. `load`
/// gives a module by name.
///
/// # Errors
/// When one is missing, or they need each other in a circle.
pub fn ordered(
    wanted: &[&str],
    mut load: impl FnMut(&str) -> Result<Option<Module>>,
) -> Result<Vec<Module>> {
    let mut order = Vec::new();
    let mut seen = BTreeMap::new();
    for name in wanted {
        place(name, &mut load, &mut seen, &mut order)?;
    }
    Ok(order)
}

/// Puts `name` behind all it needs. `seen` is false while that is going on.
fn place(
    name: &str,
    load: &mut dyn FnMut(&str) -> Result<Option<Module>>,
    seen: &mut BTreeMap<String, bool>,
    order: &mut Vec<Module>,
) -> Result<()> {
    match seen.get(name) {
        Some(true) => return Ok(()),
        Some(false) => bail!("the module {name} needs itself"),
        None => {}
    }
    seen.insert(name.to_owned(), false);
    let module = load(name)?.with_context(|| format!("the kernel has no module {name}"))?;
    for needed in &module.needs {
        place(needed, load, seen, order).with_context(|| format!("{name} cannot be loaded"))?;
    }
    seen.insert(name.to_owned(), true);
    order.push(module);
    Ok(())
}

/// `depends=` in the module's list of zero-ended strings.
fn needs(elf: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(elf)?;
    let section = file.section_by_name(".modinfo").context("it has no .modinfo")?;
    let depends = section
        .data()?
        .split(|&byte| byte == 0)
        .find_map(|text| text.strip_prefix(b"depends="))
        .unwrap_or_default();
    let names = String::from_utf8_lossy(depends);
    Ok(names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(name: &str) -> Result<Option<Module>> {
        let needs: &[&str] = match name {
            "virtio_net" => &["net_failover", "failover"],
            "net_failover" => &["failover"],
            "failover" | "virtio_blk" => &[],
            "hen" => &["egg"],
            "egg" => &["hen"],
            "lonely" => &["gone"],
            _ => return Ok(None),
        };
        let needs = needs.iter().map(|&need| need.to_owned()).collect();
        Ok(Some(Module { name: name.to_owned(), needs, bytes: Vec::new() }))
    }

    #[test]
    fn a_module_comes_after_what_it_needs_and_only_once() {
        let order = ordered(&["virtio_net", "virtio_blk", "failover"], kernel).unwrap();
        let names: Vec<&str> = order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["failover", "net_failover", "virtio_net", "virtio_blk"]);
    }

    #[test]
    fn what_cannot_be_loaded_is_named() {
        let said = |name| format!("{:#}", ordered(&[name], kernel).unwrap_err());
        assert!(said("lonely").contains("no module gone"), "{}", said("lonely"));
        assert!(said("hen").contains("hen needs itself"), "{}", said("hen"));
    }

    #[test]
    fn a_path_tells_the_name() {
        let path = "usr/lib/modules/7.2/kernel/drivers/char/hw_random/virtio-rng.ko.xz";
        assert_eq!(name_of(path).as_deref(), Some("virtio_rng"));
        assert_eq!(name_of("a/b.ko").as_deref(), Some("b"));
        assert_eq!(name_of("modules.dep"), None);
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert!(Module::new("x", b"#!/bin/sh".to_vec()).is_err());
    }
}
