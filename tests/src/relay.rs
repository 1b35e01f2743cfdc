//! A TCP relay between a client and a part: the network that is far, or fails.
//!
//! There is no netem on every machine, so latency is made here: each chunk is held
//! for the one-way delay, in order, without narrowing the bandwidth.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

const CHUNK: usize = 64 * 1024;
/// Chunks in flight each way: the product of bandwidth and delay that is kept.
const IN_FLIGHT: usize = 512;

/// What the relay does with what arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Mode {
    Pass = 0,
    Cut = 1,
    Swallow = 2,
}

/// A running relay; on drop its connections and its port are closed.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    one_way_micros: AtomicU64,
    mode: AtomicU8,
    stopping: AtomicBool,
    bytes: AtomicU64,
    turns: AtomicU64,
    /// Which side spoke last: 0 nobody yet, 1 the client, 2 the server.
    last: AtomicU8,
    connections: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// A relay to `target` on a free port of 127.0.0.1, without delay.
    pub fn to(target: SocketAddr) -> Result<Self> {
        Self::between((Ipv4Addr::LOCALHOST, 0).into(), target)
    }

    /// A relay from an address of this machine to `target`.
    pub fn between(listen: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener =
            TcpListener::bind(listen).map_err(Error::system(format!("listen on {listen}")))?;
        let address = listener
            .local_addr()
            .map_err(Error::system("read the relay's address"))?;
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, target, &accepting));
        Ok(Self { address, shared })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The relay's port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Holds every byte for `delay` each way: a round trip takes twice that.
    pub fn set_latency(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.shared.one_way_micros.store(micros, Ordering::SeqCst);
    }

    /// Closes every connection, and each new one at once, until [`Relay::restore`].
    pub fn cut(&self) {
        self.shared.mode.store(Mode::Cut as u8, Ordering::SeqCst);
        self.shared.close_all();
    }

    /// Swallows every byte, also of new connections, until [`Relay::restore`]: the
    /// peer that is frozen, or behind a firewall that drops. What was swallowed is
    /// lost, so a connection that was open does not recover.
    pub fn blackhole(&self) {
        self.shared
            .mode
            .store(Mode::Swallow as u8, Ordering::SeqCst);
    }

    /// Lets bytes pass again.
    pub fn restore(&self) {
        self.shared.mode.store(Mode::Pass as u8, Ordering::SeqCst);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes that passed so far, both ways together.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// How often the client spoke after the server had: with some latency set, the
    /// round trips that the exchange cost.
    pub fn round_trips(&self) -> u64 {
        self.shared.turns.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.close_all();
        // The accept blocks: one connection of our own wakes it.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::SeqCst) {
            1 => Mode::Cut,
            2 => Mode::Swallow,
            _ => Mode::Pass,
        }
    }

    fn close_all(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn keep(&self, stream: &TcpStream) {
        if let Ok(stream) = stream.try_clone() {
            self.open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(stream);
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        if shared.mode() == Mode::Cut {
            continue;
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let Ok(server) = TcpStream::connect(target) else {
                return;
            };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            shared.keep(&client);
            shared.keep(&server);
            // A cut may have come between the accept and the two lines above.
            if shared.mode() == Mode::Cut {
                shared.close_all();
            }
            carry(&client, &server, 1, &shared);
            carry(&server, &client, 2, &shared);
        });
    }
}

/// Carries one direction: one thread reads and stamps, one writes when it is due.
fn carry(from: &TcpStream, to: &TcpStream, side: u8, shared: &Arc<Shared>) {
    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
        return;
    };
    let (sender, receiver) = sync_channel(IN_FLIGHT);
    let shared = Arc::clone(shared);
    thread::spawn(move || read(from, side, &shared, &sender));
    thread::spawn(move || write(to, &receiver));
}

fn read(mut from: TcpStream, side: u8, shared: &Shared, sender: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if shared.mode() != Mode::Pass {
            continue;
        }
        shared.bytes.fetch_add(count as u64, Ordering::SeqCst);
        if shared.last.swap(side, Ordering::SeqCst) == 2 && side == 1 {
            shared.turns.fetch_add(1, Ordering::SeqCst);
        }
        let delay = Duration::from_micros(shared.one_way_micros.load(Ordering::SeqCst));
        if sender
            .send((Instant::now() + delay, buffer[..count].to_vec()))
            .is_err()
        {
            return;
        }
    }
}

fn write(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in receiver {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
