//! A booted bouncer that serves one input after the other. It is booted once;
//! each input gets a fresh VM, and memory must be the host's again afterwards.

use hyp::abi::{self, host as id};
use hyp::addr::{FRAME_SHIFT, PfnRange};
use hyp::layout;
use hyp::machine::MAX_CPUS;
use hyp::sim::{Layout, SimMachine};
use hyp::trap::{Trap, TrapKind};
use hyp::vcpu::state::Frame;
use hyp::{HostPlatform, Hypervisor};
use std::cell::RefCell;
use std::sync::{Arc, Mutex};

/// Where the machine's redistributor is, as its host addresses it.
pub(super) const RD_BASE: u64 = 0x080c_0000;
/// Frames of the VM: page tables, then RAM.
const MEMCACHE: u64 = 8;
const RAM_FRAMES: u64 = 2;
/// Virtio type of an entropy source.
const ENTROPY: u64 = 4;

thread_local! {
    pub(super) static RIG: RefCell<Rig> = RefCell::new(Rig::new());
}

pub(super) struct Rig {
    pub(super) hyp: Hypervisor<SimMachine>,
    first: u64,
    host_frames: u64,
    seen: Arc<Mutex<Option<Frame>>>,
}

pub(super) struct Vm(u64);

impl Rig {
    fn new() -> Self {
        let layout = Layout::new(4);
        let mut redistributors = [const { None }; MAX_CPUS];
        redistributors[0] = Some(PfnRange::new(RD_BASE >> FRAME_SHIFT, 16).unwrap());
        let (machine, platform) = (layout.machine(), HostPlatform { redistributors });
        let hyp = Hypervisor::new(machine, layout.frame_table(), &layout.boot(), platform).unwrap();
        hyp.machine().attach(hyp.host_regime());
        hyp.machine().attach_dma(hyp.dma_root());
        let first = layout.ram[0].start().number();
        let mut rig = Self { hyp, first, host_frames: 0, seen: Arc::default() };
        rig.host_frames = rig.frames_of_host();
        rig
    }

    pub(super) fn hvc(&self, function: u32, arguments: &[u64]) -> Result<[u64; 3], i64> {
        let mut frame = Frame::default();
        frame.x[0] = u64::from(function);
        frame.x[1..=arguments.len()].copy_from_slice(arguments);
        let trap = Trap { kind: TrapKind::Sync, esr: 0x16 << 26 | 1 << 25, far: 0, hpfar: 0 };
        self.hyp.handle_host_trap(&mut frame, trap);
        match frame.x[0] {
            0 => Ok([frame.x[1], frame.x[2], frame.x[3]]),
            error => Err(error as i64),
        }
    }

    fn frames_of_host(&self) -> u64 {
        let index = hyp::stats::MachineCounter::FramesHost as u64;
        self.hvc(id::STATS, &[0, index]).unwrap()[0]
    }

    /// Nothing is left half done.
    pub(super) fn settle(&self) {
        let broken = self.hyp.machine().take_violations();
        assert!(broken.is_empty(), "rules broken:\n{}", broken.join("\n"));
    }

    /// A VM with one vCPU and a device, its console granted to the host.
    pub(super) fn create_vm(&mut self) -> Vm {
        let [handle, ..] = self.hvc(id::VM_CREATE, &[self.first, MEMCACHE, 64, 1]).unwrap();
        let ram = self.first + MEMCACHE;
        let gfn = layout::RAM >> FRAME_SHIFT;
        let donated = self.hvc(id::FRAME_DONATE, &[handle, ram, gfn, RAM_FRAMES, 0]);
        assert_eq!(donated, Ok([RAM_FRAMES, 0, 0]));
        let device = [handle, ENTROPY, abi::POLICY_SHARED_PAGES, 0, 1];
        self.hvc(id::DEVICE_CREATE, &device).unwrap();
        self.hvc(id::VM_FINALISE, &[handle, layout::RAM, 0]).unwrap();
        let vm = Vm(handle);
        let mut grant = Frame::default();
        grant.x[..2].copy_from_slice(&[u64::from(abi::guest::MMIO_GUARD_MAP), layout::UART]);
        self.plan(grant, Trap { kind: TrapKind::Sync, esr: 0x16 << 26, far: 0, hpfar: 0 });
        self.run(&vm, 0).unwrap();
        assert_eq!(self.seen().map(|frame| frame.x[0]), Some(0), "the console is granted");
        vm
    }

    /// The VM's frames are the host's again.
    pub(super) fn destroy_vm(&mut self, vm: &Vm) {
        let handle = vm.0;
        // The guest may not have come to its next instruction.
        self.hyp.machine().world().clear_script(0);
        self.hvc(id::VM_STOP, &[handle]).unwrap();
        for frame in 0..RAM_FRAMES {
            // Those the guest has relinquished are the host's already.
            let _ = self.hvc(id::FRAME_RECLAIM, &[handle, self.first + MEMCACHE + frame, 1]);
        }
        while self.hvc(id::VM_DESTROY, &[handle]).unwrap()[0] > 0 {}
        self.settle();
        assert_eq!(self.frames_of_host(), self.host_frames, "a frame did not come back");
        let mut world = self.hyp.machine().world();
        world.device_log.clear();
        world.firmware_log.clear();
        world.started.clear();
        world.stopped.clear();
        world.power.clear();
        drop(world);
        while self.hvc(id::EVENT_NEXT, &[]).is_ok() {}
    }

    /// The guest's next instruction traps with these registers; the one after
    /// it looks at them.
    pub(super) fn plan(&mut self, registers: Frame, trap: Trap) {
        *self.seen.lock().unwrap() = None;
        let seen = self.seen.clone();
        let mut world = self.hyp.machine().world();
        world.script(0, move |vcpu| {
            vcpu.frame = registers;
            trap
        });
        world.script(0, move |vcpu| {
            *seen.lock().unwrap() = Some(vcpu.frame.clone());
            Trap { kind: TrapKind::Interrupt, esr: 0, far: 0, hpfar: 0 }
        });
    }

    /// What the guest's next instruction saw, once it has come to it.
    pub(super) fn seen(&mut self) -> Option<Frame> {
        self.seen.lock().unwrap().take()
    }

    pub(super) fn run(&self, vm: &Vm, reply: u64) -> Result<[u64; 3], i64> {
        self.hvc(id::VCPU_RUN, &[vm.0, 0, reply])
    }
}
