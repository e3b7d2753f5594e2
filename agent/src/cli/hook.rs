//! `lazaret hook`: passes a client's hook event on to the daemon, so that the record of a call can say
//! which sub-agent made it.
//!
//! Invariant: it never holds the client up and never says no: it ends with 0 within a second, whatever
//! happens. What it has to complain of goes to standard error.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use tokio::io::BufReader;

use super::instance::Instance;
use super::{CliError, complain};
use crate::identity::challenge::{self, HookNote};
use crate::identity::hooks::{self, MAX_EVENT};

/// For all of it, the daemon's answer included.
const PATIENCE: Duration = Duration::from_millis(700);

pub async fn run(instance: &Instance) -> Result<(), CliError> {
    let (read, event) = tokio::sync::oneshot::channel();
    // A thread of its own: a client that keeps its end open must not keep the hook.
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let done = std::io::stdin().lock().take(MAX_EVENT as u64 + 1).read_to_end(&mut text).map(|_| text);
        let _late = read.send(done);
    });
    let socket = instance.paths.mcp_socket();
    let pass_on = async {
        let text = event.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        match hooks::read(&text).map_err(|e| e.to_string())? {
            Some(note) => tell(&socket, note).await,
            None => Ok(()),
        }
    };
    match tokio::time::timeout(PATIENCE, pass_on).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => complain(&format!("the hook event was not passed on: {why}")),
        Err(_) => complain("the hook event was not passed on: nobody answered in time; see `lazaret status`"),
    }
    Ok(())
}

async fn tell(socket: &Path, note: HookNote) -> Result<(), String> {
    let stream = tokio::net::UnixStream::connect(socket).await;
    let stream = stream.map_err(|e| format!("no daemon listens at {} ({e})", socket.display()))?;
    let (read, mut write) = stream.into_split();
    challenge::tell(&mut BufReader::new(read), &mut write, note).await.map_err(|e| e.to_string())
}
