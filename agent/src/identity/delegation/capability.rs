//! What a grant covers: `server:tool`, `server:*`, or `*:*`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Capabilities of one hop.
pub const MAX_CAPABILITIES: usize = 64;
const MAX_SERVER: usize = 128;
const MAX_TOOL: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    #[error("cannot read the capability {0:?}: write server:tool, server:* or *:*")]
    Form(String),
    #[error("cannot grant nothing: name at least one capability, such as server:tool")]
    Empty,
    #[error("cannot grant {0} capabilities at once: at most {MAX_CAPABILITIES} fit; use server:*")]
    TooMany(usize),
}

/// `None` stands for all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Capability {
    server: Option<String>,
    tool: Option<String>,
}

impl Capability {
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.server, &self.tool) {
            (None, _) => true,
            (server, None) => *server == other.server,
            _ => self == other,
        }
    }

    pub fn allows(&self, server: &str, tool: &str) -> bool {
        self.server.as_deref().is_none_or(|own| own == server) && self.tool.as_deref().is_none_or(|own| own == tool)
    }
}

impl FromStr for Capability {
    type Err = CapabilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || CapabilityError::Form(text.chars().take(80).collect());
        let (server, tool) = text.split_once(':').ok_or_else(bad)?;
        if (server, tool) == ("*", "*") {
            return Ok(Self { server: None, tool: None });
        }
        // No space and no comma: the command line separates capabilities by them.
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != ',';
        let is_server = (1..=MAX_SERVER).contains(&server.len())
            && server.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '@'));
        let is_tool = (1..=MAX_TOOL).contains(&tool.len()) && tool.chars().all(plain);
        if !is_server || !is_tool {
            return Err(bad());
        }
        Ok(Self { server: Some(server.to_owned()), tool: (tool != "*").then(|| tool.to_owned()) })
    }
}

impl TryFrom<String> for Capability {
    type Error = CapabilityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> Self {
        capability.to_string()
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.server.as_deref().unwrap_or("*"), self.tool.as_deref().unwrap_or("*"))
    }
}

/// At least one, at most [`MAX_CAPABILITIES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Capability>", into = "Vec<Capability>")]
pub struct Capabilities(Vec<Capability>);

impl Capabilities {
    pub fn new(all: Vec<Capability>) -> Result<Self, CapabilityError> {
        match all.len() {
            0 => Err(CapabilityError::Empty),
            1..=MAX_CAPABILITIES => Ok(Self(all)),
            many => Err(CapabilityError::TooMany(many)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Capability> {
        self.0.iter()
    }

    pub fn allows(&self, server: &str, tool: &str) -> bool {
        self.0.iter().any(|capability| capability.allows(server, tool))
    }

    /// Whether they may grant something of the server whose name begins so.
    pub fn reaches(&self, server: &str, beginning: &str) -> bool {
        self.0.iter().any(|one| {
            one.server.as_deref().is_none_or(|own| own == server)
                && one.tool.as_deref().is_none_or(|own| own.starts_with(beginning))
        })
    }

    /// The first of `other` that these do not cover.
    pub fn beyond<'a>(&self, other: &'a Self) -> Option<&'a Capability> {
        other.0.iter().find(|wanted| !self.0.iter().any(|own| own.covers(wanted)))
    }
}

impl TryFrom<Vec<Capability>> for Capabilities {
    type Error = CapabilityError;

    fn try_from(all: Vec<Capability>) -> Result<Self, Self::Error> {
        Self::new(all)
    }
}

impl From<Capabilities> for Vec<Capability> {
    fn from(capabilities: Capabilities) -> Self {
        capabilities.0
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(", "))
    }
}
