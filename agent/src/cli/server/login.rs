//! `lazaret server login`: a person's browser on one side, the daemon on the other.
//!
//! What passes through here is the answer of one login, which is of no use without what the daemon
//! kept of it.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::path;
use crate::api::client::AdminClient;
use crate::api::types::{BeginLogin, Done, FinishLogin, LoginBegun, ServerView};
use crate::cli::args::server::ServerLoginArgs;
use crate::cli::{CliError, out, review};

/// How long a person may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15 * 60);
/// Bytes of a request's first line, and of a pasted one.
const LONGEST: u64 = 16 << 10;
const PATH: &str = "/callback";
const THANKS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nLazaret has the answer. See the terminal; this page can be closed.\n";
const NOT_HERE: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n";

pub async fn run(admin: &AdminClient, args: ServerLoginArgs) -> Result<(), CliError> {
    let login = format!("{}/login", path(&args.name));
    if args.logout {
        let Done {} = admin.delete(&login).await?;
        out::say(format!("The login at {} is forgotten.", args.name));
        return Ok(());
    }
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await.map_err(|e| {
        CliError::Failed(format!("cannot wait for the answer at port {}: {e}; name another with --port", args.port))
    })?;
    let port = listener.local_addr().map_err(CliError::failed)?.port();
    let redirect = format!("http://127.0.0.1:{port}{PATH}");
    let LoginBegun { url } = admin.post(&login, &BeginLogin { redirect: redirect.clone() }).await?;
    out::say("Open this in a browser, and log in there:");
    out::line(out::visible(&url))?;
    out::say(format!(
        "Waiting for its answer at {redirect}. On another machine: paste here the address that the browser ends at."
    ));
    let answer = tokio::time::timeout(PATIENCE, answer(&listener, &redirect))
        .await
        .map_err(|_| CliError::Failed(format!("nobody logged in at {}; run it again when you can", args.name)))??;
    let Done {} = admin.post(&format!("{login}/answer"), &FinishLogin { answer }).await?;
    let server: ServerView = admin.get(&path(&args.name)).await?;
    out::say(format!("{}: {}", args.name, server.login.as_ref().map(review::login).unwrap_or_default()));
    Ok(())
}

/// From the browser, or from whoever pastes it.
async fn answer(listener: &TcpListener, redirect: &str) -> Result<String, CliError> {
    let mut typed = BufReader::new(tokio::io::stdin().take(1 << 20));
    let mut open = true;
    loop {
        let mut line = String::new();
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                if let Some(query) = query(stream).await {
                    return Ok(format!("{redirect}?{query}"));
                }
            }
            read = typed.read_line(&mut line), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(_) if line.trim().is_empty() => {}
                Ok(_) if line.contains("state=") => return Ok(line.trim().to_owned()),
                Ok(_) => out::say("That is not the address that the browser ends at: it has `state=` in it."),
            },
        }
    }
}

/// The query of a GET for the path that was named; anything else is not the answer.
async fn query(stream: TcpStream) -> Option<String> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    let read = async { (&mut stream).take(LONGEST).read_line(&mut first).await };
    tokio::time::timeout(std::time::Duration::from_secs(5), read).await.ok()?.ok()?;
    let query = first
        .strip_prefix("GET ")
        .and_then(|rest| rest.split(' ').next())
        .and_then(|target| target.strip_prefix(PATH)?.strip_prefix('?'))
        .filter(|query| query.contains("state="))
        .map(str::to_owned);
    let reply = if query.is_some() { THANKS } else { NOT_HERE };
    // Whoever asked may be gone; the answer is here.
    let _ = stream.get_mut().write_all(reply.as_bytes()).await;
    let _ = stream.get_mut().shutdown().await;
    query
}
