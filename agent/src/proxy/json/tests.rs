use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Json, JsonError> {
    Json::parse(text, 64)
}

#[test]
fn numbers_escapes_order_and_unknown_members_survive() {
    let text =
        r#"{"z":1.0,"a":-0,"big":12345678901234567890123,"e":1E+400,"s":"\u0041\/\n","\u006bey":[{},[]],"é":null}"#;
    let json = parse(text).unwrap();
    assert_eq!(json.to_text(), text);
    assert_eq!(json.get("key"), Some(&Json::Array(vec![Json::Object(vec![]), Json::Array(vec![])])));
    assert_eq!(json.get("s").and_then(Json::as_str), Some("A/\n"));
}

#[test]
fn duplicate_members_are_refused_however_they_are_spelt() {
    for text in [r#"{"name":1,"name":2}"#, r#"{"name":1,"n\u0061me":2}"#, r#"[{"a":{"b":1,"c":2,"b":3}}]"#] {
        assert!(matches!(parse(text), Err(JsonError::Duplicate { .. })), "{text}");
    }
    let many: Vec<String> = (0..40).map(|n| format!("\"k{}\":0", n % 39)).collect();
    assert!(matches!(parse(&format!("{{{}}}", many.join(","))), Err(JsonError::Duplicate { .. })));
}

#[test]
fn what_is_not_one_json_text_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "01",
        "1.",
        "-",
        "+1",
        ".5",
        "1e",
        "NaN",
        "tru",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\u{1}\"",
        "1 2",
        "{}{}",
        "[1 2]",
        "{1:2}",
        "{\"a\" 1}",
        "\u{feff}{}",
        "'a'",
        "[\"a\",]",
        "\"\\",
        "/**/1",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn nesting_is_limited_whatever_the_caller_asks_for() {
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(Json::parse(&nested(3), 3).is_ok());
    assert!(matches!(Json::parse(&nested(4), 3), Err(JsonError::TooDeep { limit: 3, .. })));
    assert!(matches!(Json::parse(&nested(1_000_000), usize::MAX), Err(JsonError::TooDeep { .. })));
}

#[test]
fn canonical_text_sorts_by_utf16_and_keeps_numbers() {
    let json = parse("{\"\u{ff5e}\":1.0,\"\u{1f600}\":2,\"b\":\"\\u0001\\/\",\"a\":9007199254740993}").unwrap();
    assert_eq!(json.canonical(), "{\"a\":9007199254740993,\"b\":\"\\u0001/\",\"\u{1f600}\":2,\"\u{ff5e}\":1.0}");
}

#[test]
fn set_and_remove_change_one_member_and_keep_the_order() {
    let mut json = parse(r#"{"a":1,"name":"x","z":2}"#).unwrap();
    json.set("name", Json::string("s__x\n"));
    json.set("new", Json::number(3));
    assert_eq!(json.remove("a"), Some(Json::Number("1".into())));
    assert_eq!(json.to_text(), r#"{"name":"s__x\n","z":2,"new":3}"#);
}

/// JSON text with white space, odd numbers and escapes; objects have distinct keys.
fn text() -> impl Strategy<Value = String> {
    let string = prop_oneof![
        r#"[a-z"\\/]{0,6}"#.prop_map(|s| Value::String(s).to_string()),
        Just(r#""\u00e9\ud83d\ude00\/""#.to_owned()),
        any::<String>().prop_map(|s| Value::String(s).to_string()),
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        string,
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?",
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[ {} ]", items.join(" ,\n"))),
            prop::collection::btree_map(any::<String>(), inner, 0..20).prop_map(|members| {
                let members: Vec<_> =
                    members.iter().rev().map(|(k, v)| format!("{} : {v}", Value::String(k.clone()))).collect();
                format!("{{\t{}\r}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn parsing_what_was_written_gives_the_same_tree(text in text()) {
        let json = parse(&text).unwrap();
        let written = json.to_text();
        prop_assert_eq!(&parse(&written).unwrap(), &json);
        prop_assert_eq!(parse(&written).unwrap().to_text(), written);
        let canonical = json.canonical();
        prop_assert_eq!(parse(&canonical).unwrap().canonical(), canonical);
    }

    #[test]
    fn we_accept_only_what_serde_json_accepts_and_read_it_alike(text in prop_oneof![text(), ".{0,40}", r#"[\[\]{}:,"\\u0-9a-fe.+ntrls -]{0,30}"#]) {
        match (parse(&text), serde_json::from_str::<Value>(&text)) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours.to_value(), theirs),
            (Ok(ours), Err(e)) => prop_assert!(e.to_string().contains("number out of range"), "{:?} {}", ours, e),
            (Err(JsonError::Duplicate { .. } | JsonError::TooDeep { .. }), Ok(_)) | (Err(_), Err(_)) => {}
            (Err(e), Ok(_)) => prop_assert!(false, "refused good JSON {text:?}: {e}"),
        }
    }

    #[test]
    fn a_tree_made_from_values_reads_back(text in text()) {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            let json = Json::from_value(&value);
            prop_assert_eq!(&parse(&json.to_text()).unwrap(), &json);
            prop_assert_eq!(json.to_text(), value.to_string());
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _either = parse(&String::from_utf8_lossy(&bytes));
    }
}
