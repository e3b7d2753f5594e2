//! Who is at the other end of `admin.sock`, and whether that one is an operator.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use super::users::{self, Group};

pub const GROUP: &str = "lazaret";

/// The credentials that the kernel recorded when the peer connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups of the connecting process.
    pub groups: Vec<u32>,
}

/// Proof that the peer may operate this instance; only [`judge`] makes one.
#[derive(Debug, Clone)]
pub struct Operator {
    name: String,
}

impl Operator {
    /// For the audit log.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What became of a connection; carried by every request on it.
#[derive(Debug, Clone)]
pub enum Caller {
    Operator(Operator),
    Stranger { uid: Option<u32> },
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let Ok(cred) = stream.io().peer_cred() else {
            return Caller::Stranger { uid: None };
        };
        let groups = cred.pid().map(|pid| groups_of(pid, cred.uid())).unwrap_or_default();
        let peer = Peer { uid: cred.uid(), gid: cred.gid(), groups };
        match users::own_uid() {
            Ok(own) => judge(&peer, own, users::group(GROUP).as_ref(), &users::name_of(peer.uid)),
            Err(_) => Caller::Stranger { uid: Some(peer.uid) },
        }
    }
}

/// Root, the daemon's own uid, and members of the group: by the process's groups, or by the
/// group's list of names.
pub fn judge(peer: &Peer, own_uid: u32, group: Option<&Group>, name: &str) -> Caller {
    let member = group.is_some_and(|group| {
        peer.gid == group.gid || peer.groups.contains(&group.gid) || group.members.iter().any(|member| member == name)
    });
    if peer.uid == 0 || peer.uid == own_uid || member {
        Caller::Operator(Operator { name: name.to_owned() })
    } else {
        Caller::Stranger { uid: Some(peer.uid) }
    }
}

/// Supplementary groups of `pid`, if it still is a process of `uid`: a pid that was reused by
/// somebody else's process lends nobody its groups.
fn groups_of(pid: i32, uid: u32) -> Vec<u32> {
    // A process that has ended has no groups to offer.
    parse_groups(&std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(), uid)
}

fn parse_groups(status: &str, uid: u32) -> Vec<u32> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let same_user = field("Uid:").is_some_and(|ids| {
        let mut ids = ids.split_whitespace().map(str::parse::<u32>);
        ids.clone().count() == 4 && ids.all(|id| id == Ok(uid))
    });
    if !same_user {
        return Vec::new();
    }
    field("Groups:").map(|ids| ids.split_whitespace().filter_map(|id| id.parse().ok()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { uid, gid, groups: groups.to_vec() }
    }

    fn admitted(peer: &Peer, group: Option<&Group>) -> bool {
        matches!(judge(peer, 500, group, "ann"), Caller::Operator(_))
    }

    #[test]
    fn only_root_the_daemon_and_the_group_operate() {
        let group = Group { gid: 990, members: vec!["bob".into()] };
        assert!(admitted(&peer(0, 0, &[]), None));
        assert!(admitted(&peer(500, 500, &[]), None));
        assert!(admitted(&peer(1000, 990, &[]), Some(&group)));
        assert!(admitted(&peer(1000, 1000, &[27, 990]), Some(&group)));
        assert!(!admitted(&peer(1000, 1000, &[27, 99]), Some(&group)));
        assert!(!admitted(&peer(1000, 990, &[990]), None));
        let listed = Group { gid: 990, members: vec!["ann".into()] };
        assert!(admitted(&peer(1000, 1000, &[]), Some(&listed)));
    }

    #[test]
    fn a_reused_pid_lends_nobody_its_groups() {
        let status = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\nGroups:\t27 990 \n";
        assert_eq!(parse_groups(status, 1000), [27, 990]);
        assert_eq!(parse_groups(status, 1001), [0u32; 0]);
        assert_eq!(parse_groups("Uid:\t1000\t0\t0\t0\nGroups:\t0\n", 1000), [0u32; 0]);
        assert_eq!(parse_groups("", 1000), [0u32; 0]);
    }
}
