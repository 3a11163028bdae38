//! A TCP proxy that misbehaves as told: refuses, freezes, delays, or cuts a write right before its answer.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer = 0,
    ToClient = 1,
}

/// Listens until the end of the process.
pub struct Proxy {
    pub port: u16,
    control: Arc<Control>,
}

#[derive(Default)]
struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    dead: bool,
    frozen: [bool; 2],
    delay: [Duration; 2],
    open: Vec<TcpStream>,
    /// Cuts that are still to be made, and how many were made before and after the server's answer.
    cuts_left: u32,
    /// The next write may pass: it repeats the one that was cut.
    spared: bool,
    cut: [u32; 2],
    /// Pieces of bytes that came from the server.
    answers: u64,
    /// From the next write on nothing more goes to the server.
    hold_write: bool,
    held: bool,
}

impl Proxy {
    /// A proxy before `server`, `host:port`.
    pub fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (control, server) = (Arc::<Control>::default(), server.to_owned());
        let shared = control.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.connect(client, &server);
            }
        });
        Self { port, control }
    }

    /// Cuts all connections; further ones are closed at once.
    pub fn kill(&self) {
        self.control.change(|state| {
            state.dead = true;
            state.open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        });
    }

    /// Lets connections through again.
    pub fn revive(&self) {
        self.control.change(|state| state.dead = false);
    }

    /// Holds all bytes of these ways, or lets them go on.
    pub fn freeze(&self, ways: &[Way], frozen: bool) {
        self.control.change(|state| ways.iter().for_each(|way| state.frozen[*way as usize] = frozen));
    }

    /// Holds every piece of bytes for a while.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.control.change(|state| state.delay[way as usize] = delay);
    }

    /// Cuts the connections of so many of the next writes, every second one, in turn right after the call was sent, and when its answer arrives.
    pub fn cut_writes(&self, count: u32) {
        self.control.change(|state| state.cuts_left = count);
    }

    /// Cuts that were made before the answer, and after it.
    pub fn cuts(&self) -> [u32; 2] {
        self.control.state.lock().unwrap().cut
    }

    /// Holds the next write before it reaches the server, and everything of that way behind it. Waits until there is one.
    pub fn hold_next_write(&self) {
        self.control.change(|state| state.hold_write = true);
        let state = self.control.state.lock().unwrap();
        let (_state, timeout) = self
            .control
            .changed
            .wait_timeout_while(state, Duration::from_secs(60), |state| !state.held)
            .unwrap();
        assert!(!timeout.timed_out(), "nothing was written");
    }

    /// Lets a held write go on, and waits until the server has answered. The client must be frozen, so that nothing else is answered.
    pub fn release_write(&self) {
        let mut before = 0;
        self.control.change(|state| {
            before = state.answers;
            (state.hold_write, state.held) = (false, false);
        });
        let state = self.control.state.lock().unwrap();
        let waits = |state: &mut State| state.answers == before;
        let (_state, timeout) =
            self.control.changed.wait_timeout_while(state, Duration::from_secs(60), waits).unwrap();
        assert!(!timeout.timed_out(), "the write was not answered");
    }
}

impl Control {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn connect(self: &Arc<Self>, client: TcpStream, server: &str) {
        let mut state = self.state.lock().unwrap();
        let Some(server) = TcpStream::connect(server).ok().filter(|_| !state.dead) else { return };
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            state.open.push(stream.try_clone().unwrap());
        }
        drop(state);
        // Set by one way, obeyed by the other: the next answer is not handed over.
        let swallow = Arc::new(Mutex::new(false));
        let (to_server, to_client) = (self.clone(), self.clone());
        let (from, to, flag) = (client.try_clone().unwrap(), server.try_clone().unwrap(), swallow.clone());
        std::thread::spawn(move || to_server.pump(Way::ToServer, from, to, &flag));
        std::thread::spawn(move || to_client.pump(Way::ToClient, server, client, &swallow));
    }

    fn pump(&self, way: Way, mut from: TcpStream, mut to: TcpStream, swallow: &Mutex<bool>) {
        let (mut bytes, mut calls) = (vec![0; 64 * 1024], Calls::default());
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let bytes = &bytes[..count];
            let write = way == Way::ToServer && calls.ends_write(bytes);
            self.wait(way, write);
            if way == Way::ToClient && *swallow.lock().unwrap() {
                self.change(|state| state.cut[1] += 1);
                break;
            }
            let cut = write && self.cut_due(swallow);
            if to.write_all(bytes).is_err() || cut {
                break;
            }
        }
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
    }

    /// Until this piece may go on.
    fn wait(&self, way: Way, write: bool) {
        let mut state = self.state.lock().unwrap();
        state.held |= write && state.hold_write;
        state.answers += u64::from(way == Way::ToClient);
        self.changed.notify_all();
        let holds = |state: &mut State| {
            state.frozen[way as usize] || (way == Way::ToServer && write && state.hold_write)
        };
        let delay = self.changed.wait_while(state, holds).unwrap().delay[way as usize];
        std::thread::sleep(delay);
    }

    /// Whether the connection is to be cut now that the write was sent; every second time only once the server has answered.
    fn cut_due(&self, swallow: &Mutex<bool>) -> bool {
        let mut state = self.state.lock().unwrap();
        state.spared = !state.spared && state.cuts_left > 0;
        if !state.spared {
            return false;
        }
        state.cuts_left -= 1;
        if state.cuts_left % 2 == 1 {
            *swallow.lock().unwrap() = true;
            return false;
        }
        state.cut[0] += 1;
        true
    }
}

/// Understands as much of what a PostgreSQL client says as is needed to find the calls that write a commit unit.
#[derive(Default)]
struct Calls {
    greeted: bool,
    /// The message so far; long ones are kept only at their start.
    head: Vec<u8>,
    /// Bytes of it that are still to come.
    rest: usize,
    /// Prepared statements that write.
    writing: HashSet<Vec<u8>>,
    bound: bool,
    executed: bool,
}

/// Enough for a statement's name and the beginning of its text.
const HEAD_BYTES: usize = 200;

impl Calls {
    /// Whether a write has been sent as a whole with these bytes.
    fn ends_write(&mut self, bytes: &[u8]) -> bool {
        let mut ended = false;
        for byte in bytes {
            if self.head.len() < HEAD_BYTES {
                self.head.push(*byte);
            }
            let prefix = if self.greeted { 5 } else { 4 };
            self.rest = match self.head.len() {
                n if n < prefix => continue,
                n if n == prefix && self.rest == 0 => {
                    let length: [u8; 4] = self.head[prefix - 4..prefix].try_into().unwrap();
                    u32::from_be_bytes(length) as usize - 4
                }
                _ => self.rest - 1,
            };
            if self.rest == 0 {
                ended |= self.message();
                self.head.clear();
            }
        }
        ended
    }

    fn message(&mut self) -> bool {
        if !self.greeted {
            // A question for TLS comes first; the greeting names a protocol.
            self.greeted = self.head[4..8] == [0, 3, 0, 0];
            return false;
        }
        let mut texts = self.head[5..].split(|byte| *byte == 0).map(<[u8]>::to_vec);
        let (first, second) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        match self.head[0] {
            b'P' if second.windows(11).any(|w| w == b"write_batch") => drop(self.writing.insert(first)),
            b'B' => self.bound = self.writing.contains(&second),
            b'E' => self.executed = self.bound,
            b'S' => return std::mem::take(&mut self.executed),
            _ => {}
        }
        false
    }
}

#[test]
fn a_write_is_found_in_any_cut_of_the_stream() {
    let message = |kind: &[u8], body: &[u8]| [kind, &(body.len() as u32 + 4).to_be_bytes(), body].concat();
    let stream = [
        message(b"", &80_877_103_u32.to_be_bytes()),
        message(b"", &[&[0, 3, 0, 0][..], b"user\0me\0\0"].concat()),
        message(b"p", b"secret"),
        message(b"P", b"s1\0SELECT * FROM spawn.write_batch($1)\0\0\0"),
        message(b"S", b""),
        message(b"B", &[&b"\0other\0"[..], &[1; 900]].concat()),
        message(b"E", b"\0\0\0\0\0"),
        message(b"S", b""),
        message(b"B", &[&b"\0s1\0"[..], &[1; 900]].concat()),
        message(b"E", b"\0\0\0\0\0"),
        message(b"S", b""),
    ]
    .concat();
    for piece in [1, 2, 7, 100, stream.len()] {
        let mut calls = Calls::default();
        let found: Vec<bool> = stream.chunks(piece).map(|bytes| calls.ends_write(bytes)).collect();
        assert_eq!(found.iter().filter(|f| **f).count(), 1, "pieces of {piece}");
        assert_eq!(found.last(), Some(&true), "pieces of {piece}");
    }
}
