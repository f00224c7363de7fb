//! The station's TCP services: port 7 says back what it hears (RFC 862), port
//! 9000 hears everything to the end and then says the SHA-256 of it, in hex.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use sha2::{Digest, Sha256};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

const ECHO: u16 = 7;
const DIGEST: u16 = 9000;
/// Connections to each at a time.
const CONNECTIONS: usize = 8;
/// Bytes of each direction's buffer.
const BUFFER: usize = 16 * 1024;

/// What one connection is for.
enum Service {
    Echo,
    Digest(Sha256),
}

impl Service {
    fn port(&self) -> u16 {
        match self {
            Service::Echo => ECHO,
            Service::Digest(_) => DIGEST,
        }
    }
}

/// All of them.
pub(super) struct Services(Vec<(SocketHandle, Service)>);

impl Services {
    /// Puts their sockets into `sockets`.
    pub(super) fn open(sockets: &mut SocketSet<'static>) -> Self {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let kinds = (0..CONNECTIONS).flat_map(|_| [Service::Echo, Service::Digest(Sha256::new())]);
        let all = kinds.map(|kind| (sockets.add(Socket::new(buffer(), buffer())), kind)).collect();
        let mut services = Self(all);
        services.serve(sockets);
        services
    }

    /// Goes on with each connection; true if there is something to send.
    pub(super) fn serve(&mut self, sockets: &mut SocketSet<'static>) -> bool {
        let mut said = false;
        for (handle, service) in &mut self.0 {
            let socket = sockets.get_mut::<Socket<'static>>(*handle);
            if !socket.is_open() {
                if let Service::Digest(hash) = service {
                    *hash = Sha256::new();
                }
                // Refused only for port 0 or an open socket.
                let _ = socket.listen(service.port());
                continue;
            }
            said |= match service {
                Service::Echo => echo(socket),
                Service::Digest(hash) => digest(socket, hash),
            };
        }
        said
    }
}

/// The other side has sent all it will, and it was read.
fn heard_all(socket: &Socket<'_>) -> bool {
    socket.state() == State::CloseWait && !socket.can_recv()
}

fn echo(socket: &mut Socket<'_>) -> bool {
    let room = socket.send_capacity() - socket.send_queue();
    let mut heard = vec![0; room.min(socket.recv_queue())];
    // Neither is refused: both directions are open, or nothing was heard.
    let length = socket.recv_slice(&mut heard).unwrap_or(0);
    let said = socket.send_slice(heard.get(..length).unwrap_or_default()).unwrap_or(0);
    if heard_all(socket) {
        socket.close();
        return true;
    }
    said != 0
}

fn digest(socket: &mut Socket<'_>, hash: &mut Sha256) -> bool {
    while socket.can_recv() {
        let heard = socket.recv(|bytes| {
            hash.update(&*bytes);
            (bytes.len(), ())
        });
        if heard.is_err() {
            break;
        }
    }
    if !heard_all(socket) {
        return false;
    }
    let hex: String = hash.finalize_reset().iter().map(|byte| format!("{byte:02x}")).collect();
    // The buffer is empty: nothing was said before.
    let _ = socket.send_slice(format!("{hex}\n").as_bytes());
    socket.close();
    true
}
