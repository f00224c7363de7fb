//! The command line of `scenario=linux`: words `name=value`.

use super::Marker;

/// Whose calls the guest speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Abi {
    /// Arm CCA's RSI: stock kernels from 6.13 on know it.
    Rsi,
    /// pKVM's calls.
    Pkvm,
    /// None: a kernel that does not know that it is protected. It shares
    /// nothing, so the only devices it can use beside its UART are those that
    /// bring their own memory.
    None,
}

/// The DMA contract of the guest's devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dma {
    /// Pages that the guest shared.
    SharedPages,
    /// A bounce BAR.
    BounceBar,
    /// Memory of the device's, whose bytes are named by offsets.
    DeviceMemory,
    /// Pages that the guest shared, and the device does not say so.
    LegacyNoPlatform,
}

impl Dma {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "shared-pages" => Some(Dma::SharedPages),
            "bounce-bar" => Some(Dma::BounceBar),
            "device-memory" => Some(Dma::DeviceMemory),
            "legacy-no-platform" => Some(Dma::LegacyNoPlatform),
            _ => None,
        }
    }

    /// Does the guest share the memory that its devices use?
    pub fn shares(self) -> bool {
        matches!(self, Dma::SharedPages | Dma::LegacyNoPlatform)
    }
}

/// What the host's console is connected to in the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Console {
    /// The UART, ttyAMA0.
    Pl011,
    /// The virtio console, hvc0.
    Hvc0,
}

/// Which devices the guest has.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Devices {
    /// A disk: the ramdisk's `disk.img`.
    pub blk: bool,
    /// A network card.
    pub net: bool,
    /// A console.
    pub console: bool,
    /// An entropy source.
    pub rng: bool,
}

impl Devices {
    fn parse(list: &str) -> Option<Self> {
        let mut devices = Devices::default();
        for name in list.split(',').filter(|name| !name.is_empty() && *name != "none") {
            let device = match name {
                "blk" => &mut devices.blk,
                "net" => &mut devices.net,
                "console" => &mut devices.console,
                "rng" => &mut devices.rng,
                _ => return None,
            };
            *device = true;
        }
        Some(devices)
    }

    /// Has it any?
    pub fn any(self) -> bool {
        self != Devices::default()
    }
}

/// When the host ends the guest by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kill {
    /// After so many milliseconds.
    After(u64),
    /// While its disk has requests that it has not answered.
    InIo,
}

impl Kill {
    /// How many requests the disk answers before a guest is ended in the
    /// middle of further ones: another number in each life.
    pub const fn requests(life: u64) -> u64 {
        8 + life * 13 % 97
    }
}

/// What a run should do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// `abi=`: `rsi`, `pkvm` or `none`.
    pub abi: Abi,
    /// `memory=`: MiB of guest RAM.
    pub memory: u64,
    /// `vcpus=`: 1 to 8.
    pub vcpus: u64,
    /// `devices=`: of `blk`, `net`, `console`, `rng`, separated by commas;
    /// or `none`.
    pub devices: Devices,
    /// `policy=`: `shared-pages`, `bounce-bar`, `device-memory` or
    /// `legacy-no-platform`, of all these devices.
    pub policy: Dma,
    /// `console=`: `pl011` or `hvc0`: where what is typed goes. What the
    /// guest prints is shown from both.
    pub console: Console,
    /// `neighbours=`: how many further guests of the same kernel run beside it,
    /// on the same network, 0 to 3.
    pub neighbours: u64,
    /// `lives=`: how often the guest is built, run and taken down, one after
    /// the other; a reset of the guest's own does not count.
    pub lives: u64,
    /// `kill=`: the host ends the guest, after so many milliseconds or (`io`)
    /// while its disk has requests that it has not answered.
    pub kill: Option<Kill>,
    /// `attack=on`: the host tries to get at the guest all the while.
    pub attack: bool,
    /// `marker=`: what it looks for in all the memory that it can read.
    pub marker: Option<Marker>,
}

impl Options {
    /// Reads a command line; words it does not know are other people's.
    ///
    /// # Errors
    /// The word whose value makes no sense.
    pub fn parse(line: &str) -> Result<Self, &str> {
        let mut options = Options {
            abi: Abi::Rsi,
            memory: 256,
            vcpus: 1,
            devices: Devices::default(),
            policy: Dma::SharedPages,
            console: Console::Pl011,
            neighbours: 0,
            lives: 1,
            kill: None,
            attack: false,
            marker: None,
        };
        for word in line.split_ascii_whitespace() {
            let Some((name, value)) = word.split_once('=') else { continue };
            options.set(name, value).ok_or(word)?;
        }
        if options.abi == Abi::None && options.devices.any() && options.policy.shares() {
            return Err("devices= with abi=none and a policy of shared pages");
        }
        if options.kill == Some(Kill::InIo) && !options.devices.blk {
            return Err("kill=io without devices=blk");
        }
        if options.marker.is_some() && !options.attack {
            return Err("marker= without attack=on");
        }
        if options.console == Console::Hvc0 && !options.devices.console {
            return Err("console=hvc0 without devices=console");
        }
        Ok(options)
    }

    /// Sets one; `None` if the value makes no sense.
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let number = || value.parse::<u64>().ok();
        match name {
            "abi" => {
                self.abi = match value {
                    "rsi" => Abi::Rsi,
                    "pkvm" => Abi::Pkvm,
                    "none" => Abi::None,
                    _ => return None,
                }
            }
            "memory" => self.memory = number().filter(|mib| (64..=1 << 16).contains(mib))?,
            "vcpus" => self.vcpus = number().filter(|vcpus| (1..=8).contains(vcpus))?,
            "devices" => self.devices = Devices::parse(value)?,
            "policy" => self.policy = Dma::parse(value)?,
            "console" => {
                self.console = match value {
                    "pl011" => Console::Pl011,
                    "hvc0" => Console::Hvc0,
                    _ => return None,
                }
            }
            "neighbours" => self.neighbours = number().filter(|count| *count <= 3)?,
            "lives" => self.lives = number().filter(|lives| (1..=1000).contains(lives))?,
            "kill" => {
                self.kill = Some(match value {
                    "io" => Kill::InIo,
                    _ => Kill::After(number()?),
                })
            }
            "attack" => {
                self.attack = match value {
                    "on" => true,
                    "off" => false,
                    _ => return None,
                }
            }
            "marker" => self.marker = Some(Marker::parse(value)?),
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_choose_and_have_defaults() {
        let options = Options::parse("scenario=linux quiet").unwrap();
        assert_eq!((options.abi, options.memory, options.vcpus), (Abi::Rsi, 256, 1));
        assert!(!options.devices.any());
        let line = "abi=pkvm memory=512 vcpus=4 devices=blk,console,rng console=hvc0 kill=1500";
        let options = Options::parse(line).unwrap();
        assert_eq!((options.abi, options.memory, options.vcpus), (Abi::Pkvm, 512, 4));
        let devices = Devices { blk: true, console: true, rng: true, net: false };
        assert_eq!((options.devices, options.console), (devices, Console::Hvc0));
        assert_eq!((options.kill, options.neighbours), (Some(Kill::After(1500)), 0));
        assert!(!options.attack && options.marker.is_none());
        assert_eq!(Options::parse("neighbours=3").unwrap().neighbours, 3);
        let options = Options::parse("devices=blk lives=50 kill=io").unwrap();
        assert_eq!((options.lives, options.kill), (50, Some(Kill::InIo)));
        let options = Options::parse("attack=on marker=1,2,3,4,5,6,7,8").unwrap();
        assert!(options.attack && options.marker.is_some());
    }

    #[test]
    fn fifty_kills_are_at_many_different_requests() {
        let mut all: std::vec::Vec<u64> = (1..=50).map(Kill::requests).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 50);
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(Options::parse("attack=much"), Err("attack=much"));
        assert!(Options::parse("marker=1,2,3,4,5,6,7,8").is_err(), "nobody looks for it");
        for word in [
            "abi=tdx",
            "memory=1",
            "memory=x",
            "vcpus=9",
            "devices=gpu",
            "console=tty",
            "neighbours=4",
            "policy=none",
            "lives=0",
            "kill=x",
        ] {
            assert_eq!(Options::parse(word), Err(word));
        }
        assert!(Options::parse("console=hvc0").is_err(), "a console it does not have");
        assert!(Options::parse("kill=io").is_err(), "a disk it does not have");
        assert!(Options::parse("abi=none devices=blk").is_err(), "devices need shared memory");
        assert!(!Options::parse("abi=none devices=none").unwrap().devices.any());
        let own_memory = Options::parse("abi=none devices=blk policy=bounce-bar").unwrap();
        assert_eq!(own_memory.policy, Dma::BounceBar);
    }
}
