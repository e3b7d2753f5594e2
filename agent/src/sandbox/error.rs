//! What can go wrong between Lazaret and Docker. Each text ends in a next step.

use std::path::PathBuf;

use bollard::errors::Error as Bollard;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No Docker, so no server: there is no way to run one without a cage.
    #[error("cannot reach Docker at {}: {cause}; servers run only in Docker: {hint}", socket.display())]
    Unreachable { socket: PathBuf, cause: String, hint: &'static str },

    #[error(
        "cannot build {server}: the base image {image} is not in Docker; \
         `cargo xtask images` makes it, or name one that has node, npm, python3 and git as [sandbox] base_image"
    )]
    NoBaseImage { server: String, image: String },

    #[error("cannot {action} {server}: the image {image} is not in Docker; {hint}")]
    NoImage { action: &'static str, server: String, image: String, hint: &'static str },

    /// The definition itself cannot be built, whatever Docker does.
    #[error("cannot build {server}: {cause}; {hint}")]
    Definition { server: String, cause: String, hint: String },

    /// A step inside of the builder container failed; `output` holds its last lines.
    #[error("cannot build {server}: {step} failed ({cause}); {hint}; its last lines:\n{output}")]
    Build { server: String, step: String, cause: String, hint: &'static str, output: String },

    #[error("cannot start {server} in its cage: {cause}; {hint}")]
    Start { server: String, cause: String, hint: &'static str },

    /// Docker made the container otherwise than it was told to. It was removed unstarted.
    #[error(
        "refused to start {server}: its container is not closed as it must be ({missing}); check the Docker daemon's own settings with `lazaret doctor`"
    )]
    Hardening { server: String, missing: String },

    #[error("cannot {action}: Docker answered: {cause}; `docker info` and the Docker daemon's log say more")]
    Docker { action: String, cause: String },
}

impl SandboxError {
    pub(super) fn docker(action: impl Into<String>, error: &Bollard) -> Self {
        Self::Docker { action: action.into(), cause: cause(error) }
    }

    pub(super) fn definition(server: &str, cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Definition { server: server.into(), cause: cause.into(), hint: hint.into() }
    }
}

/// Whether Docker itself is away, not just unwilling.
pub(super) fn is_away(error: &Bollard) -> bool {
    use Bollard::{HyperLegacyError, HyperResponseError, IOError, RequestTimeoutError, SocketNotFoundError};
    matches!(
        error,
        HyperLegacyError { .. }
            | HyperResponseError { .. }
            | IOError { .. }
            | RequestTimeoutError
            | SocketNotFoundError(_)
    )
}

/// The HTTP status of an answer from Docker.
pub(super) fn status(error: &Bollard) -> Option<u16> {
    match error {
        Bollard::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// An error's text with everything below it, on one line.
pub(super) fn cause(error: &Bollard) -> String {
    if let Bollard::DockerResponseServerError { message, .. } = error {
        return message.trim().replace('\n', " ");
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text.replace('\n', " ")
}
