//! Paths by their text: what the kernel would resolve if no component were a link.

use std::collections::BTreeSet;

/// The one form of an absolute path; `None` for anything that is not absolute.
pub(super) fn canonical(text: &str) -> Option<String> {
    if !text.starts_with('/') {
        return None;
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            // The parent of the root is the root.
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

/// A canonical path and every directory above it, the root last.
pub(super) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let parents =
        path.bytes().enumerate().rev().filter(|&(at, byte)| byte == b'/' && at > 0).map(|(at, _)| &path[..at]);
    let root = (path != "/").then_some("/");
    std::iter::once(path).chain(parents).chain(root)
}

/// The deepest canonical path that is, or lies above, all of them.
pub(super) fn common(paths: &BTreeSet<String>) -> Option<String> {
    // In a sorted set the first and the last differ first.
    let (first, last) = (paths.first()?, paths.last()?);
    // Component-wise order is not byte order (`/a-b` sorts before `/a/b`), hence all are asked.
    ancestors(first).find(|candidate| paths.iter().all(|path| is_in(path, candidate))).map(str::to_owned).or_else(
        || {
            debug_assert!(false, "{first} and {last} share the root at least");
            None
        },
    )
}

/// Whether a canonical path is a directory or lies below it.
pub(super) fn is_in(path: &str, dir: &str) -> bool {
    let dir = dir.trim_end_matches('/');
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `~/x`, `~user`, or a relative path that climbs: where it leads only the server knows.
pub(super) fn is_unresolved(text: &str) -> bool {
    text.starts_with('~') || (!text.starts_with('/') && text.split('/').any(|part| part == ".."))
}

/// The path of a `file:` URL, percent-decoded.
pub(super) fn of_file_url(text: &str) -> Option<String> {
    let scheme = text.get(..5)?;
    if !scheme.eq_ignore_ascii_case("file:") {
        return None;
    }
    let path = url::Url::parse(text).ok().map(|url| url.path().to_owned())?;
    Some(percent_decode(&path))
}

/// What a path becomes where somebody decodes it, once or twice: `%252e` is `.` to whoever does it twice.
pub(super) fn decoded(text: &str) -> BTreeSet<String> {
    if !text.contains('%') || text.len() > 3 * 4096 {
        return BTreeSet::new();
    }
    let once = percent_decode(text);
    let twice = percent_decode(&once);
    [once, twice].into_iter().filter(|reading| reading != text).collect()
}

/// The names in what is written like a path: absolute, relative, with a `~`, or one hidden file's name.
pub(super) fn names(text: &str) -> impl Iterator<Item = &str> {
    let path = text.len() <= 4096
        && !text.contains('\n')
        && (text.contains('/') || text.contains('\\') || text.starts_with(['.', '~']));
    let parts = path.then(|| text.split(['/', '\\'])).into_iter().flatten();
    parts.filter(|part| !matches!(*part, "" | "." | "..") && part.len() <= 255)
}

/// Lossy where the bytes are no UTF-8: such a path is in no policy either way.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let decoded = escaped.and_then(|digits| {
            let mut byte = [0u8];
            hex::decode_to_slice(digits, &mut byte).ok().map(|()| byte[0])
        });
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
