//! The names under which clients see things, and which server they mean by one.
//!
//! Invariant: a name means one thing of one server, or nothing. A resource's URI is the server's own behind
//! `lazaret://SERVER/`; a bare one is taken only where a single server has resources that the agent may read, so that
//! no server can catch what was meant for another.

use std::collections::BTreeMap;

use super::listing::{join, split};
use crate::admission::valid_name;
use crate::proxy::door::Sight;

const SCHEME: &str = "lazaret://";
/// A URI stands in the record of its use.
const LONGEST_URI: usize = 4096;

/// Server and the server's own name for it.
pub(super) type Found = (String, String);

/// Why a name leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    Unknown,
    /// Names that lead to one each.
    Ambiguous(Vec<String>),
}

type Forms<'a> = BTreeMap<String, Vec<(&'a str, &'a str)>>;

/// Everything under each of the names that it could be meant by.
fn forms<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) -> Forms<'a> {
    let mut forms = Forms::new();
    for (server, name) in all {
        for form in [name.to_owned(), join(server, name)] {
            forms.entry(form).or_default().push((server, name));
        }
    }
    forms
}

/// How everything is shown: with its server's name in front, or without where no other can be meant by it.
pub(super) fn shown<'a>(
    prefix: bool,
    all: impl Iterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<String, (&'a str, &'a str)> {
    if prefix {
        return all.map(|(server, name)| (join(server, name), (server, name))).collect();
    }
    let all: Vec<_> = all.collect();
    let forms = forms(all.iter().copied());
    let is_one = |form: &String| forms.get(form).is_some_and(|meant| meant.len() == 1);
    let of = |&(server, name): &(&'a str, &'a str)| {
        let form = [name.to_owned(), join(server, name)].into_iter().find(is_one)?;
        Some((form, (server, name)))
    };
    all.iter().filter_map(of).collect()
}

pub(super) fn find<'a>(prefix: bool, name: &str, all: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Found, Lost> {
    if prefix {
        let (server, own) = split(name).ok_or(Lost::Unknown)?;
        return Ok((server.to_owned(), own.to_owned()));
    }
    match forms(all).get(name).map(Vec::as_slice) {
        None | Some([]) => Err(Lost::Unknown),
        Some([(server, own)]) => Ok(((*server).to_owned(), (*own).to_owned())),
        Some(several) => Err(Lost::Ambiguous(several.iter().map(|(server, own)| join(server, own)).collect())),
    }
}

/// A URI that names its server.
pub(super) fn wrap(server: &str, uri: &str) -> String {
    format!("{SCHEME}{server}/{uri}")
}

fn unwrap(uri: &str) -> Option<Found> {
    let (server, own) = uri.strip_prefix(SCHEME)?.split_once('/')?;
    (valid_name(server) && !own.is_empty()).then(|| (server.to_owned(), own.to_owned()))
}

/// Whether URIs are shown with their server.
pub(super) fn wraps(prefix: bool, sight: &Sight) -> bool {
    prefix || sight.with_resources().len() != 1
}

pub(super) fn find_uri(uri: &str, sight: &Sight) -> Result<Found, Lost> {
    if uri.len() > LONGEST_URI {
        return Err(Lost::Unknown);
    }
    match (unwrap(uri), sight.with_resources().as_slice()) {
        (Some(found), _) => Ok(found),
        (None, [server]) => Ok(((*server).to_owned(), uri.to_owned())),
        (None, []) => Err(Lost::Unknown),
        (None, several) => Err(Lost::Ambiguous(several.iter().map(|server| wrap(server, uri)).collect())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [(&str, &str); 5] = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "a__x"), ("c", "z")];

    #[test]
    fn a_name_of_two_servers_leads_nowhere_without_its_prefix() {
        let names: Vec<String> = shown(false, ALL.into_iter()).into_keys().collect();
        // `a__x` is a tool of `b` and would be the prefixed one of `a`: it is neither.
        assert_eq!(names, ["b__a__x", "b__x", "y", "z"]);
        for name in ["y", "a__y"] {
            assert_eq!(find(false, name, ALL.into_iter()), Ok(("a".into(), "y".into())));
        }
        assert_eq!(find(false, "x", ALL.into_iter()), Err(Lost::Ambiguous(vec!["a__x".into(), "b__x".into()])));
        assert_eq!(find(false, "none", ALL.into_iter()), Err(Lost::Unknown));
        assert_eq!(find(true, "c__z", ALL.into_iter()), Ok(("c".into(), "z".into())));
        assert_eq!(find(true, "z", ALL.into_iter()), Err(Lost::Unknown));
    }

    #[test]
    fn a_wrapped_uri_names_its_server_and_keeps_every_character() {
        for uri in ["test://static-text", "file:///a/../b?x=1#y", "x:{+rest}", "lazaret://b/x:y", "%2e%2e/é"] {
            assert_eq!(unwrap(&wrap("fs.1", uri)), Some(("fs.1".into(), uri.into())));
        }
        for uri in
            ["lazaret://", "lazaret://a", "lazaret://a/", "lazaret://A/x", "lazaret:///x", "Lazaret://a/x", "x:y"]
        {
            assert_eq!(unwrap(uri), None, "{uri}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_leads_back_to_it_and_to_nothing_else(
            all in prop::collection::btree_set(("[ab]{1,2}", "[ab_]{1,4}"), 0..8), prefix in any::<bool>(),
        ) {
            let all: Vec<(&str, &str)> = all.iter().map(|(server, name)| (server.as_str(), name.as_str())).collect();
            for (name, (server, own)) in shown(prefix, all.iter().copied()) {
                prop_assert_eq!(find(prefix, &name, all.iter().copied()), Ok((server.to_owned(), own.to_owned())));
            }
        }

        #[test]
        fn any_uri_is_wrapped_without_loss(uri in "\\PC{1,30}") {
            prop_assert_eq!(unwrap(&wrap("s", &uri)), Some(("s".to_owned(), uri)));
        }
    }
}
