use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { max_message_bytes: 1 << 16, max_depth: 32 };

fn refused(line: &str) -> Malformed {
    match read(line.as_bytes(), &LIMITS) {
        Ok(message) => panic!("{line} was taken for {message:?}"),
        Err(malformed) => malformed,
    }
}

#[test]
fn what_a_typed_reader_could_mistake_is_refused_with_its_code() {
    for (line, code) in [
        ("", PARSE_ERROR),
        ("Content-Length: 80", PARSE_ERROR),
        ("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", PARSE_ERROR),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"} {}"#, PARSE_ERROR),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, INVALID_REQUEST),
        ("[]", INVALID_REQUEST),
        ("1", INVALID_REQUEST),
        (r#"{"id":1,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1e3,"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"x"}}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"method":""}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":"x","message":"x"}}"#, INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#, INVALID_REQUEST),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","n\u0061me":"evil"}}"#,
            INVALID_REQUEST,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["name"]}"#, INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null}"#, INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}"#, INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":[]}}"#, INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":1}}"#, INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":[]}}"#, INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":null}}}"#, INVALID_PARAMS),
    ] {
        assert_eq!(refused(line).code, code, "{line}");
    }
    assert_eq!(refused(&format!("{{\"a\":{}", "[".repeat(100))).code, INVALID_REQUEST);
    assert_eq!(refused(&" ".repeat(1 << 17)).code, INVALID_REQUEST);
    assert_eq!(read(b"\xff", &LIMITS).unwrap_err().code, PARSE_ERROR);
}

#[test]
fn a_member_that_a_decoder_could_take_for_another_is_refused() {
    let call = |member: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x","{member}":{{}}}}}}"#)
    };
    for member in ["Name", "NAME", "Arguments", "argument\u{17f}", "argument\\u017f", "_Meta", "tas\u{212a}", "TASK"] {
        assert_eq!(refused(&call(member)).code, INVALID_PARAMS, "{member}");
    }
    for member in ["arguments", "_meta", "task", "names", "other", ""] {
        assert!(read(call(member).as_bytes(), &LIMITS).is_ok(), "{member}");
    }
    assert!(read(call("Name").replace("tools/call", "x/y").as_bytes(), &LIMITS).is_ok());
}

#[test]
fn a_refusal_names_the_id_where_it_can() {
    assert_eq!(refused(r#"{"id":"a","jsonrpc":"2.0","method":"tools/call"}"#).id, RequestId::read(&Json::string("a")));
    assert_eq!(refused(r#"{"id":7,"method":"ping"}"#).id, Some(RequestId::number(7)));
    assert_eq!(refused(r#"{"id":1.5,"jsonrpc":"2.0","method":"ping"}"#).id, None);
    assert!(
        refused(r#"{"jsonrpc":"2.0","method":"tools/call"}"#).silent,
        "nobody waits for an answer to a notification"
    );
    assert!(!refused(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#).silent);
}

#[test]
fn a_name_that_is_nearly_a_method_stays_what_was_sent() {
    for name in ["tools/call ", "Tools/Call", "tools/call\u{0}", "tools/cal\u{217c}"] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":{}}}"#, Json::string(name));
        let Message::Request { method, .. } = read(line.as_bytes(), &LIMITS).unwrap() else { panic!("{line}") };
        assert_eq!(method, name);
    }
}

#[test]
fn lines_read_back_as_the_message_they_carry() {
    let params = Json::parse(r#"{"n":1.0,"s":"\u0041"}"#, 8).unwrap();
    let id = RequestId::read(&Json::parse(r#""\u0061""#, 1).unwrap()).unwrap();
    let line = request_line(&id, "x/y", &params);
    assert_eq!(
        line,
        "{\"jsonrpc\":\"2.0\",\"id\":\"\\u0061\",\"method\":\"x/y\",\"params\":{\"n\":1.0,\"s\":\"\\u0041\"}}\n"
    );
    let message = read(line.trim_end().as_bytes(), &LIMITS).unwrap();
    assert_eq!(message, Message::Request { id: id.clone(), method: "x/y".into(), params: Some(params.clone()) });
    assert_eq!(id.key(), RequestId::read(&Json::string("a")).unwrap().key());

    let line = reply_line(Some(&id), &Reply::Result(params.clone()));
    let message = read(line.trim_end().as_bytes(), &LIMITS).unwrap();
    assert_eq!(message, Message::Response { id, reply: Reply::Result(params) });
}

proptest! {
    #[test]
    fn any_line_is_a_message_or_an_error(line in prop::collection::vec(any::<u8>(), 0..300)) {
        let _either = read(&line, &LIMITS);
    }

    #[test]
    fn any_mix_of_members_is_a_message_or_an_error(
        members in prop::collection::vec(
            (
                prop_oneof![Just("jsonrpc"), Just("id"), Just("method"), Just("params"), Just("result"), Just("error"), Just("x")],
                prop_oneof![
                    Just("\"2.0\""), Just("1"), Just("null"), Just("{}"), Just("[]"), Just("\"tools/call\""),
                    Just("{\"name\":\"a\"}"), Just("{\"code\":1,\"message\":\"m\"}"), Just("1.5"), Just("true"),
                ],
            ),
            0..6,
        )
    ) {
        let text: Vec<String> = members.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
        let count = |key| members.iter().filter(|(k, _)| *k == key).count();
        match read(format!("{{{}}}", text.join(",")).as_bytes(), &LIMITS) {
            Ok(_) => {
                prop_assert_eq!(count("method") + count("result") + count("error"), 1);
                prop_assert!(count("id") <= 1 && count("jsonrpc") == 1);
            }
            Err(malformed) => prop_assert!(malformed.code <= PARSE_ERROR + 100 && malformed.code >= PARSE_ERROR),
        }
    }
}
