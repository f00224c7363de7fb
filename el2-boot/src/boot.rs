//! From the first Rust instruction to the host's first instruction.
//!
//! The boot CPU runs here alone, on the early map, until [`finish`]. Whatever
//! is wrong with the machine or with what was loaded ends as a [`BootError`]:
//! one line on the UART, and the machine is switched off.
#![allow(unsafe_code)]

use crate::layout::{Layout, Sizes};
use crate::machine::{AFFINITY, Cpus};
use crate::mmu::{self, Stage1};
use crate::{
    console, cpu, dma, entropy, entry, fixmap, firmware, gic, heap, host, panic, percpu, smmu, stop, sysreg,
    trace,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::convert::Infallible;
use hyp::addr::{FRAME_SIZE, Pfn, PfnRange};
use hyp::entropy::Entropy;
use hyp::machine::MAX_CPUS;
use hyp::memory::{BootMemory, FrameEntry};
use hyp::trace::Event;
use hyp::{HostPlatform, Hypervisor};
use log::{debug, error, info, warn};
use platform::carve::{carve, place};
use platform::dma::Silenced;
use platform::command_line::{Word, oracle, verbosity, words};
use platform::gicv3::Lpis;
use platform::qemu_virt::QemuVirt;
use platform::reserved::{self, MAX_FIRMWARE};
use platform::{
    BootError, BootInfo, ByteRange, Conduit, MAX_BANKS, MAX_HOST_WINDOWS, Platform, host_tree,
    image, parse,
};

/// Everything [`finish`] needs; it lives on the heap because the stack is
/// exchanged in between.
struct Prepared {
    ram: ArrayVec<PfnRange, MAX_BANKS>,
    host_mmio: ArrayVec<PfnRange, MAX_HOST_WINDOWS>,
    own: [PfnRange; 2],
    firmware: ArrayVec<PfnRange, MAX_FIRMWARE>,
    pool: PfnRange,
    layout: Layout,
    smmu: Option<platform::smmu::Smmu>,
    redistributors: ArrayVec<u64, MAX_CPUS>,
    stage1: Stage1,
    kernel: u64,
    tree: u64,
    entropy: Option<Entropy>,
    #[cfg(feature = "oracle")]
    oracle: Option<platform::command_line::Oracle>,
}

/// Called by `entry.S` with the address of the device tree.
pub(crate) extern "C" fn boot_main(tree: u64) -> ! {
    console::initialise();
    match prepare(tree) {
        Ok(never) => match never {},
        Err(error) => {
            error!("{error}");
            firmware::stop()
        }
    }
}

fn prepare(tree: u64) -> Result<Infallible, BootError> {
    let firmware_tree = parse::validate(host::tree(tree)?)?;
    let info = parse::parse(firmware_tree)?;
    console::set_verbosity(verbosity(&info.command_line));
    console::use_uart(info.uart)?;
    let boot_cpu = info.boot_cpu(sysreg::mpidr_el1::read() & AFFINITY)?;
    report(&info);
    if info.conduit != Conduit::Smc {
        return Err(BootError::WrongConduit);
    }

    let silenced = dma::silence(firmware_tree)?;
    if silenced != Silenced::default() {
        info!(
            "the loader left {} PCI functions and {} virtio-mmio devices able to write to memory: \
             switched off",
            silenced.functions, silenced.transports
        );
    }
    let tree_size = firmware_tree.bytes().len();
    let tree_range = ByteRange::between(tree, tree + tree_size as u64);
    let firmware = reserved::firmware(&info, entry::image(), tree_range)?;
    for kept in &firmware {
        info!("firmware keeps {} KiB at {:#x}", kept.size() / 1024, kept.start());
    }
    let kernel_size = image::memory_size(&host::image_header(&info)?);
    let kernel_size = kernel_size.ok_or(BootError::NotAnImage)?;
    let placed = place(&info, entry::image(), tree_range, kernel_size, &firmware)?;
    for (range, name) in &placed {
        debug!("{name} at {:#x} to {:#x}", range.start(), range.end());
    }

    let redistributors = find_redistributors(&info)?;
    let ram = frames("memory bank", &info.memory)?;
    let smmu = smmu::find(firmware_tree, &info);
    let bridge = smmu.as_ref().map(|smmu| &smmu.bridge);
    let host_mmio = frames("device", &QemuVirt::host_windows(&info, &redistributors, bridge))?;
    let sizes = Sizes::new(&ram, &host_mmio, info.cpus.len(), smmu.is_some());
    let own = carve(&info, &placed, &firmware, sizes.total(), FRAME_SIZE, fixmap::BASE)?;
    let layout = Layout::new(own, &sizes);
    (own.start()..own.end()).step_by(1 << 30).chain([own.end() - 1]).for_each(entry::map_early);
    // SAFETY: carved from free RAM and mapped; nothing else uses it.
    unsafe { heap::initialise(layout.heap) }

    let mut kept = Vec::from([own, entry::image()]);
    kept.extend_from_slice(&firmware);
    let random = entropy::gather(&info);
    let host_seed = random.as_ref().map(|(_, seed)| &seed[..]);
    let host_tree = host_tree::write::<QemuVirt>(
        firmware_tree,
        &info,
        &kept,
        &redistributors,
        bridge,
        host_seed,
    )?;
    let stage1 = build_stage1(&info, &layout, &redistributors, smmu.as_ref())?;
    describe_cpus(&info, boot_cpu, &layout, &redistributors, stage1.root());
    info!(
        "EL2 keeps {} KiB: {} KiB image at {:#x}, {} KiB tables and heap at {:#x}",
        (entry::image().size() + own.size()) / 1024,
        entry::image().size() / 1024,
        entry::image().start(),
        own.size() / 1024,
        own.start(),
    );
    host::replace_tree(tree, tree_size, &host_tree, info.seed.as_ref())?;

    let prepared = Box::new(Prepared {
        own: [frame_range("bouncer's memory", own)?, frame_range("bouncer's image", entry::image())?],
        firmware: frames("reserved memory", &firmware)?,
        pool: frame_range("bouncer's tables", layout.host_tables)?,
        ram,
        host_mmio,
        layout,
        smmu,
        redistributors,
        kernel: info.kernel.range.start(),
        tree,
        stage1,
        entropy: random.map(|(generator, _)| generator),
        #[cfg(feature = "oracle")]
        oracle: oracle(&info.command_line),
    });
    let root = prepared.stage1.root();
    let [stack, _] = layout.stacks(0);
    if let Some(cpu) = percpu::of(0) {
        percpu::become_cpu(cpu);
    }
    // SAFETY: `root` maps everything EL2 uses from here on, where it is; the
    // stack is CPU 0's and fresh; the box is passed on to `finish`.
    unsafe { entry::switch_map(root, stack.end(), Box::into_raw(prepared) as u64, finish) }
}

/// On the final map and the CPU's own stack: builds the policy's state and
/// starts the host.
extern "C" fn finish(prepared: u64) -> ! {
    if entry::boot_stack_was_full() {
        panic::broken("the boot stack is too small");
    }
    // SAFETY: `prepare` passes the box it gave up.
    let prepared = unsafe { Box::from_raw(prepared as *mut Prepared) };
    #[cfg(feature = "oracle")]
    let asked = prepared.oracle;
    let Prepared {
        ram,
        host_mmio,
        own,
        firmware,
        pool,
        layout,
        smmu,
        redistributors,
        stage1,
        kernel,
        tree,
        entropy,
        ..
    } = *prepared;
    let mut rd_frames = [None; MAX_CPUS];
    for (slot, &frame) in rd_frames.iter_mut().zip(&redistributors) {
        *slot = PfnRange::new(frame / FRAME_SIZE, platform::gicv3::FRAME_SIZE / FRAME_SIZE).ok();
    }
    stop::prepare(layout, own, &ram);
    let count = layout.frame_table.size() as usize / size_of::<FrameEntry>();
    // SAFETY: this part of EL2's memory is mapped, nobody else uses it, and
    // every bit pattern is a FrameEntry (a transparent u32).
    let frames = unsafe {
        core::slice::from_raw_parts_mut(layout.frame_table.start() as *mut FrameEntry, count)
    };
    own.iter().for_each(|&range| trace::record(Event::Boot(range)));
    let dma_tables = layout.dma_tables;
    let memory = BootMemory {
        ram: &ram,
        hyp: &own,
        firmware: &firmware,
        host_mmio: &host_mmio,
        pool,
        // Empty without an SMMU, which is no range of frames.
        dma_tables: PfnRange::new(dma_tables.start() / FRAME_SIZE, dma_tables.size() / FRAME_SIZE)
            .ok(),
    };
    let machine = Cpus::new(stage1, redistributors.len());
    let platform = HostPlatform { redistributors: rd_frames };
    match Hypervisor::new(machine, frames, &memory, platform) {
        Ok(hypervisor) => {
            if let (Some(found), Some(root)) = (smmu, hypervisor.dma_root()) {
                start_smmu(hypervisor.machine(), &found, layout.smmu, root);
            }
            if let Some(entropy) = entropy {
                hypervisor.set_entropy(entropy);
            }
            #[cfg(feature = "oracle")]
            choose_oracle(&hypervisor, asked);
            cpu::HYPERVISOR.call_once(|| hypervisor)
        }
        Err(error) => {
            error!("the memory map contradicts itself ({error:?}): move the boot modules");
            firmware::stop()
        }
    };
    trace::announce();
    info!("starting the host at {kernel:#x}, device tree at {tree:#x}");
    console::hand_over();
    cpu::run_host(kernel, tree)
}

/// Puts the SMMU in force, or stops: the host's tree has PCIe already.
fn start_smmu(machine: &Cpus, found: &platform::smmu::Smmu, memory: ByteRange, root: Pfn) {
    match smmu::Smmu::start(found.registers, memory, found.bridge.last_bus, root) {
        Ok(smmu) => machine.set_smmu(smmu),
        Err(smmu::Silent(what)) => {
            error!("the SMMU does not come to {what}: start the machine without it");
            firmware::stop()
        }
    }
}

/// Tells the oracle how much to check; without a word it keeps its own mind.
#[cfg(feature = "oracle")]
fn choose_oracle(
    hypervisor: &Hypervisor<Cpus>,
    asked: Option<platform::command_line::Oracle>,
) {
    use hyp::oracle::watch::Mode;
    use platform::command_line::Oracle;
    match asked {
        None => {}
        Some(Oracle::Off) => hypervisor.set_oracle(Mode::Off),
        Some(Oracle::Changes) => hypervisor.set_oracle(Mode::Changes),
        Some(Oracle::Every) => hypervisor.set_oracle(Mode::Every),
    }
}

fn report(info: &BootInfo) {
    info!("version {} on {}", env!("CARGO_PKG_VERSION"), QemuVirt::NAME);
    let midr = sysreg::midr_el1::read();
    info!("{} CPUs, {}", info.cpus.len(), cpu::model(midr));
    if info.cpus_left_off > 0 {
        warn!("{} more CPUs stay off: bouncer drives {MAX_CPUS}", info.cpus_left_off);
    }
    for word in words(&info.command_line) {
        if let Word::Unknown(word) = word {
            warn!(
                "unknown word \"{word}\" on the command line: only log=error|warn|info|debug and \
                 oracle=off|changes|every"
            );
        }
    }
    match oracle(&info.command_line) {
        Some(_) if cfg!(not(feature = "oracle")) => {
            warn!("oracle= has no effect: this bouncer was built without its oracle");
        }
        Some(oracle) => info!("the oracle checks {oracle:?}"),
        None => {}
    }
    for bank in &info.memory {
        info!("{} MiB of memory at {:#x}", bank.size() >> 20, bank.start());
    }
}

/// Whole frames of the address space, or the message why not.
fn frame_range(what: &'static str, range: ByteRange) -> Result<PfnRange, BootError> {
    PfnRange::new(range.start() / FRAME_SIZE, range.size() / FRAME_SIZE)
        .ok()
        .filter(|_| range.start().is_multiple_of(FRAME_SIZE))
        .filter(|_| range.size().is_multiple_of(FRAME_SIZE))
        // Not the last 2 MiB: a frame there, donated as a table, would be mapped
        // where the fixmap is.
        .filter(|_| range.end() <= fixmap::BASE)
        .ok_or(BootError::BadProperty(what))
}

fn frames<const N: usize>(
    what: &'static str,
    ranges: &[ByteRange],
) -> Result<ArrayVec<PfnRange, N>, BootError> {
    let mut all = ArrayVec::new();
    for &range in ranges {
        all.try_push(frame_range(what, range)?).map_err(|_| BootError::TooMany(what))?;
    }
    Ok(all)
}

/// The RD frame of each CPU, in the order of the CPUs.
fn find_redistributors(info: &BootInfo) -> Result<ArrayVec<u64, MAX_CPUS>, BootError> {
    // The early map has devices in the first GiB only.
    let regions = || info.redistributors.iter().filter(|region| region.end() <= 1 << 30);
    let mut frames = ArrayVec::new();
    for &mpidr in &info.cpus {
        let frame = regions()
            .find_map(|&region| gic::find_redistributor(region, info.redistributor_stride, mpidr))
            .ok_or(BootError::Missing("redistributor for one of the CPUs"))?;
        match gic::disable_lpis(frame) {
            Lpis::WereOff => {}
            Lpis::SwitchedOff => info!("firmware had left LPIs on at {frame:#x}: off"),
            Lpis::StayOn => return Err(BootError::LpisStayOn),
        }
        frames.push(frame);
    }
    Ok(frames)
}

/// EL2's address space, complete but not yet in use.
fn build_stage1(
    info: &BootInfo,
    layout: &Layout,
    redistributors: &[u64],
    smmu: Option<&platform::smmu::Smmu>,
) -> Result<Stage1, BootError> {
    let out_of_tables = |_| BootError::TooLittleMemory(layout.own_tables.size());
    let stage1 = Stage1::new(layout.own_tables).map_err(out_of_tables)?;
    let map = |range, attributes| stage1.map_at_boot(range, attributes).map_err(out_of_tables);
    map(entry::text(), mmu::TEXT)?;
    map(entry::rodata(), mmu::RODATA)?;
    map(entry::data(), mmu::NORMAL_DATA)?;
    map(layout.data(), mmu::NORMAL_DATA)?;
    for index in 0..info.cpus.len() {
        for stack in layout.stacks(index) {
            map(stack, mmu::NORMAL_DATA)?;
        }
    }
    map(ByteRange::between(info.uart.start(), info.uart.start() + FRAME_SIZE), mmu::DEVICE_DATA)?;
    for &frame in redistributors {
        let frames = 2 * platform::gicv3::FRAME_SIZE;
        map(ByteRange::between(frame, frame + frames), mmu::DEVICE_DATA)?;
    }
    if let Some(smmu) = smmu {
        smmu::map(&stage1, smmu).map_err(out_of_tables)?;
    }
    // The tables must be in memory before a walker looks.
    sysreg::dsb_ish();
    Ok(stage1)
}

/// Fills in what each CPU needs to come up. CPU 0 is the one that runs now.
fn describe_cpus(
    info: &BootInfo,
    boot: usize,
    layout: &Layout,
    redistributors: &[u64],
    root: u64,
) {
    let order = core::iter::once(boot).chain((0..info.cpus.len()).filter(|&cpu| cpu != boot));
    for (index, in_tree) in order.enumerate() {
        let (Some(cpu), Some(&mpidr), Some(&redistributor)) =
            (percpu::of(index), info.cpus.get(in_tree), redistributors.get(in_tree))
        else {
            continue;
        };
        let [stack, panic_stack] = layout.stacks(index);
        cpu.index.set(index);
        cpu.mpidr.set(mpidr);
        cpu.redistributor.set(redistributor);
        cpu.panic_stack.set(panic_stack.end());
        cpu.start.root.set(root);
        cpu.start.stack.set(stack.end());
        cpu.start.per_cpu.set(&raw const *cpu as u64);
        host::clean(&raw const cpu.start as u64, size_of::<percpu::Start>());
    }
}
