//! The card with a driver's buffers, and the station with another smoltcp as
//! the guest.

use std::string::String;
use std::vec::Vec;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::*;
use crate::queue::tests::{DATA, Driver};

const WRITE: u16 = 2;

/// An ARP request for 10.0.2.2 from 10.0.2.15, as it is on the wire.
fn arp_request() -> Vec<u8> {
    let mut frame = [[0xff; 6], GUEST_MAC].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(GUEST_MAC);
    frame.extend([10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    frame
}

fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let total: u32 = words.sum();
    !((total & 0xffff) + (total >> 16)) as u16
}

/// A ping with these data.
fn ping(data: &[u8]) -> Vec<u8> {
    let mut icmp = [&[8, 0, 0, 0, 0x12, 0x34, 0, 1], data].concat();
    let checksum = sum(&icmp);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    let length = (20 + icmp.len()) as u16;
    let mut ip = [&[0x45, 0][..], &length.to_be_bytes(), &[0, 0, 0, 0, 64, 1, 0, 0]].concat();
    ip.extend([10, 0, 2, 15, 10, 0, 2, 2]);
    let checksum = sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&[0x02, 0, 0, 0, 0, 0x02][..], &GUEST_MAC, &[0x08, 0], &ip, &icmp].concat()
}

/// A ping in fragments of `piece` bytes, a multiple of 8 (RFC 791, 3.2).
fn fragments(data: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let whole = ping(data);
    let (head, packet) = whole.split_at(34);
    let count = packet.chunks(piece).count();
    let fragment = |(index, part): (usize, &[u8])| {
        let mut ip = head[14..].to_vec();
        let more = if index + 1 < count { 0x2000 } else { 0 };
        ip[2..4].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
        ip[6..8].copy_from_slice(&(more | (index * piece / 8) as u16).to_be_bytes());
        ip[10..12].fill(0);
        let checksum = sum(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        [&head[..14], &ip, part].concat()
    };
    packet.chunks(piece).enumerate().map(fragment).collect()
}

/// What the station answers to frames.
fn answers(station: &mut Station, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    frames.iter().for_each(|frame| station.hear(frame.clone()));
    station.poll(1);
    core::iter::from_fn(|| station.take_frame()).collect()
}

#[test]
fn the_station_answers_arp_and_pings() {
    let mut station = Station::new(1);
    let reply = answers(&mut station, &[arp_request()]).pop().unwrap();
    assert_eq!((&reply[..6], &reply[12..14], reply[21]), (&GUEST_MAC[..], &[8, 6][..], 2));
    assert_eq!(reply[28..32], [10, 0, 2, 2]);
    let reply = answers(&mut station, &[ping(b"sixteen bytes...")]).pop().unwrap();
    assert_eq!((reply[34], &reply[42..58]), (0, &b"sixteen bytes..."[..]));
}

#[test]
fn a_ping_of_several_fragments_is_answered_in_fragments() {
    let mut station = Station::new(1);
    answers(&mut station, &[arp_request()]);
    let data: Vec<u8> = (0..8000u32).map(|n| ((n * 7) >> 2) as u8).collect();
    for length in [1473, 4000, 8000] {
        let reply = answers(&mut station, &fragments(&data[..length], 1480));
        assert_eq!(reply.len(), (8 + length).div_ceil(1480), "{length}");
        let heard: Vec<u8> = reply.iter().flat_map(|frame| frame[34..].iter().copied()).collect();
        assert_eq!((heard[0], &heard[8..8 + length]), (0, &data[..length]));
    }
}

/// RFC 791 leaves it to a host how large a datagram it takes beyond 576 bytes.
/// What is too large, never ends or ends beyond 64 KiB must cost no more than
/// the largest datagram, and nobody else's answers.
#[test]
fn fragments_without_end_or_beyond_the_largest_packet_are_forgotten() {
    let mut station = Station::new(1);
    answers(&mut station, &[arp_request()]);
    assert!(answers(&mut station, &fragments(&[1; 9000], 1480)).is_empty());
    let mut last = fragments(&[1; 60], 8).pop().unwrap();
    last[20..22].copy_from_slice(&0x1fff_u16.to_be_bytes());
    last[24..26].fill(0);
    let checksum = sum(&last[14..34]);
    last[24..26].copy_from_slice(&checksum.to_be_bytes());
    assert!(answers(&mut station, &[last]).is_empty());
    for round in 0..100 {
        let mut first = fragments(&[1; 2000], 1480).swap_remove(0);
        first[18..20].copy_from_slice(&(100 + round as u16).to_be_bytes());
        first[24..26].fill(0);
        let checksum = sum(&first[14..34]);
        first[24..26].copy_from_slice(&checksum.to_be_bytes());
        assert!(answers(&mut station, &[first]).is_empty());
    }
    assert_eq!(answers(&mut station, &[ping(b"still there")]).len(), 1);
}

#[test]
fn what_is_no_frame_is_not_answered() {
    let mut station = Station::new(1);
    let mut cut = ping(b"x");
    cut.truncate(20);
    let junk = [cut, std::vec![0xff; 14], std::vec![0; 1514]];
    assert!(answers(&mut station, &junk).is_empty());
}

#[test]
fn a_guest_that_floods_the_wire_costs_a_bounded_amount_of_memory() {
    let mut station = Station::new(1);
    (0..1000).for_each(|_| station.hear(arp_request()));
    (0..10).for_each(|_| station.poll(1));
    assert!(core::iter::from_fn(|| station.take_frame()).count() <= 64);
}

fn segment() -> Arc<Mutex<Segment>> {
    Arc::new(Mutex::new(Segment::new(Station::new(1))))
}

fn card(segment: &Arc<Mutex<Segment>>) -> Net {
    Net::new(Arc::clone(segment), || 1)
}

/// Frames that wait for a card.
fn frames(net: &Net) -> Vec<Vec<u8>> {
    core::iter::from_fn(|| net.segment.lock().take_frame(net.port)).collect()
}

#[test]
fn a_frame_reaches_the_guest_it_is_for_and_a_broadcast_all_others() {
    let segment = segment();
    let cards = [card(&segment), card(&segment), card(&segment)];
    assert_eq!(cards[2].mac(), [2, 0, 0, 0, 0, 0x17]);
    let to = |mac: [u8; 6]| [&mac[..], &GUEST_MAC, &[0x88, 0xb5], b"to whom it concerns"].concat();
    segment.lock().hear(0, to(cards[1].mac()));
    assert_eq!(cards.each_ref().map(|card| frames(card).len()), [0, 1, 0]);
    segment.lock().hear(0, to([0xff; 6]));
    assert_eq!(cards.each_ref().map(|card| frames(card).len()), [0, 1, 1]);
    // To oneself, to a port that is none, to nobody.
    for mac in [cards[0].mac(), [2, 0, 0, 0, 0, 0x18], [2, 0, 0, 0, 0, 9]] {
        segment.lock().hear(0, to(mac));
    }
    segment.lock().hear(0, Vec::new());
    assert_eq!(cards.each_ref().map(|card| frames(card).len()), [0, 0, 0]);
    // The station answers the one who asked.
    segment.lock().hear(0, arp_request());
    segment.lock().poll(1);
    assert_eq!(cards.each_ref().map(|card| frames(card).len()), [1, 1, 1]);
}

#[test]
fn a_guest_that_takes_no_frames_holds_up_nobody() {
    let segment = segment();
    let (sender, deaf, other) = (card(&segment), card(&segment), card(&segment));
    let broadcast = [&[0xff; 6][..], &sender.mac(), &[0x88, 0xb5]].concat();
    for _ in 0..1000 {
        segment.lock().hear(0, broadcast.clone());
        assert_eq!(frames(&other).len(), 1);
    }
    assert_eq!(frames(&deaf).len(), 64);
}

#[test]
fn frames_go_through_the_drivers_buffers_with_their_headers() {
    let mut net = card(&segment());
    let mut driver = Driver::new(8);
    let mut queue = driver.queue();
    let frame = arp_request();
    driver.memory.write(DATA + 12, &frame).unwrap();
    driver.describe(0, DATA, 12 + frame.len() as u32, 0, 0);
    driver.offer(0);
    let chain = queue.pop(&driver.memory).unwrap().unwrap();
    assert!(!net.look());
    net.transmit(&driver.memory, &chain);
    assert!(net.has_waiting());

    driver.describe(1, DATA + 0x1000, 2048, WRITE, 0);
    driver.offer(1);
    let chain = queue.pop(&driver.memory).unwrap().unwrap();
    let length = net.receive(&driver.memory, &chain) as usize;
    let mut bytes = std::vec![0; length];
    driver.memory.read(DATA + 0x1000, &mut bytes).unwrap();
    assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!((&bytes[12..18], bytes[33]), (&GUEST_MAC[..], 2));
    assert_eq!(net.traffic(), Traffic { sent: 1, received: 1, dropped: 0 });
}

#[test]
fn impossible_frames_and_impossible_buffers_are_dropped() {
    let mut net = card(&segment());
    let elsewhere = 0x4000_0000;
    let sent =
        [(DATA, 11, 0), (DATA, 12, 0), (DATA, 2000, 0), (DATA, 64, WRITE), (elsewhere, 64, 0)];
    for (dropped, (address, length, flags)) in (1..).zip(sent) {
        let mut driver = Driver::new(8);
        driver.describe(0, address, length, flags, 0);
        driver.offer(0);
        let chain = driver.queue().pop(&driver.memory).unwrap().unwrap();
        net.transmit(&driver.memory, &chain);
        assert_eq!(net.traffic(), Traffic { dropped, ..Traffic::default() }, "{length} bytes");
    }
    // No room, no buffer to write into, nowhere.
    for (address, length, flags) in [(DATA, 20, WRITE), (DATA, 2048, 0), (elsewhere, 2048, WRITE)] {
        net.segment.lock().hear(0, arp_request());
        assert!(net.look());
        let mut driver = Driver::new(8);
        driver.describe(0, address, length, flags, 0);
        driver.offer(0);
        let chain = driver.queue().pop(&driver.memory).unwrap().unwrap();
        assert_eq!(net.receive(&driver.memory, &chain), 0);
    }
    assert_eq!(net.traffic(), Traffic { dropped: 8, ..Traffic::default() });
}

/// The guest's end of the wire.
struct Guest<'a>(&'a mut Station);

struct Frame(Vec<u8>);
struct Send<'a>(&'a mut Station);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(&self.0)
    }
}

impl TxToken for Send<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = std::vec![0; length];
        let result = fill(&mut frame);
        self.0.hear(frame);
        result
    }
}

impl Device for Guest<'_> {
    type RxToken<'a>
        = Frame
    where
        Self: 'a;
    type TxToken<'a>
        = Send<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Send<'_>)> {
        let frame = self.0.take_frame()?;
        Some((Frame(frame), Send(self.0)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Send<'_>> {
        Some(Send(self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = LONGEST_FRAME;
        capabilities
    }
}

/// Connects to `port`, says `text`, and returns all that is said back.
fn talk(station: &mut Station, port: u16, text: &[u8], start: i64) -> Vec<u8> {
    let config = Config::new(EthernetAddress(GUEST_MAC).into());
    let mut interface = Interface::new(config, &mut Guest(station), Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(IpAddress::v4(10, 0, 2, 15), 24)).unwrap();
    });
    let mut sockets = SocketSet::new(Vec::new());
    let buffer = || SocketBuffer::new(std::vec![0; 4096]);
    let handle = sockets.add(Socket::new(buffer(), buffer()));
    let socket = sockets.get_mut::<Socket<'_>>(handle);
    socket.connect(interface.context(), (IpAddress::v4(10, 0, 2, 2), port), 49152).unwrap();
    let (mut said, mut heard) = (0, Vec::new());
    for time in start..start + 20_000 {
        interface.poll(Instant::from_millis(time), &mut Guest(station), &mut sockets);
        station.poll(time);
        let socket = sockets.get_mut::<Socket<'_>>(handle);
        if socket.can_send() && said < text.len() {
            said += socket.send_slice(&text[said..]).unwrap();
            if said == text.len() {
                socket.close();
            }
        }
        let mut piece = [0; 4096];
        let length = socket.recv_slice(&mut piece).unwrap_or(0);
        heard.extend_from_slice(&piece[..length]);
        if said == text.len() && !socket.is_active() {
            break;
        }
    }
    heard
}

#[test]
fn tcp_is_echoed_and_digested_again_and_again() {
    use sha2::{Digest, Sha256};
    let mut station = Station::new(7);
    let text: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(n) >> 3) as u8).collect();
    for round in 0..4 {
        let start = 1 + 100_000 * round;
        assert!(talk(&mut station, 7, &text, start) == text, "round {round}");
        let hex: String =
            Sha256::digest(&text).iter().map(|byte| std::format!("{byte:02x}")).collect();
        let heard = talk(&mut station, 9000, &text, start + 50_000);
        assert_eq!(String::from_utf8(heard).unwrap(), hex + "\n", "round {round}");
    }
}
