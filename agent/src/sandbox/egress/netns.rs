//! Listening inside of a container's network namespace.
//!
//! Invariant: a socket is made there only once it is certain that the namespace is that
//! container's and not the host's. The thread that enters it never comes back.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Binds every address, or none.
pub(super) async fn listen(container: &str, pid: u32, at: Vec<SocketAddrV4>) -> Result<Vec<TcpListener>, String> {
    let container = container.to_owned();
    let (done, result) = tokio::sync::oneshot::channel();
    // Not a thread of the runtime: it would carry other work into the namespace.
    std::thread::Builder::new()
        .name("cage-network".into())
        .spawn(move || {
            let _ = done.send(enter(&container, pid).and_then(|()| at.iter().map(bind).collect()));
        })
        .map_err(|e| format!("no thread for its network can be made: {e}"))?;
    result.await.unwrap_or_else(|_| Err("the thread for its network died".into()))
}

/// Moves this thread into the network namespace of the container's process.
fn enter(container: &str, pid: u32) -> Result<(), String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: io::Error| format!("{what}: {e}")
    };
    let process = format!("/proc/{pid}");
    // Opened before the process is identified: the number may come to mean another one after.
    let open =
        |name: &str| File::open(format!("{process}/{name}")).map_err(failed(&format!("its {name} cannot be read")));
    let namespace = open("ns/net")?;
    let mut cgroup = String::new();
    open("cgroup")?.read_to_string(&mut cgroup).map_err(failed("its cgroup cannot be read"))?;
    if container.is_empty() || !cgroup.contains(container) {
        return Err(format!("process {pid} is not in its cgroup"));
    }
    // Still the same process: had it ended in between, this would be another one's or nobody's.
    let again = open("ns/net")?;
    let own = File::open("/proc/thread-self/ns/net").map_err(failed("the daemon's own network cannot be read"))?;
    let id = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).map_err(failed("its network"));
    if id(&namespace)? != id(&again)? {
        return Err(format!("process {pid} ended"));
    }
    if id(&namespace)? == id(&own)? {
        return Err("it shares the host's network".into());
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| format!("its network cannot be entered: {e}; the daemon needs root for that"))
}

fn bind(at: &SocketAddrV4) -> Result<TcpListener, String> {
    if !at.ip().is_loopback() {
        add_address(*at.ip()).map_err(|e| format!("the address {} cannot be given to it: {e}", at.ip()))?;
    }
    let listener = TcpListener::bind(at).map_err(|e| format!("{at} cannot be listened on in it: {e}"))?;
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    Ok(listener)
}

/// Gives the loopback interface of this thread's network another address (rtnetlink(7)).
fn add_address(ip: Ipv4Addr) -> io::Result<()> {
    const RTM_NEWADDR: u16 = 20;
    const NLMSG_ERROR: u16 = 2;
    /// A request, to be acknowledged, which makes something new.
    const FLAGS: u16 = 0x1 | 0x4 | 0x200 | 0x400;
    const AF_INET: u8 = 2;
    const RT_SCOPE_HOST: u8 = 254;
    const IFA_LOCAL: u16 = 2;
    /// Of the loopback interface in every namespace.
    const INDEX: u32 = 1;
    let mut request = Vec::with_capacity(32);
    request.extend(32_u32.to_ne_bytes());
    request.extend(RTM_NEWADDR.to_ne_bytes());
    request.extend(FLAGS.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([AF_INET, 32, 0, RT_SCOPE_HOST]);
    request.extend(INDEX.to_ne_bytes());
    request.extend(8_u16.to_ne_bytes());
    request.extend(IFA_LOCAL.to_ne_bytes());
    request.extend(ip.octets());
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0_u8; 4096];
    let (_, length) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    let answer = &answer[..length.min(4096)];
    match (answer.get(4..6), answer.get(16..20)) {
        (Some(kind), Some(&[a, b, c, d])) if kind == NLMSG_ERROR.to_ne_bytes() => {
            match i32::from_ne_bytes([a, b, c, d]) {
                0 => Ok(()),
                // Two ports of one address.
                error if -error == rustix::io::Errno::EXIST.raw_os_error() => Ok(()),
                error => Err(io::Error::from_raw_os_error(-error)),
            }
        }
        _ => Err(io::Error::other("the kernel did not answer as it should")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_network_is_never_entered() {
        let own = std::process::id();
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let line = cgroup.lines().next().unwrap();
        let refused = std::thread::spawn({
            let line = line.to_owned();
            move || enter(&line, own).unwrap_err()
        });
        assert_eq!(refused.join().unwrap(), "it shares the host's network");
        assert!(enter(&"0".repeat(64), own).unwrap_err().contains("not in its cgroup"));
        assert!(enter("", own).is_err());
    }
}
