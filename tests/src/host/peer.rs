//! An MCP client that speaks raw lines, so that what came over the wire can be compared byte by byte.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{House, PATIENCE};

pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    next_id: u64,
}

impl Peer {
    /// Starts a stdio server and shakes hands with it.
    pub fn start(command: &mut Command) -> Self {
        let mut peer = Self::spawn(command);
        let client = json!({"name": "lazaret-tests", "version": "1"});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let answer = peer.request("initialize", &hello.to_string());
        assert!(result_of(&answer).contains("protocolVersion"), "no handshake: {answer}");
        peer.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        peer
    }

    /// Starts it and says nothing yet.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the server can be run");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            // The end of the channel is the end of the server's output.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, lines, next_id: 1 }
    }

    pub fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdin.flush()).expect("the server reads");
    }

    /// Sends a request with `params` as JSON text; the line that answers it.
    pub fn request(&mut self, method: &str, params: &str) -> String {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#));
        loop {
            let line =
                self.lines.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("no answer to {method} {params}: {e}"));
            let message: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
            if message["id"] == id && message.get("method").is_none() {
                return line;
            }
        }
    }

    /// The next line, whatever it is.
    pub fn hear(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("it says nothing: {e}"))
    }

    /// Calls a tool, `arguments` as JSON text; the text of its result.
    pub fn call(&mut self, tool: &str, arguments: &str) -> String {
        result_of(&self.request("tools/call", &format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#)))
    }

    /// Calls a tool of a server behind the door.
    pub fn call_through(&mut self, server: &str, tool: &str, arguments: &str) -> String {
        self.call("call_tool", &format!(r#"{{"server":"{server}","tool":"{tool}","arguments":{arguments}}}"#))
    }

    /// Ends the process that was started, and nothing that it has started itself.
    pub fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("a child can be killed");
    }

    /// Waits until the other side has closed its output and ended.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the session stays open"),
            }
        }
        let ended = crate::poll(PATIENCE, || self.child.try_wait().expect("a child can be waited for"));
        ended.expect("the process stays although it closed its output")
    }

    /// Closes our side; the server must end by itself.
    pub fn close(mut self) -> ExitStatus {
        self.stdin = None;
        self.wait_for_end()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl House {
    /// A session of `agent` through the door, from inside of the scope.
    pub fn connect(&self, agent: &str) -> Peer {
        Peer::start(self.connector(agent).as_mut())
    }

    pub fn connector(&self, agent: &str) -> Box<Command> {
        let mut command = self.in_scope(super::binary());
        command.args(["connect", "--agent", agent]);
        Box::new(command)
    }

    /// A server run bare on this host, outside of every scope.
    pub fn bare(&self, program: &Path, args: &[&str]) -> Peer {
        Peer::start(Command::new(program).args(args).current_dir(self.home()))
    }
}

/// The text of a response's `result`, exactly as it came.
pub fn result_of(line: &str) -> String {
    let members: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(line).unwrap_or_else(|e| panic!("not a JSON object ({e}): {line}"));
    members.get("result").unwrap_or_else(|| panic!("no result: {line}")).get().to_owned()
}
