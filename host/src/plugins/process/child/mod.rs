//! The child: a small host for one native plugin.
//!
//! It is the daemon's own binary, executed again. Its socket is its standard
//! input and the artifact, an anonymous file that nobody can change, its standard
//! output; nothing else is handed down. Before anything of the plugin runs it
//! takes the limits and the confinement that the host tells it. Then it loads the
//! plugin as the daemon would, and forwards everything that the plugin asks.
//!
//! One thread reads the socket and runs none of the plugin's code. So a plugin's
//! thread may wait for an answer of the host.

mod calls;
mod connection;
mod host;
mod limits;
mod parent;
mod stream;
mod watch;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use alknet_plugin_api::{Host, Json};
use tokio::net::UnixStream as AsyncStream;
use tokio::runtime::Builder;

use self::host::ForwardingHost;
use self::parent::Parent;
use super::link::Inbox;
use super::wire::{Setup, ToChild, ToHost};
use crate::plugins::native;

/// Threads for the plugin's code, at most.
const WORKERS: usize = 4;

/// Runs the plugin that the process began with, until the host is gone.
///
/// # Errors
/// The process was not started by a host, or the system refuses something.
pub fn run() -> Result<(), String> {
    let (mut socket, artifact) = handed_down().map_err(|error| {
        format!("not started by a host: {error}; this command is for `alknet run` alone")
    })?;
    let mut inbox = Inbox::default();
    let setup = first(&mut socket, &mut inbox)?;
    let confined = limits::take(&setup)?;
    serve(socket, inbox, artifact, setup, confined).map_err(|error| error.to_string())
}

/// The socket and the artifact. Neither stays where the plugin expects its
/// standard streams.
fn handed_down() -> io::Result<(UnixStream, File)> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let artifact = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let socket = UnixStream::from(socket);
    socket.peer_addr()?;
    limits::replace_standard_streams()?;
    Ok((socket, artifact))
}

fn first(socket: &mut UnixStream, inbox: &mut Inbox) -> Result<Setup, String> {
    let mut buffer = [0; 4096];
    loop {
        if let Some((head, _)) = inbox.next().map_err(str::to_owned)? {
            return match postcard::from_bytes(&head) {
                Ok(ToChild::Load(setup)) => Ok(setup),
                _ => Err("the host did not say what to load".into()),
            };
        }
        match socket.read(&mut buffer) {
            Ok(0) => return Err("the host is gone".into()),
            Ok(n) => inbox.room().extend_from_slice(&buffer[..n]),
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn serve(
    socket: UnixStream,
    inbox: Inbox,
    artifact: File,
    setup: Setup,
    confined: Option<String>,
) -> io::Result<()> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, WORKERS);
    let plugin = Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("plugin")
        .enable_all()
        .build()?;
    let reading = Builder::new_current_thread().enable_all().build()?;
    socket.set_nonblocking(true)?;
    let parent = Arc::new(Parent::new(socket.try_clone()?, plugin.handle().clone()));
    let (build, wanted) = mpsc::channel();
    let told = parent.clone();
    std::thread::Builder::new().name("host".into()).spawn(move || {
        parent::mark_reading();
        let ended = reading.block_on(async {
            let stream = AsyncStream::from_std(socket)?;
            tokio::select! {
                ended = told.clone().read(&stream, inbox, build) => ended,
                ended = told.outbox.write_queued(&stream) => ended,
            }
        });
        // Without its host the plugin has nobody to serve.
        std::process::exit(i32::from(ended.is_err()));
    })?;
    load(&parent, artifact, &setup, confined, &wanted);
    // Runs until the reading thread ends the process.
    loop {
        std::thread::park();
    }
}

/// Loads and builds the plugin, and tells the host what came of it.
fn load(
    parent: &Arc<Parent>,
    artifact: File,
    setup: &Setup,
    confined: Option<String>,
    wanted: &mpsc::Receiver<Json>,
) {
    let refused = |error: crate::plugins::LoadError| {
        parent.say(&ToHost::Refused, error.to_string().as_bytes());
    };
    let opened = match native::open_sealed(&PathBuf::from(&setup.path), artifact) {
        Ok(opened) => opened,
        Err(error) => return refused(error),
    };
    let manifest = serde_json::to_vec(opened.manifest()).unwrap_or_default();
    parent.say(&ToHost::Loaded { confined }, &manifest);
    let Ok(config) = wanted.recv() else { return };
    let _entered = parent.runtime.enter();
    let host = Host::new(Arc::new(ForwardingHost::new(parent.clone())));
    match opened.build(host, config) {
        Ok(built) => {
            // Set once: there is one build in a process.
            let _first = parent.built.set(built);
            parent.say(&ToHost::Built, b"");
        }
        Err(error) => refused(error),
    }
}
