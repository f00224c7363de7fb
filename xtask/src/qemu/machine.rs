//! The machine to emulate, what it boots, and QEMU's command line for both.

use std::path::PathBuf;
use std::time::Duration;

/// The machine to emulate.
#[derive(Debug, Clone)]
pub struct Machine {
    /// CPU model.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// MiB of RAM.
    pub memory: u64,
    /// Whether the CPUs have EL2.
    pub virtualization: bool,
    /// GIC version.
    pub gic: u32,
    /// An SMMUv3 before all of PCIe: then the host has PCIe.
    pub smmu: bool,
    /// Time is the number of instructions executed: runs repeat exactly, and
    /// nothing the emulator's machine does changes them. One CPU only.
    pub icount: bool,
    /// A reset, too, is an end at which the machine's memory may be looked at.
    pub look_after_reset: bool,
    /// The command line of what is booted: bouncer's own.
    pub command_line: String,
    /// Firmware that runs first and finds for itself what to boot: the kernel
    /// and its command line are not given then.
    pub firmware: Option<PathBuf>,
    /// Further arguments for QEMU.
    pub extra: Vec<String>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            cpu: crate::cpu::DEFAULT.into(),
            cpus: 2,
            memory: 1024,
            virtualization: true,
            gic: 3,
            smmu: false,
            icount: false,
            look_after_reset: false,
            command_line: String::new(),
            firmware: None,
            extra: Vec::new(),
        }
    }
}

/// A module placed in RAM for bouncer (QEMU's guest-loader).
#[derive(Debug, Clone)]
pub struct Module {
    /// The file.
    pub path: PathBuf,
    /// Where it lies, physical.
    pub address: u64,
    /// The host's command line makes it a kernel; none makes it the ramdisk.
    pub bootargs: Option<String>,
}

/// What to boot and how.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The machine.
    pub machine: Machine,
    /// Flat Image that is entered first.
    pub kernel: PathBuf,
    /// Host kernel and ramdisk.
    pub modules: Vec<Module>,
    /// Files put into RAM as they are: (file, physical address).
    pub blobs: Vec<(PathBuf, u64)>,
    /// Wait for a debugger on this local port.
    pub gdb: Option<u16>,
    /// Wall-clock limit; none waits for ever.
    pub timeout: Option<Duration>,
}

impl Boot {
    /// QEMU's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let machine = &self.machine;
        let on_off = if machine.virtualization { "on" } else { "off" };
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"]);
        add(&["-M", &format!("virt,virtualization={on_off},gic-version={}", machine.gic)]);
        if machine.smmu {
            // Windows that 39 bits of address reach; stage 2, which is EL2's.
            add(&["-machine", "iommu=smmuv3,highmem-ecam=off,highmem-mmio=off"]);
            add(&["-global", "arm-smmuv3.stage=2"]);
        }
        add(&["-cpu", &machine.cpu, "-smp", &machine.cpus.to_string()]);
        if machine.icount {
            add(&["-icount", "shift=0,sleep=off"]);
            // The seeds in the device tree, too, are the same every time.
            add(&["-seed", "1"]);
        }
        add(&["-m", &format!("{}M", machine.memory)]);
        // Memory that is not touched costs nothing: a machine may be larger
        // than what is free here.
        add(&[
            "-object",
            &format!("memory-backend-ram,id=ram,size={}M,reserve=off", machine.memory),
        ]);
        add(&["-machine", "memory-backend=ram"]);
        match &machine.firmware {
            Some(firmware) => add(&["-bios", &firmware.display().to_string()]),
            None => {
                add(&["-kernel", &escaped(&self.kernel.display().to_string())]);
                if !machine.command_line.is_empty() {
                    add(&["-append", &machine.command_line]);
                }
            }
        }
        for module in &self.modules {
            let path = escaped(&module.path.display().to_string());
            let address = module.address;
            let device = match &module.bootargs {
                Some(bootargs) => {
                    let bootargs = escaped(bootargs);
                    format!("guest-loader,addr={address:#x},kernel={path},bootargs={bootargs}")
                }
                None => format!("guest-loader,addr={address:#x},initrd={path}"),
            };
            add(&["-device", &device]);
        }
        for (path, address) in &self.blobs {
            let path = escaped(&path.display().to_string());
            add(&["-device", &format!("loader,addr={address:#x},file={path},force-raw=on")]);
        }
        add(&["-serial", "chardev:console"]);
        add(&["-chardev", "stdio,id=monitor,signal=off"]);
        add(&["-mon", "chardev=monitor,mode=control"]);
        // Stopped at first: a machine that ended before the monitor was ready
        // would end unseen.
        add(&["-S", "-no-reboot", "-no-shutdown"]);
        if let Some(port) = self.gdb {
            add(&["-gdb", &format!("tcp:127.0.0.1:{port}")]);
        }
        arguments.extend(machine.extra.iter().cloned());
        arguments
    }
}

/// What of these arguments of QEMU would do DMA around the SMMU: a virtio device
/// that was not told to use it, or a bus that bypasses it. bouncer cannot see
/// that from inside the machine, and its promise does not hold on one.
#[must_use]
pub(super) fn around_smmu(arguments: &[String]) -> Option<&str> {
    let values = |option: &'static str| {
        let options = arguments.iter().zip(arguments.iter().skip(1));
        options.filter(move |(name, _)| *name == option).map(|(_, value)| value.as_str())
    };
    let has = |value: &str, word: &str| value.split(',').any(|part| part == word);
    let device = values("-device").find(|value| {
        let virtio = value.starts_with("virtio-") || value.starts_with("vhost-");
        virtio && !(has(value, "iommu_platform=on") && has(value, "disable-legacy=on"))
    });
    let everything = ["-device", "-machine", "-M", "-global"].into_iter().flat_map(values);
    let mut bypassing = everything.filter(|value| value.contains("bypass_iommu=on"));
    device.or_else(|| bypassing.next())
}

/// QEMU splits option values at commas; a doubled one is a comma.
pub(crate) fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> Boot {
        Boot {
            machine: Machine::default(),
            kernel: "bouncer.img".into(),
            modules: Vec::new(),
            blobs: Vec::new(),
            gdb: None,
            timeout: None,
        }
    }

    #[test]
    fn commas_in_boot_arguments_reach_the_host_as_commas() {
        let module = Module {
            path: "a,b.img".into(),
            address: 0x4400_0000,
            bootargs: Some("attacks=C1,C2 note=x".into()),
        };
        let arguments = Boot { modules: vec![module], ..boot() }.arguments();
        let wanted = "guest-loader,addr=0x44000000,kernel=a,,b.img,bootargs=attacks=C1,,C2 note=x";
        assert!(arguments.iter().any(|argument| argument == wanted), "{arguments:?}");
    }

    #[test]
    fn what_goes_around_the_smmu_is_found() {
        let around = |words: &[&str]| {
            let arguments: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            around_smmu(&arguments).map(str::to_owned)
        };
        let disk = "virtio-blk-pci,drive=d,iommu_platform=on,disable-legacy=on";
        assert_eq!(around(&["-device", "edu", "-device", disk, "-device", "nvme,serial=1"]), None);
        for bad in [
            "virtio-blk-pci,drive=d",
            "virtio-blk-pci,iommu_platform=off,disable-legacy=on",
            "virtio-net-pci,iommu_platform=on",
            "virtio-blk-device,drive=d",
            "pxb-pcie,bypass_iommu=on",
        ] {
            assert_eq!(around(&["-device", disk, "-device", bad]).as_deref(), Some(bad));
        }
        assert!(around(&["-machine", "default_bus_bypass_iommu=on"]).is_some());
        let machine = Machine { smmu: true, ..Machine::default() };
        let arguments = Boot { machine, ..boot() }.arguments();
        assert_eq!(around_smmu(&arguments), None);
        assert!(arguments.join(" ").contains("-global arm-smmuv3.stage=2"));
    }

    #[test]
    fn no_network_card_and_no_reboot_and_el2() {
        let arguments = boot().arguments().join(" ");
        for wanted in ["-nic none", "-no-reboot", "virt,virtualization=on,gic-version=3"] {
            assert!(arguments.contains(wanted), "{arguments}");
        }
    }
}
