//! Two records prove a call, or nothing: what proves one proves none with another number, line or agent in it.

use lazaret::audit::Record;
use lazaret::identity::verify_call;
use serde_json::json;

// The record of a connection, a line break, the record of a call.
fuzz_target!(|text: &str| {
    let Some((connected, intent)) = text.split_once('\n') else { return };
    let (Ok(connected), Ok(intent)) = (serde_json::from_str::<Record>(connected), serde_json::from_str(intent)) else {
        return;
    };
    let intent: Record = intent;
    let written = serde_json::to_string(&intent).expect("a record can be written");
    assert_eq!(serde_json::from_str::<Record>(&written).expect("it reads back"), intent);
    let Ok(proven) = verify_call(&connected, &intent) else { return };
    let mut altered = [intent.clone(), intent.clone(), intent.clone()];
    altered[0].detail["signature"]["seq"] = json!(proven.seq ^ 1);
    altered[1].detail["signature"]["line_digest"] = json!(format!("{}0", proven.line_digest));
    altered[2].agent = Some("x@y.z".into());
    assert!(altered.iter().all(|intent| verify_call(&connected, intent).is_err()));
});
