//! The rest of the simulated machine: a world switch that plays a script,
//! devices and firmware that take notes.

use super::debug::{CpuDebug, DebugRegisters};
use crate::addr::Pfn;
use crate::machine::{CpuId, DmaFault, El1Register, IdRegister, MAX_CPUS, PowerAction, Regime};
use crate::trap::{Trap, TrapKind};
use crate::vcpu::state::VcpuState;
use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

/// One step of a guest: may change its registers, then traps.
pub type Script = Box<dyn FnOnce(&mut VcpuState) -> Trap + Send>;

/// What a CPU does when its script is empty.
pub(super) const INTERRUPT: Trap = Trap { kind: TrapKind::Interrupt, esr: 0, far: 0, hpfar: 0 };

/// One access to a physical device register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceAccess {
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub size: u8,
    /// What was written; `None` for a read.
    pub written: Option<u64>,
}

/// What a test sets and reads of CPUs, devices and firmware.
pub struct World {
    /// Physical CPUs; their MPIDR affinity is their number.
    pub cpus: usize,
    /// CNTPCT_EL0.
    pub counter: u64,
    /// The loaded guest's timer output.
    pub timer_line: bool,
    /// When it fires.
    pub timer_deadline: Option<u64>,
    /// Identification registers that are not a Cortex-A72's.
    pub id_values: BTreeMap<IdRegister, u64>,
    /// Every time that EL2's own timer was set to, and `None` when it was
    /// switched off.
    pub alarms: Vec<Option<u64>>,
    /// What device registers read as, by address; others read as zero.
    pub device_values: BTreeMap<u64, u64>,
    /// Every device access.
    pub device_log: Vec<DeviceAccess>,
    /// Accesses that the IOMMU has refused devices and nobody was told of.
    pub dma_faults: VecDeque<DmaFault>,
    /// What the firmware answers.
    pub firmware_answer: u64,
    /// Frames whose contents EL2 has read, to measure them.
    pub frames_read: u64,
    /// Every firmware call.
    pub firmware_log: Vec<[u64; 4]>,
    /// What the firmware answers to starting a CPU (a PSCI code).
    pub start_answer: i64,
    /// Every CPU started: (cpu, entry, context).
    pub started: Vec<(CpuId, u64, u64)>,
    /// Every CPU that stopped itself.
    pub stopped: Vec<CpuId>,
    /// Every power action.
    pub power: Vec<PowerAction>,
    /// What happens elsewhere while the machine is about to stop.
    pub at_power: Option<Box<dyn FnOnce() + Send>>,
    /// How often a CPU has begun to wait for the others.
    pub waits: u32,
    /// How often it looks, before it gives up, whether they are done. For a
    /// test whose CPUs are threads; with a single thread there is no hope.
    pub patience: u32,
    scripts: [VecDeque<(Option<u64>, Script)>; MAX_CPUS],
    loaded: [Option<Regime>; MAX_CPUS],
    debug: [Option<Box<CpuDebug>>; MAX_CPUS],
    el1: [[u64; 6]; MAX_CPUS],
}

impl Default for World {
    fn default() -> Self {
        Self {
            cpus: 2,
            counter: 0,
            timer_line: false,
            timer_deadline: None,
            id_values: BTreeMap::new(),
            device_values: BTreeMap::new(),
            device_log: Vec::new(),
            dma_faults: VecDeque::new(),
            firmware_answer: 0,
            frames_read: 0,
            firmware_log: Vec::new(),
            start_answer: 0,
            started: Vec::new(),
            stopped: Vec::new(),
            power: Vec::new(),
            at_power: None,
            waits: 0,
            patience: 0,
            scripts: Default::default(),
            loaded: [None; MAX_CPUS],
            alarms: Vec::new(),
            debug: Default::default(),
            el1: [[0; 6]; MAX_CPUS],
        }
    }
}

impl World {
    /// Appends a step to what guests on `cpu` do.
    pub fn script(
        &mut self,
        cpu: CpuId,
        step: impl FnOnce(&mut VcpuState) -> Trap + Send + 'static,
    ) {
        self.scripts[cpu].push_back((None, Box::new(step)));
    }

    /// The same, and the counter is `counter` when it is done.
    pub fn script_until(
        &mut self,
        cpu: CpuId,
        counter: u64,
        step: impl FnOnce(&mut VcpuState) -> Trap + Send + 'static,
    ) {
        self.scripts[cpu].push_back((Some(counter), Box::new(step)));
    }

    /// Appends a trap that changes no register.
    pub fn script_trap(&mut self, cpu: CpuId, trap: Trap) {
        self.script(cpu, move |_| trap);
    }

    /// Steps that were not played yet.
    pub fn steps_left(&self, cpu: CpuId) -> usize {
        self.scripts[cpu].len()
    }

    /// Forgets the steps that were not played.
    pub fn clear_script(&mut self, cpu: CpuId) {
        self.scripts[cpu].clear();
    }

    /// The regime loaded on a CPU; `None` while the host is.
    pub fn loaded(&self, cpu: CpuId) -> Option<Regime> {
        self.loaded[cpu]
    }

    pub(super) fn cpu_with_root(&self, root: Pfn) -> Option<CpuId> {
        self.loaded.iter().position(|regime| regime.is_some_and(|regime| regime.root == root))
    }

    pub(super) fn debug(&mut self, cpu: CpuId) -> &mut CpuDebug {
        self.debug[cpu].get_or_insert_default()
    }

    /// The debug registers of a CPU.
    pub fn debug_registers(&mut self, cpu: CpuId) -> &mut DebugRegisters {
        &mut self.debug(cpu).registers
    }

    /// A CPU that has a vCPU loaded, and was not waited for although it could
    /// have come to an end.
    pub(super) fn forgotten(&self) -> Option<CpuId> {
        let hopeless = self.waits > 0 && self.patience == 0;
        self.loaded.iter().position(|loaded| loaded.is_some() && !hopeless)
    }

    pub(super) fn load(&mut self, cpu: CpuId, regime: Regime) {
        let before = self.loaded[cpu].replace(regime);
        assert_eq!(before, None, "CPU {cpu}: a vCPU is loaded over another");
    }

    pub(super) fn unload(&mut self, cpu: CpuId) {
        assert!(self.loaded[cpu].take().is_some(), "CPU {cpu}: no vCPU to unload");
    }

    pub(super) fn set_alarm(&mut self, cpu: CpuId, at: Option<u64>) {
        assert!(self.loaded[cpu].is_some(), "CPU {cpu}: an alarm for nobody");
        self.alarms.push(at);
    }

    pub(super) fn next_step(&mut self, cpu: CpuId) -> Option<Script> {
        assert!(self.loaded[cpu].is_some(), "CPU {cpu}: runs a vCPU that is not loaded");
        let (counter, step) = self.scripts[cpu].pop_front()?;
        self.counter = counter.unwrap_or(self.counter);
        Some(step)
    }

    pub(super) fn el1(&mut self, cpu: CpuId, register: El1Register) -> &mut u64 {
        &mut self.el1[cpu][register as usize]
    }

    pub(super) fn device_read(&mut self, address: u64, size: u8) -> u64 {
        self.device_log.push(DeviceAccess { address, size, written: None });
        self.device_values.get(&address).copied().unwrap_or(0)
    }

    pub(super) fn device_write(&mut self, address: u64, size: u8, value: u64) {
        self.device_log.push(DeviceAccess { address, size, written: Some(value) });
    }

    pub(super) fn firmware_call(&mut self, arguments: [u64; 4]) -> u64 {
        self.firmware_log.push(arguments);
        self.firmware_answer
    }

    pub(super) fn start_cpu(&mut self, cpu: CpuId, entry: u64, context: u64) -> i64 {
        self.started.push((cpu, entry, context));
        self.start_answer
    }
}

/// Identification registers of a Cortex-A72 with a GICv3 (Cortex-A72 TRM
/// 4.3), by (CRm, op2).
pub(super) fn cortex_a72(register: IdRegister) -> u64 {
    match (register.crm, register.op2) {
        (1, 0) => 0x0000_0131,           // ID_PFR0
        (1, 1) => 0x1001_1011,           // ID_PFR1
        (1, 2) => 0x0301_0066,           // ID_DFR0
        (1, 4) => 0x1020_1105,           // ID_MMFR0
        (1, 5) => 0x4000_0000,           // ID_MMFR1
        (1, 6) => 0x0126_0000,           // ID_MMFR2
        (1, 7) => 0x0210_2211,           // ID_MMFR3
        (2, 0) => 0x0210_1110,           // ID_ISAR0
        (2, 1) => 0x1311_2111,           // ID_ISAR1
        (2, 2) => 0x2123_2042,           // ID_ISAR2
        (2, 3) => 0x0111_2131,           // ID_ISAR3
        (2, 4) => 0x0001_1142,           // ID_ISAR4
        (2, 5) => 0x0001_1121,           // ID_ISAR5
        (3, 0) => 0x1011_0222,           // MVFR0
        (3, 1) => 0x1211_1111,           // MVFR1
        (3, 2) => 0x0000_0043,           // MVFR2
        (4, 0) => 0x0000_0000_0100_2222, // ID_AA64PFR0
        (5, 0) => 0x0000_0000_1030_5106, // ID_AA64DFR0
        (6, 0) => 0x0000_0000_0001_1120, // ID_AA64ISAR0
        (7, 0) => 0x0000_0000_0000_1124, // ID_AA64MMFR0
        _ => 0,
    }
}
