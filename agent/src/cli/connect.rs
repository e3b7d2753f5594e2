//! `lazaret connect`: stdout belongs to the MCP client, so that nothing else is ever written there.

use super::CliError;
use super::args::client::ConnectArgs;
use super::instance::Instance;
use crate::identity::{self, Address};
use crate::proxy::{ConnectError, connector};

pub async fn run(instance: &Instance, args: ConnectArgs) -> Result<(), CliError> {
    let address: Address = args.agent.parse().map_err(|e: identity::AddressError| CliError::Usage(e.to_string()))?;
    let key = match args.key {
        Some(key) => key,
        None => identity::default_key_path(&address).map_err(|e| CliError::Configuration(e.to_string()))?,
    };
    connector::run(&address, &key, &instance.paths.mcp_socket()).await.map_err(|e| match e {
        ConnectError::Unreachable { .. } | ConnectError::Lost => CliError::Unreachable(e.to_string()),
        ConnectError::Refused { .. } | ConnectError::Challenge { .. } => CliError::NotPermitted(e.to_string()),
        ConnectError::Key { .. } => CliError::Configuration(e.to_string()),
    })
}
