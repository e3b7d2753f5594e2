//! Lazaret makes every MCP tool call on a Linux host go through one guarded door,
//! and closes every other one in the kernel.
//!
//! One room per layer of the house (see `ARCHITECTURE.md`):
//! 0 [`kernel`], 1 [`identity`], 2 [`admission`] and [`search`], 3 [`policy`] and [`sandbox`];
//! [`proxy`] is the door itself, [`audit`] writes down what every layer decided, and
//! [`store`] is the only room that knows the database.

// The fuzz targets name this crate, and are part of its tests: see `seeds.rs`.
#[cfg(test)]
extern crate self as lazaret;

pub mod admission;
pub mod api;
pub mod audit;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod identity;
pub mod kernel;
pub mod policy;
pub mod proxy;
pub mod remote;
pub mod sandbox;
pub mod search;
#[cfg(test)]
mod seeds;
pub mod store;
