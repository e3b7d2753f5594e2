//! A call in Cedar's terms: its entities, and the context that the schema promises.

use cedar_policy::{Entity, EntityUid, RestrictedExpression as Value};

use super::Facts;
use crate::admission::{Offer, Server, Source, Tool};
use crate::identity::Agent;
use crate::policy::derive::Derived;

pub(super) fn entity<const A: usize, const P: usize>(
    uid: EntityUid,
    attrs: [(&str, Option<Value>); A],
    parents: [EntityUid; P],
) -> Result<Entity, String> {
    let attrs = attrs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    Entity::new(uid, attrs, parents.into_iter().collect()).map_err(|e| e.to_string())
}

pub(super) fn agent_attrs(agent: &Agent) -> [(&'static str, Option<Value>); 7] {
    [
        ("address", Some(text(agent.address.to_string()))),
        ("name", Some(text(agent.address.name().into()))),
        ("domain", Some(text(agent.address.domain().into()))),
        ("did", Some(text(agent.did.clone()))),
        ("owner", agent.owner.clone().map(text)),
        ("state", Some(text(agent.state.to_string()))),
        ("vouch", Some(text(agent.vouch.to_string()))),
    ]
}

pub(super) fn server_attrs(server: &Server) -> [(&'static str, Option<Value>); 3] {
    let (source, package) = match &server.launch.source {
        Source::Npm { package, .. } => ("npm", Some(package.clone())),
        Source::Pypi { package, .. } => ("pypi", Some(package.clone())),
        Source::Local { .. } => ("local", None),
        Source::Image { image, .. } => ("image", Some(image.clone())),
        Source::Remote(remote) => ("remote", Some(remote.url().to_string())),
    };
    [("name", Some(text(server.name.clone()))), ("source", Some(text(source.into()))), ("package", package.map(text))]
}

/// Of a prompt and of a resource too.
pub(super) fn tool_attrs(tool: &Tool) -> [(&'static str, Option<Value>); 5] {
    let name = Offer::of(&tool.name).own_name();
    [
        ("name", Some(text(name.into()))),
        ("server", Some(text(tool.server.clone()))),
        ("digest", Some(text(tool.digest.clone()))),
        ("state", Some(text(tool.state.to_string()))),
        ("words", Some(set(words(name)))),
    ]
}

pub(super) fn context(facts: &Facts<'_>, derived: &Derived, approval: &str) -> Vec<(String, Value)> {
    let names = facts.arguments.as_object().unwrap_or_default().iter().map(|(name, _)| name.value.clone());
    let mut pairs = vec![
        ("approval", text(approval.into())),
        ("arguments", set(names)),
        ("arguments_digest", text(facts.arguments_digest.into())),
        ("depth", Value::new_long(facts.depth.into())),
        ("evidence", text(facts.evidence.to_string())),
        ("path_canon", set(derived.path_canon.iter().cloned())),
        ("path_ancestors", set(derived.path_ancestors.iter().cloned())),
        ("path_names", set(derived.path_names.iter().cloned())),
        ("path_unresolved", Value::new_bool(derived.path_unresolved)),
        ("size_bytes", long(derived.size.bytes)),
        ("size_longest", long(derived.size.longest)),
        ("size_members", long(derived.size.members)),
        ("sql_class", set(derived.sql_class.iter().map(|class| (*class).to_owned()))),
        ("transport", text(facts.transport.into())),
        ("uid", Value::new_long(facts.uid.into())),
        ("url_host", set(derived.url_host.iter().cloned())),
        ("url_port", Value::new_set(derived.url_port.iter().map(|port| Value::new_long((*port).into())))),
        ("url_scheme", set(derived.url_scheme.iter().cloned())),
    ];
    pairs.extend(facts.human.map(|human| ("human", text(human.to_owned()))));
    pairs.extend(derived.path_common.iter().map(|path| ("path_common", text(path.clone()))));
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The words of a tool's name in lower case, however it joins them.
fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut former = ' ';
    let mut letters = name.chars().peekable();
    while let Some(c) = letters.next() {
        // `readFile` and `HTTPGet` are two words each.
        let camel = c.is_uppercase()
            && (former.is_lowercase()
                || (former.is_uppercase() && letters.peek().is_some_and(|next| next.is_lowercase())));
        if (camel || !c.is_alphabetic()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphabetic() {
            word.extend(c.to_lowercase());
        }
        former = c;
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn text(value: String) -> Value {
    Value::new_string(value)
}

fn long(value: usize) -> Value {
    Value::new_long(i64::try_from(value).unwrap_or(i64::MAX))
}

fn set(values: impl IntoIterator<Item = String>) -> Value {
    Value::new_set(values.into_iter().map(text))
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_name_has_the_same_words_however_it_joins_them() {
        for name in
            ["delete_file", "deleteFile", "DeleteFile", "delete-file", "DELETE_FILE", "delete.file2", "delete  file"]
        {
            assert_eq!(words(name), ["delete", "file"], "{name}");
        }
        assert_eq!(words("HTTPGet"), ["http", "get"]);
        assert!(words("12").is_empty());
    }
}
