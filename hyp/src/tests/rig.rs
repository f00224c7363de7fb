//! A booted bouncer with a host that can call and trap, and guests whose
//! instructions are a script.

use crate::abi::{self, host as id};
use crate::addr::{FRAME_SHIFT, Pfn};
use crate::hypervisor::{HostPlatform, Hypervisor};
use crate::layout;
use crate::machine::MAX_CPUS;
use crate::sim::{Layout, SimMachine};
use crate::trap::{Trap, TrapKind};
use crate::vcpu::state::{Frame, VcpuState};
use std::vec::Vec;

/// Where the rig's redistributor RD_base frame is.
pub(super) const RD_BASE: u64 = 0x080a_0000;
/// First guest frame number of RAM.
pub(super) const RAM_GFN: u64 = layout::RAM >> FRAME_SHIFT;
/// Pages of RAM that [`Rig::vm`] donates.
pub(super) const PAGES: u64 = 4;

pub(super) struct Rig {
    pub(super) hyp: Hypervisor<SimMachine>,
    pub(super) layout: Layout,
    next: u64,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with_redistributors(&[RD_BASE])
    }

    /// On a machine with RD_base frames there.
    pub(super) fn with_redistributors(frames: &[u64]) -> Self {
        let layout = Layout::new(64);
        let mut redistributors = [const { None }; MAX_CPUS];
        for (slot, frame) in redistributors.iter_mut().zip(frames) {
            *slot = crate::addr::PfnRange::new(frame >> FRAME_SHIFT, 16).ok();
        }
        let platform = HostPlatform { redistributors };
        let hyp = Hypervisor::new(layout.machine(), layout.frame_table(), &layout.boot(), platform)
            .unwrap();
        hyp.machine().attach(hyp.host_regime());
        hyp.machine().attach_dma(hyp.dma_root());
        hyp.machine().settle();
        let next = layout.ram[0].start().number();
        Self { hyp, layout, next }
    }

    /// The next `count` frames of host memory that no test used.
    pub(super) fn frames(&mut self, count: u64) -> u64 {
        let first = self.next;
        self.next += count;
        assert!(self.next <= self.layout.firmware[0].start().number(), "RAM is used up");
        first
    }

    /// An HVC of the host; x4 to x30 must survive it.
    pub(super) fn hvc(&self, function: u32, arguments: &[u64]) -> Result<[u64; 3], i64> {
        self.hvc_raw(u64::from(function), 0, arguments)
    }

    pub(super) fn hvc_raw(
        &self,
        function: u64,
        immediate: u16,
        arguments: &[u64],
    ) -> Result<[u64; 3], i64> {
        let mut frame = Frame::default();
        frame.x.iter_mut().zip(0xe1_0000..).for_each(|(x, mark)| *x = mark);
        frame.x[0] = function;
        frame.x[1..=arguments.len()].copy_from_slice(arguments);
        let before = frame.clone();
        self.hyp.handle_host_trap(&mut frame, sync(0x16 << 26 | u64::from(immediate)));
        self.hyp.machine().settle();
        assert_eq!(frame.x[4..], before.x[4..], "x4 to x30 are the caller's");
        assert_eq!((frame.pc, frame.pstate), (before.pc, before.pstate));
        let [status, results @ ..] = [0, 1, 2, 3].map(|index| frame.x[index]);
        if status == 0 {
            return Ok(results);
        }
        assert_eq!(results, [0; 3], "a refusal tells nothing but its reason");
        Err(status as i64)
    }

    /// An SMC of the host at pc 0x1000; returns x0.
    pub(super) fn smc(&self, function: u64, arguments: &[u64]) -> i64 {
        self.smc_raw(function, 0, arguments)
    }

    pub(super) fn smc_raw(&self, function: u64, immediate: u16, arguments: &[u64]) -> i64 {
        let mut frame = Frame { pc: 0x1000, ..Frame::default() };
        frame.x[0] = function;
        frame.x[1..=arguments.len()].copy_from_slice(arguments);
        self.hyp.handle_host_trap(&mut frame, sync(0x17 << 26 | u64::from(immediate)));
        assert_eq!(frame.pc, 0x1004, "a trapped SMC is stepped over");
        frame.x[0] as i64
    }

    /// A VM with one vCPU per `vcpus`, not finalised, with [`PAGES`] pages of
    /// measured RAM. Returns its handle and the first frame of its RAM.
    pub(super) fn building(&mut self, vcpus: u64) -> (u64, u64) {
        self.building_with(vcpus, 16, 0)
    }

    /// The same with this much memcache and these flags of VM_CREATE.
    pub(super) fn building_with(&mut self, vcpus: u64, tables: u64, flags: u64) -> (u64, u64) {
        let memcache = self.frames(tables);
        let create = [memcache, tables, 64, vcpus, flags];
        let [handle, ..] = self.hvc(id::VM_CREATE, &create).unwrap();
        self.attach(handle);
        let ram = self.frames(PAGES);
        let donated =
            self.hvc(id::FRAME_DONATE, &[handle, ram, RAM_GFN, PAGES, abi::DONATE_MEASURED]);
        assert_eq!(donated, Ok([PAGES, 0, 0]));
        (handle, ram)
    }

    /// Tells the simulated machine to watch the VM's address space.
    fn attach(&self, handle: u64) {
        let handle = crate::vm::Handle::from_raw(handle);
        let regime = self.hyp.with_vm(handle, |vm| Ok(vm.regime())).unwrap();
        self.hyp.machine().attach(regime);
    }

    /// The same, finalised and ready to run.
    pub(super) fn vm(&mut self, vcpus: u64) -> (u64, u64) {
        let (handle, ram) = self.building(vcpus);
        self.hvc(id::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
        (handle, ram)
    }

    /// The same with a guest that speaks RSI.
    pub(super) fn realm(&mut self, vcpus: u64) -> (u64, u64) {
        let (handle, ram) = self.building_with(vcpus, 16, abi::CREATE_RSI);
        self.hvc(id::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
        (handle, ram)
    }

    /// What the guest does next on this CPU.
    pub(super) fn script(&self, step: impl FnOnce(&mut VcpuState) -> Trap + Send + 'static) {
        self.hyp.machine().world().script(0, step);
    }

    /// The guest makes a hypercall; its x4 to x30 are left as they are.
    pub(super) fn script_hvc(&self, function: u64, arguments: &[u64]) {
        let arguments: Vec<u64> = arguments.to_vec();
        self.script(move |vcpu| {
            vcpu.frame.x[0] = function;
            vcpu.frame.x[1..=arguments.len()].copy_from_slice(&arguments);
            sync(0x16 << 26)
        });
    }

    /// The guest makes an SMC.
    pub(super) fn script_smc(&self, function: u64, arguments: &[u64]) {
        let arguments: Vec<u64> = arguments.to_vec();
        self.script(move |vcpu| {
            vcpu.frame.x[0] = function;
            vcpu.frame.x[1..=arguments.len()].copy_from_slice(&arguments);
            sync(0x17 << 26)
        });
    }

    /// The guest looks at its registers, then is interrupted.
    pub(super) fn script_check(&self, check: impl FnOnce(&VcpuState) + Send + 'static) {
        self.script(move |vcpu| {
            check(vcpu);
            interrupt()
        });
    }

    /// The guest loads from `ipa` into x`register`.
    pub(super) fn script_load(&self, ipa: u64, size: u8, register: u8) {
        self.script(move |_| abort(ipa, size, register, false));
    }

    /// The guest stores `value` to `ipa`.
    pub(super) fn script_store(&self, ipa: u64, size: u8, value: u64) {
        self.script(move |vcpu| {
            vcpu.frame.x[9] = value;
            abort(ipa, size, 9, true)
        });
    }

    /// VCPU_RUN of vCPU 0 without a reply.
    pub(super) fn run(&self, handle: u64) -> [u64; 3] {
        self.hvc(id::VCPU_RUN, &[handle, 0, 0]).unwrap()
    }

    /// A hypercall of the guest from start to end: returns its x0 and x1.
    pub(super) fn guest_hvc(&self, handle: u64, function: u64, arguments: &[u64]) -> (i64, u64) {
        let results = std::sync::Arc::new(std::sync::Mutex::new((0, 0)));
        let sink = results.clone();
        self.script_hvc(function, arguments);
        self.script_check(move |vcpu| {
            *sink.lock().unwrap() = (vcpu.frame.x[0] as i64, vcpu.frame.x[1]);
        });
        assert_eq!(self.run(handle)[0], abi::exit::INTERRUPT);
        *results.lock().unwrap()
    }

    /// An SMC of the guest from start to end, answered without the host:
    /// returns x0 to x3. The pc goes on, and x9 to x30 are the caller's.
    pub(super) fn guest_smc(&self, handle: u64, function: u32, arguments: &[u64]) -> [u64; 4] {
        let results = std::sync::Arc::new(std::sync::Mutex::new([0; 4]));
        let sink = results.clone();
        self.script(|vcpu| {
            vcpu.frame.pc = 0x4000_0100;
            vcpu.frame.x.iter_mut().zip(0x9e_0000..).for_each(|(x, mark)| *x = mark);
            interrupt()
        });
        assert_eq!(self.run(handle)[0], abi::exit::INTERRUPT);
        self.script_smc(u64::from(function), arguments);
        self.script_check(move |vcpu| {
            assert_eq!(vcpu.frame.pc, 0x4000_0104, "behind the SMC");
            assert!((0x9e_0000..).zip(vcpu.frame.x).skip(11).all(|(mark, x)| x == mark));
            *sink.lock().unwrap() = [0, 1, 2, 3].map(|index| vcpu.frame.x[index]);
        });
        assert_eq!(self.run(handle)[0], abi::exit::INTERRUPT);
        *results.lock().unwrap()
    }

    /// Is the number in a register that EL2 keeps for the VM, of a vCPU that is
    /// at home?
    pub(super) fn keeps(&self, handle: u64, secret: u64) -> bool {
        let handle = crate::vm::Handle::from_raw(handle);
        let text = self.hyp.with_vm(handle, |vm| Ok(std::format!("{:?}", vm.vcpus))).unwrap();
        text.contains(&std::format!("{secret}"))
    }

    pub(super) fn frame_state(&self, pfn: u64) -> u64 {
        self.hvc(id::FRAME_STATE, &[pfn]).unwrap()[0]
    }

    /// Every counter of the machine that says who owns how much.
    pub(super) fn ownership(&self) -> Vec<u64> {
        let first = crate::stats::MachineCounter::FramesHyp as u64;
        (first..first + 4).map(|index| self.hvc(id::STATS, &[0, index]).unwrap()[0]).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.hyp.machine().take_violations(), Vec::<std::string::String>::new());
        }
    }
}

pub(super) fn sync(esr: u64) -> Trap {
    Trap { kind: TrapKind::Sync, esr: esr | 1 << 25, far: 0, hpfar: 0 }
}

pub(super) fn interrupt() -> Trap {
    Trap { kind: TrapKind::Interrupt, esr: 0, far: 0, hpfar: 0 }
}

/// A stage-2 translation fault of a described load or store.
pub(super) fn abort(ipa: u64, size: u8, register: u8, write: bool) -> Trap {
    let esr = 0x24 << 26
        | 1 << 25
        | 1 << 24
        | u64::from(size.trailing_zeros()) << 22
        | u64::from(register) << 16
        | 1 << 15
        | u64::from(write) << 6
        | 0x07;
    Trap { kind: TrapKind::Sync, esr, far: ipa, hpfar: ipa >> 8 & !0xf }
}

pub(super) fn pfn(number: u64) -> Pfn {
    Pfn::new(number).unwrap()
}
