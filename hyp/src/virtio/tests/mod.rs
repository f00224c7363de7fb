//! The transport seen from outside: a guest that knows only PCI and virtio,
//! a host that knows only its calls, and what each must get or be refused.
//!
//! Register offsets are written as the specifications give them; nothing is
//! taken from the code under test but its interface.

mod bars;
mod bus_master;
mod device_memory;
mod hostile_device;
mod hostile_driver;
mod interrupts;
mod negotiation;
mod promise;
mod queues;

use super::*;
use crate::layout;
use crate::sim::walk::virtio::platform::*;
use std::vec::Vec;
