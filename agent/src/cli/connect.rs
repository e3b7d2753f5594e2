//! `lazaret connect`: stdout belongs to the MCP client, so that nothing else is ever written there.

use super::CliError;
use super::args::client::ConnectArgs;
use super::instance::Instance;
use crate::identity::{self, Address};
use crate::proxy::{ConnectError, connector};

pub async fn run(instance: &Instance, args: ConnectArgs) -> Result<(), CliError> {
    let address: Address = args.agent.parse().map_err(|e: identity::AddressError| CliError::Usage(e.to_string()))?;
    let key = super::agent::chosen_key(&address, &args.key)?;
    connector::run(&address, &key, args.delegation.as_deref(), &instance.paths.mcp_socket()).await.map_err(failed)
}

pub(super) fn failed(e: ConnectError) -> CliError {
    match e {
        ConnectError::Unreachable { .. } | ConnectError::Lost => CliError::Unreachable(e.to_string()),
        ConnectError::Refused { .. } | ConnectError::Challenge { .. } => CliError::NotPermitted(e.to_string()),
        ConnectError::Key { .. } | ConnectError::Delegation { .. } => CliError::Configuration(e.to_string()),
    }
}
