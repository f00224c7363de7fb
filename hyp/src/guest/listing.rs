//! When a vCPU's interrupts are in its list registers, and when in the VM.
//!
//! To fill and to empty list registers costs more than most traps do, and most
//! traps concern no interrupt. So they stay filled from one entry to the next,
//! as if the guest had never left, until somebody must know what became of
//! them: a handler that looks at this vCPU's interrupts, a return to the host,
//! or another CPU that has had the VM's lock meanwhile.

use crate::error::Error;
use crate::layout::{PHYSICAL_TIMER_INTID, VIRTUAL_TIMER_INTID};
use crate::machine::Machine;
use crate::vcpu::timer::TimerState;
use crate::vgic::Vgic;
use crate::vm::Stage;

use super::Running;

/// A vCPU's timers at one moment.
pub(super) struct Timers {
    virtual_line: bool,
    /// The emulated one.
    pub(super) physical: TimerState,
}

impl Timers {
    /// Tells the interrupt controller. Whom it concerns is the calling vCPU,
    /// which is about to look at its interrupts.
    pub(super) fn raise(&self, vgic: &mut Vgic, vcpu: usize) {
        let _ = vgic.set_private_level(vcpu, VIRTUAL_TIMER_INTID, self.virtual_line);
        let _ = vgic.set_private_level(vcpu, PHYSICAL_TIMER_INTID, self.physical.line);
    }
}

impl<M: Machine> Running<'_, M> {
    /// Fills the list registers, unless they are filled and nobody has changed
    /// anything about the VM since.
    ///
    /// # Errors
    /// [`Error::BadState`] if the VM is dying.
    pub(super) fn prepare_entry(&mut self) -> Result<(), Error> {
        if self.listed_at == Some(self.hyp.changes(self.handle)) {
            return Ok(());
        }
        self.unlist();
        self.list()
    }

    /// How the timers of this vCPU stand.
    pub(super) fn timers(&self) -> Timers {
        let machine = &self.hyp.machine;
        let physical = self.vcpu.state.physical_timer(|| machine.counter());
        Timers { virtual_line: machine.timer_line(), physical }
    }

    fn list(&mut self) -> Result<(), Error> {
        let timers = self.timers();
        let machine = &self.hyp.machine;
        let alarm = timers.physical.deadline;
        if self.alarm != alarm {
            machine.set_alarm(alarm);
            self.alarm = alarm;
        }
        let vcpu = &mut *self.vcpu;
        // Read before, so that a change by another CPU before the lock is
        // taken makes a difference, at worst one too many.
        let before = self.hyp.changes(self.handle);
        self.hyp.with_vm(self.handle, |vm| {
            vm.expect_stage(Stage::Running)?;
            timers.raise(&mut vm.vgic, vcpu.index);
            vm.vgic.flush(vcpu.index, &mut vcpu.state.gic, machine.list_registers());
            Ok(())
        })?;
        machine.load_interrupts(&vcpu.state.gic);
        self.listed_at = Some(before.wrapping_add(1));
        Ok(())
    }

    /// After an interrupt: empties the list registers, and says whether it was
    /// the guest's own: one of its timers', or that of list registers that
    /// want attention.
    pub(super) fn unlist_after_interrupt(&mut self) -> bool {
        self.take_back(true)
    }

    /// Takes back what the guest did to its list registers. What it did not
    /// take may now be another vCPU's.
    pub(super) fn unlist(&mut self) {
        self.take_back(false);
    }

    fn take_back(&mut self, interrupted: bool) -> bool {
        if self.listed_at.take().is_none() {
            return false;
        }
        let machine = &self.hyp.machine;
        let (vcpu, here) = (&mut *self.vcpu, machine.cpu());
        machine.save_interrupts(&mut vcpu.state.gic);
        let gic = &vcpu.state.gic;
        let own = interrupted
            && (Vgic::needs_maintenance(gic)
                || machine.timer_line() && !Vgic::timer_in_list_register(gic)
                || self.alarm.is_some_and(|alarm| machine.counter() >= alarm));
        // The VM cannot go away while one of its vCPUs is out.
        let moved = self.hyp.with_vm(self.handle, |vm| {
            let targets = vm.vgic.sync(vcpu.index, &mut vcpu.state.gic);
            Ok(vm.vcpus.to_kick(targets, here))
        });
        self.kick = self.kick.union(moved.unwrap_or_default());
        own
    }
}
