//! `make bench`: alknet against what a user would pick instead, as ratios within
//! one interleaved run.
//!
//! Every contender is a server and a client in processes of their own. Rounds
//! take turns between contenders, so that a slow minute of the machine hits all
//! of them; the table shows medians, and ratios of medians.

mod boundary;
mod call;
mod certificate;
mod dispatch;
mod gateway;
mod grpc;
mod load;
mod raw;
mod table;
mod versions;

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::load::{Load, Shape};
use crate::versions::Version;

#[derive(Parser)]
#[command(about = "Compares alknet with gRPC and raw QUIC, and prints the ratios")]
struct Options {
    #[command(subcommand)]
    role: Option<Role>,
    /// Rounds of each contender.
    #[arg(long, default_value_t = 5, global = true)]
    rounds: usize,
}

#[derive(Subcommand)]
enum Role {
    /// Serves one contender; prints its address and runs until it is killed.
    Serve {
        contender: Contender,
        #[arg(long, value_enum, default_value_t = Shape::Multi)]
        shape: Shape,
    },
    /// Measures what lies between host and plugin.
    Boundary,
    /// Measures the node's own part of a call, and composition.
    Dispatch,
    /// Measures the gateway over HTTP.
    Gateway,
    /// Compares HTTP/3 with HTTP/2.
    Versions,
    /// Downloads the file of that comparison and prints MiB/s.
    Download {
        version: Version,
        address: SocketAddr,
        #[arg(long)]
        certificate: std::path::PathBuf,
    },
    /// Sends bytes through the node's echo handler and prints MiB/s.
    Bulk { node: std::path::PathBuf },
    /// Holds idle connections open until standard input ends.
    Hold { node: std::path::PathBuf, count: usize },
    /// Loads one contender and prints calls per second.
    Load {
        contender: Contender,
        address: Option<SocketAddr>,
        #[command(flatten)]
        load: Load,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Contender {
    /// tonic: gRPC over TLS.
    Grpc,
    /// quinn, echoing the same bytes.
    Raw,
    /// The call protocol, served by the daemon.
    Call,
    /// HTTP/1.1, served by a bare axum handler or by the daemon.
    Gateway,
    /// HTTP/2, served by the daemon.
    H2,
    /// HTTP/3, served by the daemon.
    H3,
}

fn main() -> Result<()> {
    let options = Options::parse();
    match options.role {
        None => table::run(options.rounds),
        Some(Role::Serve { contender, shape }) => shape.runtime()?.block_on(async {
            match contender {
                Contender::Grpc => grpc::serve().await,
                Contender::Raw => raw::serve().await,
                Contender::Call | Contender::H2 | Contender::H3 => {
                    anyhow::bail!("the daemon serves it: `alknet run`")
                }
                Contender::Gateway => gateway::serve().await,
            }
        }),
        Some(Role::Boundary) => boundary::run(options.rounds),
        Some(Role::Dispatch) => dispatch::run(options.rounds),
        Some(Role::Gateway) => gateway::run(options.rounds),
        Some(Role::Versions) => versions::run(options.rounds),
        Some(Role::Download { version, address, certificate }) => {
            let download = versions::download(version, address, &certificate);
            println!("{:.0}", Shape::Multi.runtime()?.block_on(download)?);
            Ok(())
        }
        Some(Role::Bulk { node }) => {
            let rate = Shape::Current.runtime()?.block_on(call::bulk(&node))?;
            println!("{rate:.0}");
            Ok(())
        }
        Some(Role::Hold { node, count }) => {
            Shape::Multi.runtime()?.block_on(call::hold(&node, count))
        }
        Some(Role::Load { contender, address, load }) => {
            let address = || address.ok_or_else(|| anyhow::anyhow!("the address is missing"));
            let rate = load.shape.runtime()?.block_on(async {
                match contender {
                    Contender::Grpc => grpc::load(address()?, &load).await,
                    Contender::Raw => raw::load(address()?, &load).await,
                    Contender::Call => call::load(&load).await,
                    Contender::Gateway => gateway::load(address()?, &load).await,
                    Contender::H2 => versions::load(Version::H2, address()?, &load).await,
                    Contender::H3 => versions::load(Version::H3, address()?, &load).await,
                }
            })?;
            println!("{rate:.0}");
            Ok(())
        }
    }
}
