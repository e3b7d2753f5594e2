//! Carries what connects inside of a cage to the host that was granted, and to no other.
//!
//! Invariants: the address that was judged is the one that is connected to; nothing is sent to a
//! host before the judgement; every connection ends with the container.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::hello::{self, Hello};
use super::{EgressEvent, EgressOutcome, EgressWitness};
use crate::admission::Egress;

/// Connections of one cage at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 64;
/// Names that are looked up for one cage at a time: each takes a thread.
const LOOKUPS: usize = 4;
/// For each step from a connection inside to one outside.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for this long ends.
const IDLE: Duration = Duration::from_secs(600);

/// Different reasons why connections to one host were refused that are told of; all of them are counted.
const REASONS: usize = 8;

/// The open ways of one container. Dropping it closes them, with every connection.
pub struct Gate {
    tasks: Vec<JoinHandle<()>>,
    ways: Vec<Arc<Way>>,
}

/// One host and port, and what went there.
struct Way {
    egress: Egress,
    cage: Arc<OfCage>,
    opened: AtomicU64,
    refused: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    opened_said: AtomicBool,
    /// What was said of refused connections: a harmless one hides no other.
    refused_said: Mutex<BTreeSet<String>>,
}

struct OfCage {
    server: String,
    container: String,
    connections: Arc<Semaphore>,
    lookups: Semaphore,
    witness: Option<Arc<dyn EgressWitness>>,
}

impl Gate {
    pub(super) fn start(
        server: &str,
        container: &str,
        ways: Vec<(Egress, std::net::TcpListener)>,
        witness: Option<Arc<dyn EgressWitness>>,
    ) -> Result<Self, String> {
        let cage = Arc::new(OfCage {
            server: server.to_owned(),
            container: container.to_owned(),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            lookups: Semaphore::new(LOOKUPS),
            witness,
        });
        let mut gate = Self { tasks: Vec::new(), ways: Vec::new() };
        for (egress, listener) in ways {
            let listener = TcpListener::from_std(listener).map_err(|e| format!("{egress} cannot be served: {e}"))?;
            let way = Arc::new(Way {
                egress,
                cage: cage.clone(),
                opened: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                bytes_out: AtomicU64::new(0),
                bytes_in: AtomicU64::new(0),
                opened_said: AtomicBool::new(false),
                refused_said: Mutex::default(),
            });
            gate.ways.push(way.clone());
            gate.tasks.push(tokio::spawn(serve(way, listener)));
        }
        Ok(gate)
    }

    /// Closes the ways and says what went through them.
    pub(in crate::sandbox) async fn close(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            // With it, its connections have ended and their bytes are counted.
            let _ = task.await;
        }
        for way in &self.ways {
            let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let (opened, refused) = (count(&way.opened), count(&way.refused));
            if opened + refused > 0 {
                let (bytes_out, bytes_in) = (count(&way.bytes_out), count(&way.bytes_in));
                way.tell(EgressOutcome::Total { opened, refused, bytes_out, bytes_in });
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(way: Arc<Way>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((inside, _)) => {
                // Not before: a way that nobody uses would hold one.
                let Ok(permit) = way.cage.connections.clone().acquire_owned().await else { return };
                let way = way.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    way.carry(inside).await;
                });
            }
            // Out of descriptors, most likely: what is open has to end first.
            Err(e) => {
                tracing::debug!(egress = %way.egress, "cannot accept a connection: {e}");
                sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

impl Way {
    async fn carry(&self, mut inside: TcpStream) {
        match self.connect(&mut inside).await {
            Ok((mut outside, first)) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                if let Ok(to) = outside.peer_addr()
                    && !self.opened_said.swap(true, Ordering::Relaxed)
                {
                    self.tell(EgressOutcome::Opened { to });
                }
                if outside.write_all(&first).await.is_ok() {
                    self.bytes_out.fetch_add(first.len() as u64, Ordering::Relaxed);
                    self.relay(inside, outside).await;
                }
            }
            Err(why) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                if self.is_news(&why) {
                    self.tell(EgressOutcome::Refused { why });
                }
            }
        }
    }

    fn is_news(&self, why: &str) -> bool {
        let mut said = self.refused_said.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < REASONS && said.insert(why.to_owned())
    }

    fn tell(&self, what: EgressOutcome) {
        if let Some(witness) = &self.cage.witness {
            let (server, container) = (self.cage.server.clone(), self.cage.container.clone());
            witness.egress(EgressEvent { server, container, egress: self.egress.clone(), what });
        }
    }

    /// A connection to the host, and what was read from inside before there was one.
    async fn connect(&self, inside: &mut TcpStream) -> Result<(TcpStream, Vec<u8>), String> {
        // Most TLS is there, and protocols in which the other side speaks first are not.
        let first = match self.egress.port() {
            443 if self.egress.address().is_none() => self.first_bytes(inside).await?,
            _ => Vec::new(),
        };
        let mut why = "its name has no address".to_owned();
        for address in self.resolve().await? {
            let ip = address.ip().to_canonical();
            if let Err(refusal) = judge(&self.egress, ip) {
                why = refusal;
                continue;
            }
            match timeout(PATIENCE, TcpStream::connect(SocketAddr::new(ip, address.port()))).await {
                Ok(Ok(outside)) => {
                    let _ = outside.set_nodelay(true);
                    let _ = inside.set_nodelay(true);
                    return Ok((outside, first));
                }
                Ok(Err(e)) => why = format!("{ip} does not answer: {e}"),
                Err(_) => why = format!("{ip} does not answer within {} s", PATIENCE.as_secs()),
            }
        }
        Err(why)
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let (host, port) = (self.egress.host(), self.egress.port());
        if let Some(ip) = self.egress.address() {
            return Ok(vec![SocketAddr::from((ip, port))]);
        }
        let _permit = self.cage.lookups.acquire().await.map_err(|e| e.to_string())?;
        match timeout(PATIENCE, tokio::net::lookup_host((host, port))).await {
            Ok(Ok(addresses)) => Ok(addresses.collect()),
            Ok(Err(e)) => Err(format!("its name cannot be looked up: {e}")),
            Err(_) => Err(format!("its name was not found within {} s", PATIENCE.as_secs())),
        }
    }

    /// What the client says first; an error if it asks for another server than the one that was granted.
    async fn first_bytes(&self, inside: &mut TcpStream) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = async {
            loop {
                match hello::read(&bytes) {
                    Hello::Part if bytes.len() >= hello::LONGEST => return Err("its ClientHello has no end".to_owned()),
                    Hello::Part => {}
                    Hello::NotTls => return Ok(()),
                    Hello::Broken => return Err("its ClientHello cannot be read".into()),
                    Hello::Name(None) => return Err("its ClientHello names no server".into()),
                    Hello::Name(Some(name)) => {
                        let name = name.strip_suffix('.').unwrap_or(&name);
                        let same = name.eq_ignore_ascii_case(self.egress.host());
                        return if same {
                            Ok(())
                        } else {
                            Err(format!("TLS for another server: {}", name.escape_debug()))
                        };
                    }
                }
                match inside.read_buf(&mut bytes).await {
                    Ok(0) => return Err("it ended before it said anything whole".into()),
                    Ok(_) => {}
                    Err(e) => return Err(e.to_string()),
                }
            }
        };
        timeout(PATIENCE, read).await.unwrap_or_else(|_| Err("it said nothing whole".into()))?;
        Ok(bytes)
    }

    async fn relay(&self, inside: TcpStream, mut outside: TcpStream) {
        let last = AtomicU64::new(0);
        let started = Instant::now();
        let mut inside = Counted { stream: inside, way: self, started, last: &last };
        let copy = tokio::io::copy_bidirectional(&mut inside, &mut outside);
        let idle = async {
            loop {
                let until = started + Duration::from_millis(last.load(Ordering::Relaxed)) + IDLE;
                if until <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until(until).await;
            }
        };
        tokio::select! {
            // How a connection ends is for both of its sides to know.
            _ = copy => {}
            () = idle => {}
        }
    }
}

/// The side inside of the cage, through which every byte goes.
struct Counted<'a> {
    stream: TcpStream,
    way: &'a Way,
    started: Instant,
    /// When a byte last moved, in milliseconds since `started`.
    last: &'a AtomicU64,
}

impl Counted<'_> {
    fn count(&self, bytes: &AtomicU64, moved: usize) {
        bytes.fetch_add(moved as u64, Ordering::Relaxed);
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }
}

impl AsyncRead for Counted<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.count(&self.way.bytes_out, buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.count(&self.way.bytes_in, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether the host may be reached there. This host is not, whatever its addresses are.
fn judge(egress: &Egress, ip: IpAddr) -> Result<(), String> {
    if !egress.admits(ip) {
        return Err(format!("its name leads to {ip}, which the definition does not open"));
    }
    if egress.address().is_none() && is_own(ip) {
        return Err(format!("its name leads to {ip}, which is this host"));
    }
    Ok(())
}

/// The kernel chooses an address as the source for itself only where it is local. Nothing is sent.
pub(crate) fn is_own(ip: IpAddr) -> bool {
    let any = if ip.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {

    use super::super::hello::tests::hello;
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl EgressWitness for Heard {
        fn egress(&self, event: EgressEvent) {
            let text = match event.what {
                EgressOutcome::Opened { .. } => "opened".to_owned(),
                EgressOutcome::Refused { why } => why,
                EgressOutcome::Total { opened, refused, bytes_out, bytes_in } => {
                    format!("{opened} opened, {refused} refused, {bytes_out} out, {bytes_in} in")
                }
            };
            self.0.lock().unwrap().push(text);
        }
    }

    /// A gate for one entry, and the address to reach it at.
    fn gate(egress: Egress) -> (Gate, SocketAddr, Arc<Heard>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        let heard = Arc::new(Heard::default());
        (Gate::start("s", "c", vec![(egress, listener)], Some(heard.clone())).unwrap(), at, heard)
    }

    async fn said(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_are_counted_and_an_end_ends_it() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all).await;
                let _ = stream.write_all(&all.to_ascii_uppercase()).await;
            }
        });
        let (gate, at, heard) = gate(Egress::parse(&format!("127.0.0.1:{port}"), true).unwrap());
        for _ in 0..3 {
            assert_eq!(said(at, b"hello").await, b"HELLO");
        }
        let open = TcpStream::connect(at).await.unwrap();
        gate.close().await;
        assert_eq!(heard.0.lock().unwrap()[0], "opened");
        let last = heard.0.lock().unwrap().last().unwrap().clone();
        assert!(last.ends_with("opened, 0 refused, 15 out, 15 in"), "{last}");
        assert!(heard.0.lock().unwrap().len() <= 2, "one record for each kind");
        let mut rest = Vec::new();
        let mut open = open;
        let _ = open.read_to_end(&mut rest).await;
        assert_eq!(rest, b"", "an open connection ends with the gate");
        assert!(TcpStream::connect(at).await.is_err(), "nothing listens any more");
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_host_is_refused_before_a_byte_is_sent() {
        let Some(name) = own_name() else { return eprintln!("skipped: no name leads to this host") };
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        for private in [false, true] {
            let (gate, at, heard) = gate(Egress::parse(&format!("{name}:{port}"), private).unwrap());
            assert_eq!(said(at, b"hello").await, b"");
            gate.close().await;
            let heard = heard.0.lock().unwrap();
            assert!(heard[0].contains("its name leads to"), "{heard:?}");
            assert_eq!(heard[1], "0 opened, 1 refused, 0 out, 0 in");
        }
        assert!(timeout(Duration::from_millis(1), server.accept()).await.is_err());
    }

    /// Any name but `localhost` that /etc/hosts gives to the loopback address.
    fn own_name() -> Option<String> {
        let hosts = std::fs::read_to_string("/etc/hosts").ok()?;
        let lines = hosts.lines().filter(|line| line.starts_with("127.") || line.starts_with("::1"));
        let mut names = lines.flat_map(|line| line.split_whitespace().skip(1));
        names.find(|name| Egress::parse(&format!("{name}:1"), false).is_ok()).map(str::to_owned)
    }

    #[tokio::test]
    async fn tls_for_another_server_is_refused() {
        for (bytes, refusal) in [
            (hello(&["other.example"], 16_384), "TLS for another server: other.example"),
            (hello(&["a.example.other.example"], 16_384), "TLS for another server: a.example.other.example"),
            (hello(&[], 16_384), "its ClientHello names no server"),
            (vec![], "it ended before it said anything whole"),
            (hello(&["a.example"], 16_384)[..40].to_vec(), "it ended before it said anything whole"),
            ([&[0x16, 3, 1, 0xff, 0xff][..], &[1, 0, 0xff, 0xff], &[0; 20_000]].concat(), "its ClientHello has no end"),
        ] {
            let (gate, at, heard) = gate(Egress::parse("a.example:443", false).unwrap());
            assert_eq!(said(at, &bytes).await, b"");
            gate.close().await;
            assert_eq!(heard.0.lock().unwrap()[0], refusal);
        }
    }

    #[tokio::test]
    async fn a_harmless_refusal_hides_no_other_and_the_log_stays_short() {
        let (gate, at, heard) = gate(Egress::parse("a.example:443", false).unwrap());
        said(at, b"").await;
        for n in 0..20 {
            said(at, &hello(&[format!("h{}.example", n % 10).as_str()], 16_384)).await;
        }
        gate.close().await;
        let heard = heard.0.lock().unwrap();
        assert_eq!(
            (heard[0].as_str(), heard[1].as_str()),
            ("it ended before it said anything whole", "TLS for another server: h0.example")
        );
        assert_eq!(heard.len(), REASONS + 1, "{heard:?}");
        assert!(heard[REASONS].starts_with("0 opened, 21 refused"), "{heard:?}");
    }

    #[tokio::test]
    async fn this_hosts_own_addresses_are_known() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(!is_own("192.0.2.1".parse().unwrap()));
        let literal = Egress::parse("127.0.0.1:1", true).unwrap();
        assert_eq!(judge(&literal, "127.0.0.1".parse().unwrap()), Ok(()));
    }
}
