//! A station on the guests' network that is no guest: it answers ARP and pings
//! (of several fragments, too), and has two TCP services. The protocols are smoltcp's.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};

use super::LONGEST_FRAME;
use super::services::Services;

/// The first guest's card. Locally administered, as the others.
pub const GUEST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x15];
/// The station's.
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
/// 10.0.2.2/24; a guest takes any other address of the network.
const ADDRESS: [u8; 4] = [10, 0, 2, 2];
const PREFIX: u8 = 24;
/// Most frames that wait in either direction; a full wire loses frames.
pub(super) const MOST_FRAMES: usize = 64;

/// The card at a port: the first guest's, and the next higher ones.
pub(super) fn guest_mac(port: usize) -> [u8; 6] {
    let [a, b, c, d, e, last] = GUEST_MAC;
    [a, b, c, d, e, last.wrapping_add(port as u8)]
}

/// Frames on their way.
#[derive(Default)]
struct Wire {
    to_station: VecDeque<Vec<u8>>,
    to_guest: VecDeque<Vec<u8>>,
}

/// The station.
pub struct Station {
    // On the heap: it holds a packet of 8 KiB while that goes out in fragments.
    interface: Box<Interface>,
    sockets: SocketSet<'static>,
    services: Services,
    wire: Wire,
}

impl Station {
    /// A station that has just been switched on. What must not be guessed
    /// from outside (ports, sequence numbers) depends on `seed`.
    pub fn new(seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(EthernetAddress(MAC).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        let [a, b, c, d] = ADDRESS;
        interface.update_ip_addrs(|addresses| {
            // There is room for one at least.
            let _ = addresses.push(IpCidr::new(smoltcp::wire::IpAddress::v4(a, b, c, d), PREFIX));
        });
        let mut sockets = SocketSet::new(vec![]);
        let services = Services::open(&mut sockets);
        Self { interface: Box::new(interface), sockets, services, wire }
    }

    /// A frame of the guest's arrives; [`Self::poll`] looks at it.
    pub fn hear(&mut self, frame: Vec<u8>) {
        if self.wire.to_station.len() < MOST_FRAMES {
            self.wire.to_station.push_back(frame);
        }
    }

    /// Answers what has arrived and does what is due at `milliseconds`.
    pub fn poll(&mut self, milliseconds: i64) {
        let now = Instant::from_millis(milliseconds);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        if self.services.serve(&mut self.sockets) {
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
        }
        self.send_fragments(now);
    }

    /// One poll sends one fragment of an answer that no frame holds; the next
    /// packet must not come before the last, or what is left is forgotten.
    fn send_fragments(&mut self, now: Instant) {
        loop {
            let before = self.wire.to_guest.len();
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            if self.wire.to_guest.len() == before {
                return;
            }
        }
    }

    /// Is there a frame for the guest?
    pub fn has_frame(&self) -> bool {
        !self.wire.to_guest.is_empty()
    }

    /// The oldest one.
    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        self.wire.to_guest.pop_front()
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        if self.to_guest.len() >= MOST_FRAMES {
            return None;
        }
        let frame = self.to_station.pop_front()?;
        Some((Received(frame), Sending(&mut self.to_guest)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        (self.to_guest.len() < MOST_FRAMES).then_some(Sending(&mut self.to_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = LONGEST_FRAME;
        capabilities
    }
}

/// A frame that has arrived.
struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(&self.0)
    }
}

/// The right to send one.
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}
