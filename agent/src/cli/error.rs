//! Why a verb did not succeed, and the exit code that says so (a promise to scripts).

use crate::api::client::ClientError;
use crate::api::types::ErrorKind;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The answer is printed already, and it is "no".
    #[error("")]
    Negative,
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Configuration(String),
    #[error("{0}")]
    NotPermitted(String),
    /// The reader of stdout has gone: that is its right.
    #[error("")]
    ClosedPipe,
}

impl CliError {
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::ClosedPipe => 0,
            CliError::Negative | CliError::Failed(_) => 1,
            CliError::Usage(_) => 2,
            CliError::Unreachable(_) => 3,
            CliError::Configuration(_) => 4,
            CliError::NotPermitted(_) => 5,
        }
    }

    pub fn failed(error: impl std::fmt::Display) -> Self {
        CliError::Failed(error.to_string())
    }

    /// Writing to stdout or stderr failed.
    pub fn output(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => CliError::ClosedPipe,
            _ => CliError::Failed(format!("cannot write the output: {error}; check where stdout goes")),
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let text = error.to_string();
        match error {
            ClientError::Unreachable { .. } => CliError::Unreachable(text),
            ClientError::Socket { .. } => CliError::NotPermitted(text),
            ClientError::Broken { .. } => CliError::Failed(text),
            ClientError::Refused(body) => match body.kind {
                ErrorKind::Forbidden => CliError::NotPermitted(text),
                ErrorKind::Invalid | ErrorKind::TooLarge => CliError::Usage(text),
                ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Failed => CliError::Failed(text),
            },
        }
    }
}

impl From<crate::config::ConfigError> for CliError {
    fn from(error: crate::config::ConfigError) -> Self {
        CliError::Configuration(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::ErrorBody;

    #[test]
    fn exit_codes_are_those_that_scripts_were_promised() {
        let refused = |kind| CliError::from(ClientError::Refused(ErrorBody { kind, message: "m".into() })).exit_code();
        assert_eq!(refused(ErrorKind::Forbidden), 5);
        assert_eq!(refused(ErrorKind::Invalid), 2);
        assert_eq!(refused(ErrorKind::NotFound), 1);
        let io = || std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(CliError::from(ClientError::Unreachable { socket: "s".into(), source: io() }).exit_code(), 3);
        assert_eq!(CliError::from(ClientError::Socket { socket: "s".into(), source: io() }).exit_code(), 5);
        assert_eq!(CliError::from(crate::config::ConfigError::Value("c".into())).exit_code(), 4);
        assert_eq!(CliError::Negative.exit_code(), 1);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert_eq!(CliError::output(std::io::ErrorKind::BrokenPipe.into()).exit_code(), 0);
        assert_eq!(CliError::output(std::io::ErrorKind::StorageFull.into()).exit_code(), 1);
    }
}
