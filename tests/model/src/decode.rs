//! Bytes → events. Most of what comes out makes sense, the rest is garbage
//! with a preference for the values at which bounds checks go wrong.

use crate::event::{Event, FrameName, HostAction, HostCall, Instruction, IpaName, Step, VmName};
use crate::machine::{CPUS, VM_SLOTS};
use arbitrary::{Arbitrary, Result, Unstructured};
use hyp::abi::{self, guest, host, rsi};
use hyp::layout;
use hyp::psci::function as psci;

type Bytes<'a, 'b> = &'a mut Unstructured<'b>;

/// Page count × size, frame numbers and lengths where arithmetic wraps.
const EDGES: [u64; 14] = [
    0,
    1,
    511,
    512,
    513,
    0xfff,
    1 << 20,
    (1 << 27) - 1,
    1 << 27,
    1 << 39,
    1 << 52,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Guest addresses with something at them, or just beyond.
const PLACES: [u64; 12] = [
    0x0800_0000, // GICD
    0x0802_0040, // MSI frame
    0x080a_0000, // GICR
    0x080b_0080,
    0x080a_0000 + 8 * 0x2_0000, // after the last redistributor
    0x0900_0000,                // PL011
    0x0a00_0000,                // nothing
    0x1000_0000,                // 32-bit window
    0x3f00_0000,                // ECAM
    0x20_0000_0000,             // 64-bit window
    0x40_0000_0000,
    0x7f_ffff_f000,
];

fn edge(u: Bytes<'_, '_>) -> Result<u64> {
    if u.ratio(1, 4)? { u.arbitrary() } else { u.choose(&EDGES).copied() }
}

/// A small number, now and then anything.
fn small(u: Bytes<'_, '_>, most: u64) -> Result<u64> {
    if u.ratio(1, 24)? { edge(u) } else { u.int_in_range(0..=most) }
}

fn slot(u: Bytes<'_, '_>) -> Result<u8> {
    u.int_in_range(0..=VM_SLOTS as u8 - 1)
}

fn vm(u: Bytes<'_, '_>) -> Result<VmName> {
    Ok(if u.ratio(1, 32)? { VmName::Raw(edge(u)?) } else { VmName::Slot(slot(u)?) })
}

fn frame(u: Bytes<'_, '_>) -> Result<FrameName> {
    Ok(match u.int_in_range(0..=19u8)? {
        0..=10 => FrameName::Free(u.int_in_range(0..=7)?),
        11..=13 => FrameName::OwnedBy(slot(u)?, u.int_in_range(0..=15)?),
        14 | 15 => FrameName::LentTo(slot(u)?, u.int_in_range(0..=31)?),
        16 => FrameName::TableOf(slot(u)?, u.int_in_range(0..=15)?),
        17 => FrameName::Hyp(u.arbitrary()?),
        18 => FrameName::Raw(0x4_0000 + u.int_in_range(0..=1100u64)?),
        _ => FrameName::Raw(edge(u)?),
    })
}

/// A frame to get back: what a VM has rather than what is free.
fn taken(u: Bytes<'_, '_>) -> Result<FrameName> {
    Ok(match u.int_in_range(0..=9u8)? {
        0..=4 => FrameName::OwnedBy(slot(u)?, u.int_in_range(0..=15)?),
        5..=7 => FrameName::LentTo(slot(u)?, u.int_in_range(0..=31)?),
        _ => frame(u)?,
    })
}

fn ipa(u: Bytes<'_, '_>) -> Result<IpaName> {
    Ok(match u.int_in_range(0..=15u8)? {
        0..=6 => IpaName::Ram(u.int_in_range(0..=17)?, 0),
        7 => IpaName::Ram(u.arbitrary()?, u.arbitrary()?),
        8 | 9 => IpaName::Bounce(u.int_in_range(0..=1)?, u.int_in_range(0..=31)?, u.arbitrary()?),
        10 | 11 => IpaName::Registers(u.int_in_range(0..=1)?, u.int_in_range(0..=0x3fff)?),
        12 => IpaName::Config(u.int_in_range(0..=2)?, u.int_in_range(0..=0xff)?),
        13 => IpaName::Alias(u.int_in_range(0..=17)?, 0),
        14 => IpaName::Raw(u.choose(&PLACES)? + u.int_in_range(0..=0x1ffu64)? * 4),
        _ => IpaName::Raw(edge(u)?),
    })
}

fn page(u: Bytes<'_, '_>) -> Result<IpaName> {
    Ok(match u.int_in_range(0..=11u8)? {
        0..=9 => IpaName::Ram(u.int_in_range(0..=17)?, 0),
        10 => IpaName::Raw(0x0900_0000 + 0x1000 * u.int_in_range(0..=20u64)?),
        _ => ipa(u)?,
    })
}

fn call(u: Bytes<'_, '_>) -> Result<HostCall> {
    let gfn = |u: Bytes<'_, '_>| -> Result<u64> {
        if u.ratio(1, 16)? { edge(u) } else { Ok(0x4_0000 + u.int_in_range(0..=17u64)?) }
    };
    Ok(match u.int_in_range(0..=63u8)? {
        0..=7 => HostCall::VmCreate {
            pfn: frame(u)?,
            count: if u.ratio(1, 8)? { small(u, 20)? } else { u.int_in_range(8..=14)? },
            ram: if u.ratio(1, 16)? { edge(u)? } else { 16 },
            vcpus: if u.ratio(1, 16)? { edge(u)? } else { u.int_in_range(1..=3)? },
            flags: small(u, abi::CREATE_RSI | abi::CREATE_CONSOLE | abi::CREATE_SHARE_ZEROES)?,
        },
        8 | 9 => HostCall::VmTopup { vm: vm(u)?, pfn: frame(u)?, count: small(u, 4)? },
        10..=21 => HostCall::FrameDonate {
            vm: vm(u)?,
            pfn: frame(u)?,
            gfn: gfn(u)?,
            count: small(u, 5)?,
            flags: if u.ratio(1, 16)? { edge(u)? } else { u.int_in_range(0..=1)? },
        },
        22..=26 => HostCall::FrameShare {
            vm: vm(u)?,
            device: small(u, 1)?,
            page: if u.ratio(2, 3)? { 0 } else { small(u, 16)? },
            pfn: frame(u)?,
            count: if u.ratio(2, 3)? { 16 } else { small(u, 17)? },
        },
        27..=32 => HostCall::VmFinalise {
            vm: vm(u)?,
            entry: if u.ratio(1, 8)? { edge(u)? } else { 0x4000_0000 },
            argument: u.arbitrary()?,
        },
        33 => HostCall::VmMeasurement { vm: vm(u)?, part: small(u, 2)? },
        34..=36 => HostCall::VmStop { vm: vm(u)? },
        37..=42 => {
            let slot = slot(u)?;
            let (vm, pfn) = match u.int_in_range(0..=5u8)? {
                0 | 1 => (VmName::Slot(slot), FrameName::OwnedBy(slot, 0)),
                2 | 3 => (VmName::Slot(slot), FrameName::LentTo(slot, 0)),
                _ => (vm(u)?, taken(u)?),
            };
            HostCall::FrameReclaim { vm, pfn, count: small(u, 8)? }
        }
        43..=46 => HostCall::VmDestroy { vm: vm(u)? },
        47..=50 => HostCall::DeviceCreate {
            vm: vm(u)?,
            kind: small(u, 5)?,
            policy: small(u, 6)?,
            pages: if u.ratio(3, 4)? { 16 } else { small(u, 17)? },
            queues: small(u, 9)? | if u.ratio(1, 4)? { small(u, 257)? << 16 } else { 0 },
        },
        51 => HostCall::DeviceConfig {
            vm: vm(u)?,
            device: small(u, 1)?,
            offset: small(u, 70)?,
            value: u.arbitrary()?,
            bytes: small(u, 9)?,
        },
        52 => HostCall::DeviceState { vm: vm(u)?, device: small(u, 2)? },
        53 => HostCall::QueueInfo {
            vm: vm(u)?,
            device: small(u, 2)?,
            queue: small(u, 9)?,
            part: small(u, 3)?,
        },
        54 | 55 => HostCall::DeviceInterrupt {
            vm: vm(u)?,
            device: small(u, 2)?,
            cause: if u.ratio(1, 3)? { abi::CAUSE_CONFIG } else { small(u, 9)? },
        },
        56 => HostCall::DeviceFail { vm: vm(u)?, device: small(u, 2)? },
        57 | 58 => HostCall::EventNext,
        59 => {
            let vm = if u.ratio(1, 3)? { VmName::Raw(0) } else { vm(u)? };
            HostCall::Stats { vm, index: small(u, 20)? }
        }
        60 | 61 => HostCall::FrameState { pfn: taken(u)? },
        62 if u.ratio(1, 2)? => HostCall::Version,
        62 => HostCall::Features,
        63 if u.ratio(1, 2)? => HostCall::AbortStyle { style: small(u, 3)? },
        _ => HostCall::UartLine { vm: vm(u)?, level: small(u, 2)? },
    })
}

fn instruction(u: Bytes<'_, '_>) -> Result<Instruction> {
    let encoding = |u: Bytes<'_, '_>| -> Result<(u8, u8, u8, u8, u8)> {
        Ok(if u.ratio(1, 2)? {
            // The interrupt controller's: SGI1R, ASGI1R, SGI0R, DIR.
            (3, 0, 12, 11, *u.choose(&[5, 6, 7, 1])?)
        } else {
            let fields: [u8; 5] = u.arbitrary()?;
            (2 | fields[0] & 1, fields[1] & 7, fields[2] & 15, fields[3] & 15, fields[4] & 7)
        })
    };
    Ok(match u.int_in_range(0..=39u8)? {
        0..=9 => {
            let memory = [
                guest::MEM_SHARE,
                guest::MEM_SHARE,
                guest::MEM_UNSHARE,
                guest::MEM_UNSHARE_ALL,
                guest::MEM_RELINQUISH,
            ];
            let mmio = [guest::MMIO_GUARD_MAP, guest::MMIO_GUARD_UNMAP];
            let other = [
                guest::UID,
                guest::FEATURES,
                guest::EXTENSIONS,
                guest::HYP_MEMINFO,
                guest::MMIO_GUARD_INFO,
            ];
            let power = [
                psci::CPU_ON_64,
                psci::CPU_ON_32,
                psci::CPU_OFF,
                psci::AFFINITY_INFO_64,
                psci::CPU_SUSPEND_64,
                psci::SYSTEM_OFF,
                psci::SYSTEM_RESET,
                psci::PSCI_FEATURES,
                psci::PSCI_VERSION,
                psci::SMCCC_VERSION,
                psci::MIGRATE_INFO_TYPE,
            ];
            let function = match u.int_in_range(0..=15u8)? {
                0..=8 => *u.choose(&memory)?,
                9 | 10 => *u.choose(&mmio)?,
                11 => *u.choose(&other)?,
                12 => guest::MMIO_GUARD_ENROLL,
                13 | 14 => *u.choose(&power)?,
                _ => 0xc600_0000 | u.int_in_range(0..=0x120u32)?,
            };
            let dirty = if u.ratio(1, 32)? { u.arbitrary::<u64>()? << 32 } else { 0 };
            Instruction::Hvc {
                function: u64::from(function) | dirty,
                immediate: if u.ratio(1, 32)? { u.arbitrary()? } else { 0 },
                arguments: (page(u)?, small(u, 3)?, if u.ratio(1, 12)? { edge(u)? } else { 0 }),
            }
        }
        10 => {
            // CPU_ON as a kernel does it.
            let vcpu = IpaName::Raw(small(u, 3)?);
            let arguments = (vcpu, 0x4000_0000, u.arbitrary()?);
            Instruction::Hvc { function: psci::CPU_ON_64.into(), immediate: 0, arguments }
        }
        11..=22 => Instruction::Access {
            ipa: ipa(u)?,
            size: *u.choose(&[8, 4, 4, 2, 1])?,
            store: if u.arbitrary()? { Some(u.arbitrary()?) } else { None },
            described: !u.ratio(1, 16)?,
        },
        // The driver puts the bounce BAR and the register BAR in place.
        23 | 24 => {
            let (register, value) =
                *u.choose(&[(4, 6), (4, 6), (4, 0), (0x10, 0), (0x1c, 0x20), (0x1c, 0x21)])?;
            let device = u.int_in_range(0..=1u8)?;
            let value = if register == 0x10 {
                0x1000_0000 + u64::from(device) * 0x1_0000
            } else {
                value + if register == 0x1c { 2 * u64::from(device) } else { 0 }
            };
            Instruction::Access {
                ipa: IpaName::Config(device + 1, register),
                size: 4,
                store: Some(value),
                described: true,
            }
        }
        25 | 26 => Instruction::SystemRegister {
            encoding: encoding(u)?,
            write: if u.arbitrary()? { Some(u.arbitrary()?) } else { None },
        },
        27 => Instruction::Wait,
        28 => Instruction::Interrupt,
        29 => tables(u)?,
        30 => Instruction::Smc(unmeasured(u.arbitrary()?).into()),
        31..=38 => realm(u)?,
        _ => Instruction::Syndrome(u.arbitrary()?),
    })
}

/// A call about a device's I/O table.
fn tables(u: Bytes<'_, '_>) -> Result<Instruction> {
    let function = *u.choose(&[
        guest::IOTABLE_SET,
        guest::IOTABLE_SET,
        guest::REFRESH,
        guest::REFRESH,
        guest::IOTABLE_INFO,
    ])?;
    let page = u.int_in_range(0..=17u64)? * 0x1000;
    let place = match (u.int_in_range(0..=9u8)?, function) {
        (0, _) => edge(u)?,
        (1, _) => 0,
        (_, guest::REFRESH) => layout::APERTURE + page,
        _ => layout::RAM + page,
    };
    let pages = if u.ratio(1, 4)? { 1 << 18 } else { small(u, 3)? };
    let arguments = (IpaName::Raw(small(u, 1)?), place, pages);
    Ok(Instruction::Hvc { function: function.into(), immediate: 0, arguments })
}

/// Not a call about measurements: their values are not the model's to know.
fn unmeasured(function: u32) -> u32 {
    match function {
        rsi::MEASUREMENT_READ | rsi::MEASUREMENT_EXTEND => rsi::FEATURES,
        other => other,
    }
}

/// A call of a realm, whoever makes it.
fn realm(u: Bytes<'_, '_>) -> Result<Instruction> {
    let function = match u.int_in_range(0..=15u8)? {
        0..=8 => rsi::IPA_STATE_SET,
        9 | 10 => rsi::IPA_STATE_GET,
        11 => rsi::REALM_CONFIG,
        12 => rsi::VERSION,
        13 => psci::CPU_ON_64,
        _ => unmeasured(rsi::VERSION + u.int_in_range(0..=10u32)?),
    };
    let dirty = if u.ratio(1, 32)? { u.arbitrary::<u64>()? << 32 } else { 0 };
    Ok(Instruction::Realm {
        function: u64::from(function) | dirty,
        base: page(u)?,
        pages: small(u, 4)?,
        state: (small(u, 1)?, if u.ratio(1, 12)? { edge(u)? } else { 0 }),
    })
}

fn action(u: Bytes<'_, '_>, depth: u8) -> Result<HostAction> {
    Ok(match u.int_in_range(0..=31u8)? {
        0..=9 if depth < 2 => {
            let mut steps = Vec::new();
            for _ in 0..u.int_in_range(0..=6u8)? {
                steps.push(if u.ratio(1, 5)? {
                    Step::Meanwhile(cpu(u)?, action(u, depth + 1)?)
                } else {
                    Step::Guest(instruction(u)?)
                });
            }
            let vcpu = if u.ratio(2, 3)? { 0 } else { small(u, 3)? };
            HostAction::Run { vm: vm(u)?, vcpu, reply: u.arbitrary()?, steps }
        }
        0..=24 => HostAction::Call(call(u)?),
        25 => {
            let function = u64::from(host::VERSION) + u.int_in_range(0..=0x20u64)?;
            // VCPU_RUN is an action of its own.
            let run = function == u64::from(host::VCPU_RUN);
            let function = match u.int_in_range(0..=3u8)? {
                0 => u.arbitrary::<u32>()?.into(),
                1 => function | u.arbitrary::<u64>()? << 32,
                _ if run => u64::from(host::VERSION),
                _ => function,
            };
            let immediate = if u.ratio(1, 2)? { 0 } else { u.arbitrary()? };
            HostAction::Hvc(function, immediate, [edge(u)?, edge(u)?, edge(u)?, edge(u)?, edge(u)?])
        }
        26 | 27 => {
            let function = match u.int_in_range(0..=3u8)? {
                0 => u.arbitrary()?,
                // The machine ends: rarely, or little else would be seen.
                1 if u.ratio(1, 8)? => *u.choose(&[psci::SYSTEM_OFF, psci::SYSTEM_RESET])?,
                1 => psci::CPU_ON_64,
                _ => 0x8400_0000 + u.int_in_range(0..=7u32)?,
            };
            let entry = if u.ratio(1, 2)? { 0x4000_0000 } else { edge(u)? };
            let immediate = if u.ratio(1, 16)? { 1 } else { 0 };
            HostAction::Smc(function.into(), immediate, [small(u, 5)?, entry, edge(u)?])
        }
        28..=30 => HostAction::Access(taken(u)?, u.int_in_range(0..=511)?, u.arbitrary()?),
        _ => {
            let [op0, op1, crn, crm, op2]: [u8; 5] = u.arbitrary()?;
            let fields = (2 | op0 & 1, op1 & 7, crn & 15, crm & 15, op2 & 7);
            HostAction::SystemRegister(
                fields.0,
                fields.1,
                fields.2,
                fields.3,
                fields.4,
                u.arbitrary()?,
            )
        }
    })
}

fn cpu(u: Bytes<'_, '_>) -> Result<u8> {
    u.int_in_range(0..=CPUS as u8 - 1)
}

impl<'a> Arbitrary<'a> for Event {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=63u8)? {
            0 => Event::AllocationFails(true),
            1 | 2 => Event::AllocationFails(false),
            3 => Event::Timer(u.arbitrary()?),
            4 => Event::HeapFails(u.int_in_range(0..=3)?),
            _ => Event::Host(cpu(u)?, action(u, 0)?),
        })
    }
}

/// How most hosts begin: a VM with a device, some memory, and a vCPU that can
/// run. What is missing or too much is what the sequence is about.
pub(crate) fn prologue(slot: u8, device: bool, realm: bool) -> Vec<Event> {
    let vm = VmName::Slot(slot);
    let free = FrameName::Free(0);
    let flags = if realm { abi::CREATE_RSI } else { 0 };
    let create = HostCall::VmCreate { pfn: free, count: 12, ram: 16, vcpus: 2, flags };
    let mut calls = vec![create];
    if device {
        let (kind, policy) = (2, abi::POLICY_BOUNCE_BAR);
        calls.push(HostCall::DeviceCreate { vm, kind, policy, pages: 16, queues: 1 });
        calls.push(HostCall::FrameShare { vm, device: 0, page: 0, pfn: free, count: 16 });
    }
    calls.push(HostCall::FrameDonate { vm, pfn: free, gfn: 0x4_0000, count: 4, flags: 1 });
    calls.push(HostCall::VmFinalise { vm, entry: 0x4000_0000, argument: 0 });
    calls.into_iter().map(|call| Event::Host(0, HostAction::Call(call))).collect()
}
