//! The host's users and groups, by `/etc/passwd` and `/etc/group`.

use std::path::PathBuf;

pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
}

/// The uid that this process acts as.
pub fn own_uid() -> std::io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self")?.uid())
}

pub fn by_uid(uid: u32) -> Option<User> {
    passwd().into_iter().find(|user| user.uid == uid)
}

/// `ann`, or `uid:1000` where the uid has no name.
pub fn name_of(uid: u32) -> String {
    by_uid(uid).map_or_else(|| format!("uid:{uid}"), |user| user.name)
}

fn passwd() -> Vec<User> {
    // A host without the file has users without names.
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines().filter_map(parse_user).collect()
}

fn parse_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?.into();
    Some(User { name, uid, gid, home })
}

/// A group: its number and the names of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub gid: u32,
    pub members: Vec<String>,
}

pub fn group(name: &str) -> Option<Group> {
    // Without the file there is no such group.
    group_in(&std::fs::read_to_string("/etc/group").unwrap_or_default(), name)
}

pub(super) fn group_in(text: &str, name: &str) -> Option<Group> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next()?.split(',').map(str::trim).filter(|m| !m.is_empty()).map(str::to_owned).collect();
        Some(Group { gid, members })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name_only() {
        let text = "lazaret2:x:7:eve\nlazaret:x:990:ann, bob\n";
        assert_eq!(group_in(text, "lazaret"), Some(Group { gid: 990, members: vec!["ann".into(), "bob".into()] }));
        assert_eq!(group_in(text, "lazare"), None);
        assert_eq!(group_in("lazaret:x:notanumber:ann", "lazaret"), None);
    }

    #[test]
    fn a_passwd_line_gives_name_numbers_and_home() {
        let user = parse_user("ann:x:1000:1001:Ann,,,:/home/ann:/bin/bash").unwrap();
        assert_eq!(
            (user.name.as_str(), user.uid, user.gid, user.home.to_str()),
            ("ann", 1000, 1001, Some("/home/ann"))
        );
        assert!(parse_user("+::::::").is_none());
    }
}
