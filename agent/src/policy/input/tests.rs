use super::*;
use serde_json::json;

fn input(properties: serde_json::Value) -> InputType {
    InputType::of_schema(&Json::from_value(&json!({"type": "object", "properties": properties})))
}

fn values(input: &InputType, arguments: serde_json::Value) -> Result<String, Mistyped> {
    input.values(&Json::from_value(&arguments)).map(|value| format!("{value:?}"))
}

#[test]
fn what_has_a_type_is_typed_and_the_rest_is_named() {
    let input = input(json!({
        "path": {"type": "string"}, "n": {"type": "integer"}, "on": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "level": {"enum": ["a", "b"]},
        "opts": {"type": "object", "properties": {"deep": {"type": ["integer", "null"]}}},
        "ratio": {"type": "number"}, "any": {}, "either": {"type": ["string", "integer"]},
        "ref": {"$ref": "#/$defs/X"}, "weird": true,
    }));
    let text = input.schema_text().unwrap();
    for line in [r#"path"?: __cedar::String"#, r#"n"?: __cedar::Long"#] {
        assert!(text.contains(line) || text.contains(&line.replace('"', "")), "{text}");
    }
    let left: String = input.left_out.join("; ");
    for name in ["ratio", "any", "either", "ref", "weird"] {
        assert!(left.contains(name), "{left}");
    }
    assert_eq!(input.members.len(), 7);
    assert!(input.schema().is_ok());
}

#[test]
fn an_argument_of_another_type_is_refused_and_never_left_out() {
    let input = input(json!({
        "path": {"type": "string"}, "n": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}},
        "o": {"type": "object", "properties": {"x": {"type": "boolean"}}},
    }));
    assert!(values(&input, json!({"path": "a", "n": 3, "tags": ["x"], "o": {"x": true}, "more": 1.5})).is_ok());
    assert!(values(&input, json!({"path": null})).is_ok(), "no value");
    for (arguments, name) in [
        (json!({"path": ["/etc/shadow"]}), "path"),
        (json!({"n": "3"}), "n"),
        (json!({"n": 1.0}), "n"),
        (json!({"n": 1e30}), "n"),
        (json!({"tags": ["a", 1]}), "tags[1]"),
        (json!({"o": {"x": "yes"}}), "o.x"),
        (json!({"PATH": "/etc/shadow"}), "PATH"),
        (json!({"o": {"X": true}}), "o.X"),
        (json!([]), ""),
    ] {
        assert_eq!(values(&input, arguments.clone()).unwrap_err().name, name, "{arguments}");
    }
}

#[test]
fn an_absolute_path_stands_in_its_one_form() {
    let input = input(json!({"path": {"type": "string"}}));
    let text = values(&input, json!({"path": "/home/u/proj/../../../etc/./shadow"})).unwrap();
    assert!(text.contains("/etc/shadow") && !text.contains(".."), "{text}");
}

#[test]
fn a_schema_without_end_is_cut_and_says_so() {
    let members: serde_json::Map<_, _> =
        (0..10_000).map(|n| (format!("member{n}"), json!({"type": "string"}))).collect();
    let input = input(json!(members));
    assert_eq!(input.members.len(), MOST_MEMBERS);
    assert!(input.left_out.last().unwrap().contains("9488 more members"), "{:?}", input.left_out.last());
    assert!(input.schema().is_ok());
    let mut deep = json!({"type": "string"});
    for _ in 0..100 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    assert!(InputType::of_schema(&Json::from_value(&deep)).schema().is_ok());
}

#[test]
fn any_name_is_only_a_name() {
    let names = [
        "__cedar",
        "__entity",
        "__extn",
        "type",
        "in",
        "has",
        "Set",
        "a\"b",
        "",
        " ",
        "ü\u{202e}x",
        "\u{0}",
        "a.b",
        "?",
    ];
    let members: serde_json::Map<_, _> =
        names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
    let input = input(json!(members));
    input.schema().unwrap_or_else(|e| panic!("{e}"));
    input.schema_text().unwrap_or_else(|e| panic!("{e}"));
    let arguments: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), json!("x"))).collect();
    assert!(values(&input, json!(arguments)).is_ok());
}

fn any_schema() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        Just(json!({"type": "integer"})),
        Just(json!({"type": "number"})),
        Just(json!({"type": ["boolean", "null"]})),
        Just(json!({"enum": ["a", 1]})),
        Just(json!({"type": 7})),
        Just(json!(null)),
        "\\PC{0,8}".prop_map(|name| json!({"type": name})),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|items| json!({"type": "array", "items": items})),
            proptest::collection::vec(inner.clone(), 0..3).prop_map(|kinds| json!({"anyOf": kinds})),
            proptest::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|members| json!({"type": "object", "properties": members})),
        ]
    })
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn any_input_schema_gives_a_schema_that_cedar_takes(schema in any_schema()) {
        let input = InputType::of_schema(&Json::from_value(&schema));
        proptest::prop_assert!(input.schema().is_ok(), "{:?}", input.schema().err());
        proptest::prop_assert!(input.schema_text().is_ok());
        let _ = input.values(&Json::from_value(&schema));
    }
}
