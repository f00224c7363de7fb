use super::*;
use crate::parse::validate;
use crate::test_trees::virt;
use std::collections::BTreeMap;
use std::vec::Vec;

/// The test tree's ECAM and its virtio-mmio transport.
const ECAM: u64 = 0x3f00_0000;
const TRANSPORT: u64 = 0xa00_0000;

/// Devices as a loader leaves them. What is not there reads as all ones.
#[derive(Default)]
struct Machine {
    words: BTreeMap<u64, u32>,
    /// Bits of a register that stay as they are.
    stuck: Option<(u64, u32)>,
    written: Vec<(u64, u32)>,
}

impl Machine {
    fn function(&mut self, bus: u64, device: u64, function: u64, header: u32) -> u64 {
        let at = ECAM + bus * BUS + (device * FUNCTIONS + function) * FUNCTION;
        self.words.insert(at + ID, 0x1041_1af4);
        self.words.insert(at + COMMAND, 0x0010_0007);
        self.words.insert(at + HEADER, header);
        at
    }

    fn bridge(&mut self, bus: u64, device: u64, secondary: u32, subordinate: u32) -> u64 {
        let at = self.function(bus, device, 0, BRIDGE << 16);
        self.words.insert(at + BUSES, subordinate << 16 | secondary << 8 | bus as u32);
        at
    }

    fn is_master(&self, at: u64) -> bool {
        self.words[&(at + COMMAND)] & BUS_MASTER != 0
    }
}

impl Registers for Machine {
    fn read(&mut self, address: u64) -> Result<u32, BootError> {
        Ok(self.words.get(&address).copied().unwrap_or(!0))
    }

    fn write(&mut self, address: u64, value: u32) -> Result<(), BootError> {
        self.written.push((address, value));
        let kept = self.stuck.filter(|&(at, _)| at == address).map_or(0, |(_, bits)| bits);
        self.words.insert(address, value | kept);
        Ok(())
    }
}

fn silenced(machine: &mut Machine) -> Result<Silenced, BootError> {
    let tree = virt().build();
    silence(validate(&tree).unwrap(), machine)
}

/// PCI Local Bus Specification 3.0, 6.2.2: without Command bit 2 a function
/// generates no accesses, a bridge forwards none.
#[test]
fn every_function_behind_every_bridge_loses_bus_mastering() {
    let mut machine = Machine::default();
    let functions = [
        machine.function(0, 1, 0, 0),
        machine.function(0, 2, 0, MULTIFUNCTION),
        machine.function(0, 2, 7, 0),
        machine.bridge(0, 3, 1, 3),
        machine.bridge(1, 0, 2, 2),
        machine.function(2, 31, 0, 0),
        machine.function(3, 0, 0, 0),
    ];
    assert_eq!(silenced(&mut machine), Ok(Silenced { functions: 7, transports: 0 }));
    assert!(functions.iter().all(|&at| !machine.is_master(at)));
    // Decoding and I/O stay as they were; Status, which ones clear, is left alone.
    assert!(machine.written.iter().all(|&(_, value)| value == 3));
    assert_eq!(silenced(&mut machine), Ok(Silenced::default()), "nothing is on any more");
}

#[test]
fn what_is_not_there_is_not_written() {
    let mut machine = Machine::default();
    assert_eq!(silenced(&mut machine), Ok(Silenced::default()));
    assert_eq!(machine.written, []);
    // Bridges that nobody has set up, or that lead back, end the walk, too.
    machine.bridge(0, 3, 0, 0);
    machine.bridge(0, 4, 0, 255);
    assert_eq!(silenced(&mut machine).map(|silenced| silenced.functions), Ok(2));
}

/// virtio 1.2, 4.2.3.1 and 2.4.2: 0 resets, and the status tells when.
#[test]
fn a_transport_that_a_loader_has_used_is_reset() {
    let mut machine = Machine::default();
    machine.words.insert(TRANSPORT + MAGIC, VIRTIO);
    machine.words.insert(TRANSPORT + STATUS, 0xf);
    assert_eq!(silenced(&mut machine), Ok(Silenced { functions: 0, transports: 1 }));
    assert_eq!(machine.written, [(TRANSPORT + STATUS, 0)]);
    assert_eq!(silenced(&mut machine), Ok(Silenced::default()));
}

#[test]
fn what_cannot_be_silenced_is_refused() {
    let mut machine = Machine::default();
    let at = machine.function(0, 1, 0, 0);
    machine.stuck = Some((at + COMMAND, BUS_MASTER));
    assert_eq!(silenced(&mut machine), Err(BootError::CannotSilence));
    let mut machine = Machine::default();
    machine.words.insert(TRANSPORT + MAGIC, VIRTIO);
    machine.stuck = Some((TRANSPORT + STATUS, 4));
    machine.words.insert(TRANSPORT + STATUS, 4);
    assert_eq!(silenced(&mut machine), Err(BootError::CannotSilence));
    for kind in ["snps,dw-pcie-ecam", "pci-host-cam-generic"] {
        let mut board = virt();
        board.bridge = (kind, None);
        let tree = board.build();
        let refused = silence(validate(&tree).unwrap(), &mut Machine::default());
        assert_eq!(refused, Err(BootError::CannotSilence), "{kind}");
        // Who does not want it has it disabled.
        board.bridge = (kind, Some("disabled"));
        let tree = board.build();
        assert!(silence(validate(&tree).unwrap(), &mut Machine::default()).is_ok());
    }
}
