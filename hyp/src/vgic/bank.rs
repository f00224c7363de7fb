//! The state of 32 interrupts, one bit each: what a 32-bit distributor
//! register covers.
//!
//! An interrupt is pending because of its *line* (level-sensitive and the
//! device holds it high) or because of its *latch* (an edge, an SGI, an MSI,
//! a write to ISPENDR). Acknowledging it clears the latch, never the line
//! (IHI0069 4.3).
//!
//! While an interrupt is *listed*, in a list register of a vCPU that may be
//! running, the hardware changes its state behind our back. The bank then
//! keeps only what the list register does not have: the latch travels with it
//! (`lent`), so that a second edge is seen as one, and what software writes
//! meanwhile is remembered (`withdrawn`, `rewritten`) and wins over what
//! comes back.

use super::registers::Register;

/// Priority bits that are implemented: 32 levels (IHI0069 4.8).
pub(super) const PRIORITY_MASK: u8 = 0xf8;

/// State of an interrupt as a list register tells it (ICH_LR state field).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ListState {
    pub(super) pending: bool,
    pub(super) active: bool,
}

/// 32 interrupts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bank {
    /// In Group 1 (otherwise Group 0).
    group: u32,
    enabled: u32,
    /// Pending until acknowledged or cleared by software.
    latch: u32,
    /// Level of the device's output.
    line: u32,
    /// Edge-triggered (otherwise level-sensitive).
    edge: u32,
    /// Acknowledged and not yet deactivated.
    pub(super) active: u32,
    /// In a list register of some vCPU.
    pub(super) listed: u32,
    /// Listed, and its latch travels in the list register.
    lent: u32,
    /// Listed, and software has cleared its pending state since.
    withdrawn: u32,
    /// Listed, and software has written its active state since.
    rewritten: u32,
    priority: [u8; 32],
}

impl Bank {
    /// Reset state: disabled, idle, Group 1 (the reset of IGROUPR is ours to
    /// choose, and Group 1 is what a guest with one security state uses).
    /// `edge` names the edge-triggered ones.
    pub(super) const fn new(edge: u32) -> Self {
        Self {
            group: !0,
            enabled: 0,
            latch: 0,
            line: 0,
            edge,
            active: 0,
            listed: 0,
            lent: 0,
            withdrawn: 0,
            rewritten: 0,
            priority: [0; 32],
        }
    }

    fn pending(&self) -> u32 {
        self.latch | self.line & !self.edge
    }

    /// Nothing pending, active or listed: nothing to look at.
    pub(super) fn is_idle(&self) -> bool {
        self.latch | self.line | self.active | self.listed == 0
    }

    /// Enabled, and in a group the distributor forwards (`control` is
    /// GICD_CTLR: EnableGrp0 and EnableGrp1 are its bits 0 and 1).
    pub(super) fn forwarded(&self, control: u32) -> u32 {
        let group0 = if control & 1 != 0 { !self.group } else { 0 };
        let group1 = if control & 2 != 0 { self.group } else { 0 };
        self.enabled & (group0 | group1)
    }

    /// What a list register could carry as pending. A level-sensitive
    /// interrupt that is active is not offered: whether it is pending again is
    /// asked when it has been deactivated. That also keeps the timer, backed
    /// by a physical interrupt, from being pending and active at once, which
    /// a hardware list register cannot express (ICH_LR.State).
    pub(super) fn listable(&self, control: u32) -> u32 {
        self.pending() & self.forwarded(control) & !(self.active & !self.edge)
    }

    /// What would be signalled now, were it not for the CPU interface.
    pub(super) fn signalable(&self, control: u32) -> u32 {
        self.pending() & self.forwarded(control) & !self.active
    }

    /// Interrupts that the list registers no longer show as they should since
    /// the bank was `before`: their vCPU must come out.
    pub(super) fn stale_since(&self, before: &Bank, control: u32) -> u32 {
        let silenced = before.forwarded(control) & !self.forwarded(control);
        let fallen = before.line & !self.line & !self.edge;
        let relatched = self.latch & !before.latch;
        let withdrawn = self.withdrawn & !before.withdrawn;
        let rewritten = self.rewritten & !before.rewritten;
        let wrong = silenced | fallen | relatched | withdrawn | rewritten;
        // These also change which ones deserve a list register.
        let redefined = (before.group ^ self.group) | (before.edge ^ self.edge);
        let reordered = if before.priority == self.priority { 0 } else { !0 };
        self.listed & wrong | (self.listed | self.listable(control)) & (redefined | reordered)
    }

    /// Priority of interrupt `bit`.
    pub(super) fn priority(&self, bit: u32) -> u8 {
        self.priority.get(bit as usize).copied().unwrap_or(0)
    }

    /// Is interrupt `bit` in Group 1?
    pub(super) fn is_group1(&self, bit: u32) -> bool {
        self.group >> bit & 1 == 1
    }

    /// Is interrupt `bit` edge-triggered?
    pub(super) fn is_edge(&self, bit: u32) -> bool {
        self.edge >> bit & 1 == 1
    }

    /// Those of `bits` in Group 1.
    pub(super) fn group1(&self, bits: u32) -> u32 {
        bits & self.group
    }

    /// Are the devices' lines `bits` at `level` already?
    pub(super) fn has_line(&self, bits: u32, level: bool) -> bool {
        self.line & bits == if level { bits } else { 0 }
    }

    /// Makes `bits` pending until acknowledged or cleared.
    pub(super) fn latch(&mut self, bits: u32) {
        self.latch |= bits;
    }

    /// The devices' lines `bits` are now at `level`. A rising one of an
    /// edge-triggered interrupt is an edge.
    pub(super) fn set_line(&mut self, bits: u32, level: bool) {
        if level {
            self.latch |= bits & !self.line & self.edge;
            self.line |= bits;
        } else {
            self.line &= !bits;
        }
    }

    /// Deactivates `bits`.
    pub(super) fn deactivate(&mut self, bits: u32) {
        self.active &= !bits;
        self.rewritten |= bits & self.listed;
    }

    /// Puts interrupt `bit` into a list register; returns the state it has
    /// there: pending only if its vCPU would be sent it (`routed`).
    pub(super) fn list(&mut self, bit: u32, control: u32, routed: bool) -> ListState {
        let mask = 1 << bit;
        let pending = routed && self.listable(control) & mask != 0;
        if pending {
            self.lent |= self.latch & mask;
            self.latch &= !mask;
        }
        self.listed |= mask;
        ListState { pending, active: self.active & mask != 0 }
    }

    /// Takes the interrupts `mask` out of the list registers again, where
    /// those in `pending` and `active` still were.
    pub(super) fn unlist(&mut self, mask: u32, pending: u32, active: u32) {
        self.latch |= mask & pending & self.lent & !self.withdrawn;
        let authoritative = mask & !self.rewritten;
        self.active = self.active & !authoritative | active & authoritative;
        self.listed &= !mask;
        self.lent &= !mask;
        self.withdrawn &= !mask;
        self.rewritten &= !mask;
    }

    /// Reads a register of the bank.
    pub(super) fn read(&self, register: Register) -> u32 {
        match register {
            Register::Group => self.group,
            Register::SetEnable | Register::ClearEnable => self.enabled,
            Register::SetPending | Register::ClearPending => {
                self.pending() | self.lent & !self.withdrawn
            }
            Register::SetActive | Register::ClearActive => self.active,
            Register::Priority { first, count } => {
                let bytes = self.priority.iter().skip(first).take(count);
                bytes.rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
            }
            Register::Config { first } => {
                (0..16).fold(0, |word, i| word | (self.edge >> (first + i) & 1) << (2 * i + 1))
            }
        }
    }

    /// Writes a register of the bank. `fixed` names the interrupts whose
    /// trigger cannot be changed.
    pub(super) fn write(&mut self, register: Register, value: u32, fixed: u32) {
        match register {
            Register::Group => self.group = value,
            Register::SetEnable => self.enabled |= value,
            Register::ClearEnable => self.enabled &= !value,
            Register::SetPending => self.latch |= value,
            Register::ClearPending => {
                self.latch &= !value;
                self.withdrawn |= value & self.listed;
            }
            Register::SetActive => {
                self.active |= value;
                self.rewritten |= value & self.listed;
            }
            Register::ClearActive => self.deactivate(value),
            Register::Priority { first, count } => {
                let bytes = self.priority.iter_mut().skip(first).take(count);
                for (byte, new) in bytes.zip(value.to_le_bytes()) {
                    *byte = new & PRIORITY_MASK;
                }
            }
            Register::Config { first } => {
                let edge = (0..16).fold(0, |edge, i| edge | (value >> (2 * i + 1) & 1) << i);
                let mask = 0xffff << first & !fixed;
                self.edge = self.edge & !mask | edge << first & mask;
            }
        }
    }
}
