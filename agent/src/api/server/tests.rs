use axum::extract::connect_info::MockConnectInfo;
use axum::routing::post;
use tempfile::TempDir;

use super::*;
use crate::api::client::{AdminClient, ClientError};
use crate::api::types::{Done, ErrorKind};

/// The gate and limits around two routes of the test's own, on a real socket.
fn serving(stranger: bool) -> (TempDir, AdminClient) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let listener = socket::listen(&path).unwrap();
    let routes = Router::new()
        .route("/echo", post(async |Input(value): Input<serde_json::Value>| axum::Json(value)))
        .route("/work", post(async || long_work(work)));
    let routes = router(routes);
    if stranger {
        let service = routes.layer(MockConnectInfo(Caller::Stranger { uid: Some(4711) }));
        tokio::spawn(axum::serve(listener, service).into_future());
    } else {
        let service = routes.into_make_service_with_connect_info::<Caller>();
        tokio::spawn(axum::serve(listener, service).into_future());
    }
    (dir, AdminClient::new(path))
}

async fn work(reporter: Reporter) -> Result<Done, Failure> {
    reporter.step("half");
    Err(Failure::failed("the other half is missing"))
}

fn refusal<T>(answer: Result<T, ClientError>) -> ErrorBody {
    match answer {
        Err(ClientError::Refused(body)) => body,
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("it was done"),
    }
}

#[tokio::test]
async fn a_stranger_gets_nothing_but_a_refusal_on_any_path() {
    let (_dir, client) = serving(true);
    for path in ["/echo", "/v1/status", "/nowhere"] {
        let body = refusal(client.post::<Done>(path, &Done {}).await);
        assert_eq!(body.kind, ErrorKind::Forbidden, "{path}");
        assert!(body.message.contains("uid 4711") && body.message.contains("group lazaret"), "{}", body.message);
    }
}

#[tokio::test]
async fn the_daemons_own_user_is_an_operator() {
    let (_dir, client) = serving(false);
    let answer: serde_json::Value = client.post("/echo", &serde_json::json!({"a": [1, 2]})).await.unwrap();
    assert_eq!(answer, serde_json::json!({"a": [1, 2]}));
    assert_eq!(refusal(client.get::<Done>("/nowhere").await).kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let (_dir, client) = serving(false);
    let body = refusal(client.post::<serde_json::Value>("/echo", &"x".repeat(MAX_BODY)).await);
    assert_eq!(body.kind, ErrorKind::TooLarge);
}

#[tokio::test]
async fn long_work_tells_its_progress_and_then_why_it_failed() {
    let (_dir, client) = serving(false);
    let mut steps = Vec::new();
    let body = refusal(client.work::<Done>("/work", &Done {}, |step| steps.push(step.to_owned())).await);
    assert_eq!(steps, ["half"]);
    assert_eq!(body.message, "the other half is missing");
}
