//! Names that a model may take for another server's tool.

use std::collections::{BTreeSet, HashMap};

use super::{Finding, MAX_PLACE, hidden, printable, push, shorten};
use crate::admission::model::Tool;

/// Names shorter than this differ by a letter all the time.
const TYPO_LENGTH: usize = 7;

/// The other servers' tools, ready to be compared with: a listing may have tens of thousands.
pub(super) struct Known<'a> {
    /// Servers by the tools' names.
    names: HashMap<&'a str, &'a str>,
    /// A tool's name and its server, by what the name reads like.
    skeletons: HashMap<String, (&'a str, &'a str)>,
    /// The same, by what is left of the skeleton without one of its characters: two names that are
    /// one slip apart have such a rest in common, so that no name is compared with every other.
    slips: HashMap<String, Vec<(&'a str, &'a str)>>,
    servers: BTreeSet<&'a str>,
}

impl<'a> Known<'a> {
    pub(super) fn of(server: &str, tools: &'a [Tool]) -> Self {
        let others = || tools.iter().filter(|tool| tool.server != server);
        let pair = |tool: &'a Tool| (shorten(&tool.name), tool.server.as_str());
        let mut slips: HashMap<String, Vec<(&str, &str)>> = HashMap::new();
        for pair in others().map(pair) {
            for rest in rests(&skeleton(pair.0)) {
                slips.entry(rest).or_default().push(pair);
            }
        }
        Self {
            names: others().map(pair).collect(),
            skeletons: others().map(pair).map(|pair| (skeleton(pair.0), pair)).collect(),
            slips,
            servers: others().map(|tool| tool.server.as_str()).collect(),
        }
    }
}

pub(super) fn posing(place: &str, name: &str, known: &Known<'_>, found: &mut Vec<Finding>) {
    // No server's name holds the separator.
    if let Some((server, _)) = name.split_once("__").filter(|(server, _)| known.servers.contains(server)) {
        push(found, "shadowing-name", place, &format!("it carries the name of the server {server}"));
    }
    let plain = skeleton(name);
    if let Some(server) = known.names.get(name) {
        push(found, "same-name", place, &format!("{server} has a tool of that name"));
    } else if let Some((other, server)) = known.skeletons.get(&plain) {
        push(found, "look-alike", place, &format!("it reads like {} of {server}", printable(other)));
    } else if let Some((other, server)) = slip(&plain, known) {
        push(found, "look-alike", place, &format!("it is one letter away from {} of {server}", printable(other)));
    }
}

fn slip<'a>(plain: &str, known: &Known<'a>) -> Option<(&'a str, &'a str)> {
    let near = rests(plain).into_iter().filter_map(|rest| known.slips.get(&rest)).flatten();
    near.copied().find(|(other, _)| one_slip(plain, &skeleton(other)))
}

/// The skeleton and it without each of its characters; nothing where it is too short to tell.
fn rests(plain: &str) -> Vec<String> {
    let chars: Vec<char> = plain.chars().collect();
    if !(TYPO_LENGTH..=MAX_PLACE).contains(&chars.len()) {
        return Vec::new();
    }
    let without = |n: usize| chars.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, c)| *c).collect();
    std::iter::once(plain.to_owned()).chain((0..chars.len()).map(without)).collect()
}

/// Whether one letter was replaced, left out, put in or swapped with its neighbour. A plural and
/// another number are another name.
fn one_slip(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (short, long) = if a.len() <= b.len() { (&a, &b) } else { (&b, &a) };
    let same = short.iter().zip(long).take_while(|(x, y)| x == y).count();
    let (rest, more) = (&short[same..], &long[same..]);
    match (rest, more) {
        (_, [extra, after @ ..]) if after == rest => !(extra.is_ascii_digit() || after.is_empty() && *extra == 's'),
        ([x, rest @ ..], [y, more @ ..]) if rest == more => !(x.is_ascii_digit() || y.is_ascii_digit()),
        ([x, y, rest @ ..], [v, w, more @ ..]) => (x, y) == (w, v) && rest == more,
        _ => false,
    }
}

/// What is left of a name when case, separators and look-alike characters are taken away.
fn skeleton(name: &str) -> String {
    let plain = name.chars().filter(|c| !matches!(c, '_' | '-' | '.' | '/' | ' ') && !hidden(*c));
    let letters: String = plain.map(ascii_width).flat_map(char::to_lowercase).map(look).collect();
    letters.replace("rn", "m").replace("vv", "w")
}

/// Full-width forms as what they are the wide form of.
fn ascii_width(c: char) -> char {
    match u32::from(c) {
        wide @ 0xff01..=0xff5e => char::from_u32(wide - 0xfee0).unwrap_or(c),
        _ => c,
    }
}

/// The Latin letter that a reader takes it for.
fn look(c: char) -> char {
    match c {
        '0' | 'о' | 'ο' | 'օ' | 'σ' => 'o',
        '1' | 'i' | 'і' | '|' | 'ı' | 'ι' | 'ӏ' | 'ⅼ' | '!' => 'l',
        'а' | 'α' | 'ɑ' => 'a',
        'е' | 'ҽ' | 'ε' => 'e',
        'с' | 'ϲ' | 'ⅽ' => 'c',
        'р' | 'ρ' => 'p',
        'х' | 'χ' | 'ⅹ' => 'x',
        'у' | 'γ' | 'ү' => 'y',
        'ѕ' | '5' | '$' => 's',
        'ј' | 'ϳ' => 'j',
        'һ' => 'h',
        'ԁ' | 'ⅾ' => 'd',
        'ɡ' | 'ց' => 'g',
        'к' | 'κ' => 'k',
        'м' | 'ⅿ' => 'm',
        'н' => 'h',
        'п' | 'η' => 'n',
        'т' | 'τ' => 't',
        'в' | 'β' => 'b',
        'ԛ' => 'q',
        'ԝ' | 'ω' => 'w',
        'ν' | 'ѵ' | 'ⅴ' => 'v',
        'υ' => 'u',
        'ꜰ' => 'f',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::AdmissionState;

    fn kinds(server: &str, other: &str, name: &str) -> Vec<String> {
        let known = Tool {
            server: "files".into(),
            name: other.into(),
            state: AdmissionState::Approved,
            descriptor: String::new(),
            digest: String::new(),
            history: vec![],
        };
        let mut found = Vec::new();
        posing("p", name, &Known::of(server, std::slice::from_ref(&known)), &mut found);
        found.into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn names_that_pose_as_another_servers_tool_are_found() {
        assert_eq!(kinds("x", "read_file", "files__read"), ["shadowing-name"]);
        assert_eq!(kinds("x", "read_file", "read_file"), ["same-name"]);
        for name in ["readFile", "read-f1le", "rеad_file", "read_file\u{200b}", "ｒead_file"] {
            assert_eq!(kinds("x", "read_file", name), ["look-alike"], "{name}");
        }
        assert_eq!(kinds("x", "list_items", "list_iterns"), ["look-alike"]);
        assert!(kinds("files", "read_file", "read_file").is_empty(), "its own tool");
    }

    #[test]
    fn a_slip_of_one_letter_is_found_and_a_plural_or_another_number_is_none() {
        for name in ["raed_file", "read_fil", "read_fille", "rexd_file", "zread_file"] {
            assert_eq!(kinds("x", "read_file", name), ["look-alike"], "{name}");
        }
        for name in ["read_files", "read_dir", "write_file", "read_file2", "eval"] {
            assert!(kinds("x", "read_file", name).is_empty(), "{name}");
        }
        assert!(kinds("x", "sum", "sun").is_empty(), "too short to tell");
        assert!(kinds("x", "resource_1", "resource_2").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn one_slip_is_what_a_letter_makes(name in "[a-z]{7,12}", at in 0usize..7, letter in "[a-z]") {
            let mut other: Vec<char> = name.chars().collect();
            other[at] = letter.chars().next().unwrap();
            let other: String = other.into_iter().collect();
            proptest::prop_assert_eq!(one_slip(&name, &other), name != other);
            let longer = format!("{}{}{}", &name[..at], "q", &name[at..]);
            proptest::prop_assert!(one_slip(&name, &longer) && one_slip(&longer, &name));
        }

        #[test]
        fn no_name_is_compared_in_vain_or_with_a_panic(a in "\\PC{0,14}", b in "\\PC{0,14}") {
            let _ = kinds("x", &a, &b);
        }
    }
}
