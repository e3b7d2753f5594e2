//! A definition that is taken leads to TLS, or to this host, and is the same when it is read again.

use lazaret::admission::Remote;

fuzz_target!(|text: &str| {
    if let Ok(remote) = serde_json::from_str::<Remote>(text) {
        assert!(remote.url().scheme() == "https" || remote.plain_http());
        assert!(remote.reachable().judge_url(remote.url()).is_ok());
        let written = serde_json::to_string(&remote).expect("it can be written");
        assert_eq!(serde_json::from_str::<Remote>(&written).expect("it can be read again"), remote);
    }
});
