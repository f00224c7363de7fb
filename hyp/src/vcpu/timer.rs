//! A guest's EL1 physical timer, CNTP_*_EL0 (Arm ARM D12.2), emulated.
//!
//! The CPU's own belongs to the host, so a guest's accesses trap
//! (CNTHCTL_EL2.EL1PCEN is 0) and end here. Its counter traps, too
//! (EL1PCTEN is 0): a guest has *one* time, which starts at 0 when it is
//! finalised, and CNTPCT_EL0 shows it as CNTVCT_EL0 does. With the CPU's own
//! physical counter it would learn how long the machine has been up, and two
//! guests that they share one.
//!
//! Everything is a function of the counter: nothing happens here when the
//! timer fires. Who looks computes ISTATUS; who waits is told the deadline.

use super::state::VcpuState;

/// A register of the timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerRegister {
    /// CNTP_CTL_EL0.
    Control,
    /// CNTP_CVAL_EL0.
    CompareValue,
    /// CNTP_TVAL_EL0.
    TimerValue,
}

/// Bits of CNTP_CTL_EL0 (D24.10.16).
const ENABLE: u64 = 1 << 0;
const IMASK: u64 = 1 << 1;
const ISTATUS: u64 = 1 << 2;

/// The timer. All times are the guest's, CNTPCT_EL0 as it reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PhysicalTimer {
    /// ENABLE and IMASK.
    control: u64,
    /// CNTP_CVAL_EL0.
    compare: u64,
}

impl PhysicalTimer {
    /// Reads a register at `now`.
    pub fn read(&self, register: TimerRegister, now: u64) -> u64 {
        match register {
            TimerRegister::Control if self.condition(now) => self.control | ISTATUS,
            TimerRegister::Control => self.control,
            TimerRegister::CompareValue => self.compare,
            // 32 bits, the upper half is RES0.
            TimerRegister::TimerValue => u64::from(self.compare.wrapping_sub(now) as u32),
        }
    }

    /// Writes one.
    pub fn write(&mut self, register: TimerRegister, value: u64, now: u64) {
        match register {
            TimerRegister::Control => self.control = value & (ENABLE | IMASK),
            TimerRegister::CompareValue => self.compare = value,
            // Signed: a deadline may lie in the past.
            TimerRegister::TimerValue => {
                self.compare = now.wrapping_add_signed(i64::from(value as i32));
            }
        }
    }

    /// CNTP_CTL_EL0.ISTATUS. (While the timer is off it is UNKNOWN: zero.)
    fn condition(&self, now: u64) -> bool {
        self.control & ENABLE != 0 && now >= self.compare
    }

    /// Can it interrupt at all, now or later? Most guests never use it.
    pub fn is_armed(&self) -> bool {
        self.control & (ENABLE | IMASK) == ENABLE
    }

    /// Level of its output: ENABLE ∧ ¬IMASK ∧ ISTATUS.
    pub fn line(&self, now: u64) -> bool {
        self.is_armed() && self.condition(now)
    }

    /// When its output will rise; `None` if it is up, off or masked.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        (self.is_armed() && !self.condition(now)).then_some(self.compare)
    }
}

/// Where a vCPU's physical timer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimerState {
    /// Level of its output.
    pub line: bool,
    /// When it rises, as a value of the *machine's* CNTPCT_EL0.
    pub deadline: Option<u64>,
}

impl VcpuState {
    /// The guest's counter when the machine's is `counter`.
    pub fn guest_time(&self, counter: u64) -> u64 {
        counter.wrapping_sub(self.controls.cntvoff_el2)
    }

    /// Its physical timer when the machine's counter is what `counter` says;
    /// that is not asked for a guest that does not use it.
    pub fn physical_timer(&self, counter: impl FnOnce() -> u64) -> TimerState {
        if !self.timer.is_armed() {
            return TimerState::default();
        }
        let now = self.guest_time(counter());
        // Beyond the end of the machine's counter it never fires.
        let on_machine = |time: u64| time.saturating_add(self.controls.cntvoff_el2);
        TimerState {
            line: self.timer.line(now),
            deadline: self.timer.deadline(now).map(on_machine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TimerRegister::{CompareValue, Control, TimerValue};

    fn timer(control: u64, compare: u64) -> PhysicalTimer {
        PhysicalTimer { control, compare }
    }

    /// D12.2.4.1: the condition is met from the compare value on, unsigned.
    #[test]
    fn the_condition_is_met_from_the_compare_value_on() {
        for (compare, now, met) in
            [(100, 99, false), (100, 100, true), (0, 0, true), (u64::MAX, u64::MAX - 1, false)]
        {
            assert_eq!(timer(1, compare).read(Control, now), if met { 5 } else { 1 });
            assert_eq!(timer(1, compare).line(now), met);
            assert_eq!(timer(1, compare).deadline(now), (!met).then_some(compare));
            assert_eq!(timer(3, compare).read(Control, now), if met { 7 } else { 3 }, "masked");
            for silent in [0, 2, 3] {
                assert!(!timer(silent, compare).line(now));
                assert_eq!(timer(silent, compare).deadline(now), None);
            }
            assert_eq!(timer(0, compare).read(Control, now), 0, "off");
        }
    }

    /// CNTP_TVAL_EL0 (D24.10.18): 32 bits, signed when written.
    #[test]
    fn the_timer_value_is_a_signed_distance() {
        let mut timer = timer(1, 0);
        timer.write(TimerValue, 50, 1000);
        assert_eq!((timer.compare, timer.read(TimerValue, 1000)), (1050, 50));
        assert_eq!(timer.read(TimerValue, 1060), 0xffff_fff6, "ten ago");
        timer.write(TimerValue, 0xdead_0000_ffff_ffff, 1000);
        assert_eq!(timer.compare, 999, "the upper half does not count");
        timer.write(TimerValue, 0x7fff_ffff, 0);
        assert_eq!(timer.compare, 0x7fff_ffff);
        timer.write(TimerValue, 0x8000_0000, 0);
        assert_eq!(timer.compare, 0xffff_ffff_8000_0000);
    }

    #[test]
    fn only_enable_and_imask_can_be_written_and_the_compare_value_whole() {
        let mut timer = timer(0, 0);
        timer.write(Control, u64::MAX, 0);
        assert_eq!(timer.control, 3);
        timer.write(CompareValue, u64::MAX, 0);
        assert_eq!(timer.read(CompareValue, 5), u64::MAX);
    }

    #[test]
    fn the_machines_counter_is_ahead_by_the_offset_and_asked_only_if_needed() {
        let mut state = VcpuState::default();
        state.controls.cntvoff_el2 = 1000;
        assert_eq!(state.physical_timer(|| panic!("nobody asks")), TimerState::default());
        state.timer = timer(1, 50);
        assert_eq!(state.guest_time(1049), 49);
        let at = |counter| state.physical_timer(|| counter);
        assert_eq!(at(1049), TimerState { line: false, deadline: Some(1050) });
        assert_eq!(at(1050), TimerState { line: true, deadline: None });
        state.timer = timer(1, u64::MAX);
        assert_eq!(state.physical_timer(|| 1049).deadline, Some(u64::MAX));
    }
}
