//! The child's life: its start, its signs of life, its end, and its next start.
//!
//! Each isolated plugin has a thread in the daemon that starts its processes, reads
//! what they say and sees them end. Its processes die with that thread, and so with
//! the daemon.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use alknet_plugin_api::{Host, Json, Level, LogRecord, Manifest};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream as AsyncStream;
use tokio::process::{Child as Running, Command};
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::Launch;
use super::serving::Died;
use super::session::{Event, Session, Violation};
use super::wire::{Files, Setup, ToChild};
use crate::imports::Backoff;
use crate::plugins::LoadError;

/// How long a child may take to load or build its plugin.
const START: Duration = Duration::from_secs(60);

/// How long whoever needs the plugin waits for its next process.
const WAIT: Duration = Duration::from_secs(5);

/// A process that has lived so long was in order.
const PROVEN: Duration = Duration::from_secs(60);

/// How long a process that closed its socket may take to end.
const LAST: Duration = Duration::from_secs(1);

/// The longest line of a child's standard error that is kept whole.
const LINE: u64 = 8 << 10;

/// Whether the plugin has a process.
#[derive(Clone)]
enum Phase {
    Up(Arc<Session>),
    Down(Arc<str>),
}

/// A plugin with a process of its own; dropping it ends the process.
pub(super) struct Process {
    phase: watch::Receiver<Phase>,
    _stop: oneshot::Sender<()>,
}

impl Process {
    /// The process that serves now, or the next one if it is there soon.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Died> {
        if let Some(session) = living(&self.phase.borrow()) {
            return Ok(session);
        }
        let mut phase = self.phase.clone();
        let up = timeout(WAIT, phase.wait_for(|phase| living(phase).is_some())).await;
        if let Ok(Ok(phase)) = up
            && let Some(session) = living(&phase)
        {
            return Ok(session);
        }
        Err(match &*self.phase.borrow() {
            Phase::Down(death) => Died(death.clone()),
            Phase::Up(session) => Died(session.death().unwrap_or_default()),
        })
    }
}

fn living(phase: &Phase) -> Option<Arc<Session>> {
    match phase {
        Phase::Up(session) if session.death().is_none() => Some(session.clone()),
        _ => None,
    }
}

/// A plugin that its first process has loaded.
pub(super) struct Supervised {
    path: PathBuf,
    build: oneshot::Sender<Build>,
}

/// What a plugin is built with.
struct Build {
    host: Host,
    config: Json,
    node: Option<Handle>,
    built: mpsc::Sender<Result<(), LoadError>>,
    phase: oneshot::Sender<watch::Receiver<Phase>>,
    stop: oneshot::Receiver<()>,
}

impl Supervised {
    /// Starts the supervisor and the first process.
    pub(super) fn start(
        launch: Launch,
        path: PathBuf,
        file: File,
    ) -> Result<(Self, Manifest), LoadError> {
        let failed = |path: &Path, error: io::Error| process_error(path, error.to_string());
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(&path, error))?;
        let (build, wanted) = oneshot::channel();
        let (loaded, manifest) = mpsc::channel();
        let origin = Origin { launch, path: path.clone(), file };
        let name = format!("of {}", origin.launch.name);
        std::thread::Builder::new()
            .name(name)
            .spawn(move || runtime.block_on(live(origin, &loaded, wanted)))
            .map_err(|error| failed(&path, error))?;
        let manifest = manifest.recv().map_err(|_| gone(&path))??;
        Ok((Self { path, build }, manifest))
    }

    /// Builds the plugin, and keeps it running from then on.
    pub(super) fn build(self, host: Host, config: Json) -> Result<Arc<Process>, LoadError> {
        let path = self.path;
        let ((built, result), (phase, phases)) = (mpsc::channel(), oneshot::channel());
        let (stop, stopped) = oneshot::channel();
        let node = Handle::try_current().ok();
        let build = Build { host, config, node, built, phase, stop: stopped };
        self.build.send(build).map_err(|_| gone(&path))?;
        result.recv().map_err(|_| gone(&path))??;
        // It has been sent, as the plugin is built.
        let mut phases = phases;
        let phase = phases.try_recv().map_err(|_| gone(&path))?;
        Ok(Arc::new(Process { phase, _stop: stop }))
    }
}

fn process_error(path: &Path, cause: String) -> LoadError {
    LoadError::Process { path: path.to_owned(), cause }
}

fn gone(path: &Path) -> LoadError {
    process_error(path, "ended before it was ready".into())
}

/// What every process of a plugin comes from.
struct Origin {
    launch: Launch,
    path: PathBuf,
    file: File,
}

/// The plugin's whole life.
async fn live(
    origin: Origin,
    loaded: &mpsc::Sender<Result<Manifest, LoadError>>,
    mut wanted: oneshot::Receiver<Build>,
) {
    let mut child = match Child::start(&origin).await {
        Ok((child, manifest)) => {
            let _gone = loaded.send(Ok(manifest));
            child
        }
        Err(error) => return drop(loaded.send(Err(error))),
    };
    let build = tokio::select! {
        build = &mut wanted => build,
        death = child.body.death(None) => {
            child.session.end(&death.text);
            wanted.await
        }
    };
    // Nobody builds what was only looked at.
    let Ok(build) = build else { return child.kill().await };
    let Build { host, config, node, built, phase, stop } = build;
    let node = node.unwrap_or_else(Handle::current);
    if let Err(error) = child.build(&origin, &host, &node, &config).await {
        child.kill().await;
        return drop(built.send(Err(error)));
    }
    let (phases, first) = watch::channel(Phase::Up(child.session.clone()));
    let _gone = (phase.send(first), built.send(Ok(())));
    let mut keeper = Keeper { origin, host, node, config, phases };
    tokio::select! {
        () = keeper.keep(&mut child) => {}
        _ = stop => child.kill().await,
    }
}

/// Keeps a plugin running.
struct Keeper {
    origin: Origin,
    host: Host,
    node: Handle,
    config: Json,
    phases: watch::Sender<Phase>,
}

impl Keeper {
    async fn keep(&mut self, child: &mut Child) {
        let plugin = self.origin.launch.name.clone();
        let running = metrics::gauge!("alknet_isolated_running", "plugin" => plugin.clone());
        let mut pauses = Backoff::new();
        loop {
            running.set(1.0);
            let since = Instant::now();
            let death = child.body.death(Some(self.origin.launch.patience)).await;
            running.set(0.0);
            self.mourn(child, &plugin, &death);
            if since.elapsed() > PROVEN {
                pauses.reset();
            }
            *child = loop {
                sleep(pauses.pause()).await;
                match self.again().await {
                    Ok(child) => break child,
                    Err(error) => {
                        tracing::error!(plugin, "its next process does not start: {error}");
                        self.phases.send_replace(Phase::Down(error.to_string().into()));
                    }
                }
            };
            metrics::counter!("alknet_isolated_restarts_total", "plugin" => plugin.clone())
                .increment(1);
            self.phases.send_replace(Phase::Up(child.session.clone()));
        }
    }

    fn mourn(&self, child: &Child, plugin: &str, death: &Death) {
        let words = child.words.lock().clone();
        let text = match words.is_empty() {
            true => death.text.clone(),
            false => format!("{}: {words}", death.text),
        };
        metrics::counter!(
            "alknet_isolated_deaths_total", "plugin" => plugin.to_owned(), "cause" => death.cause
        )
        .increment(1);
        tracing::error!(plugin, cause = death.cause, pid = child.pid, "its process {text}");
        child.session.end(&death.text);
        self.phases.send_replace(Phase::Down(death.text.as_str().into()));
    }

    async fn again(&self) -> Result<Child, LoadError> {
        let (mut child, _) = Child::start(&self.origin).await?;
        match child.build(&self.origin, &self.host, &self.node, &self.config).await {
            Ok(()) => Ok(child),
            Err(error) => {
                child.kill().await;
                Err(error)
            }
        }
    }
}

/// Why a process ended.
#[derive(Clone)]
struct Death {
    /// For metrics.
    cause: &'static str,
    /// What it did, after "the process".
    text: String,
}

/// A process.
struct Child {
    pid: Option<u32>,
    session: Arc<Session>,
    body: Body,
    events: UnboundedReceiver<Event>,
    writing: JoinHandle<io::Result<()>>,
    /// The last it wrote to its standard error.
    words: Arc<Mutex<String>>,
}

impl Drop for Child {
    fn drop(&mut self) {
        self.body.reading.abort();
        self.writing.abort();
    }
}

impl Child {
    /// Starts a process and has it load the plugin.
    async fn start(origin: &Origin) -> Result<(Self, Manifest), LoadError> {
        let failed =
            |error: io::Error| process_error(&origin.path, format!("does not start: {error}"));
        let mut child = Self::spawn(origin).map_err(failed)?;
        let event = child.event().await;
        let (manifest, confined) = match event {
            Ok(Event::Loaded { manifest, confined }) => (manifest, confined),
            other => {
                child.kill().await;
                return Err(unready(origin, other));
            }
        };
        let manifest = serde_json::from_slice(&manifest).map_err(|error| LoadError::Manifest {
            path: origin.path.clone(),
            cause: format!("its manifest is malformed: {error}"),
        })?;
        tracing::info!(
            plugin = origin.launch.name,
            pid = child.pid,
            memory = origin.launch.memory_bytes,
            files = confined.as_deref().unwrap_or("not confined"),
            "an isolated plugin's process is limited by rlimits"
        );
        Ok((child, manifest))
    }

    fn spawn(origin: &Origin) -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        let mut running = Command::new(&origin.launch.program)
            .args(["isolated-plugin", &origin.launch.name])
            .env_clear()
            .envs(inherited())
            // Each of the allocator's arenas sets addresses aside, which are limited.
            .env("MALLOC_ARENA_MAX", "4")
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::from(OwnedFd::from(origin.file.try_clone()?)))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        near.set_nonblocking(true)?;
        let stream = AsyncStream::from_std(near.try_clone()?)?;
        let (told, events) = unbounded_channel();
        let plugin = Arc::<str>::from(origin.launch.name.as_str());
        let session = Arc::new(Session::new(plugin, near.try_clone()?, told));
        let (writer, queue) = (AsyncStream::from_std(near)?, session.clone());
        let writing = tokio::spawn(async move { queue.outbox.write_queued(&writer).await });
        let reading = tokio::spawn(session.clone().read(stream));
        let words = Arc::<Mutex<String>>::default();
        if let Some(stderr) = running.stderr.take() {
            tokio::spawn(listen(stderr, session.clone(), words.clone()));
        }
        let _gone = session.say(&ToChild::Load(setup(origin)), b"");
        let pid = running.id();
        let body = Body { running, session: session.clone(), reading, death: None };
        Ok(Self { pid, session, body, events, writing, words })
    }

    async fn build(
        &mut self,
        origin: &Origin,
        host: &Host,
        node: &Handle,
        config: &Json,
    ) -> Result<(), LoadError> {
        self.session.open(host, node);
        let now = u64::try_from(host.now().as_nanos()).unwrap_or(u64::MAX);
        let build = ToChild::Build { now, levels: Session::levels(Some(host)) };
        let _gone = self.session.say(&build, config.as_bytes());
        match self.event().await {
            Ok(Event::Built) => Ok(()),
            other => Err(unready(origin, other)),
        }
    }

    /// What the process says of its start.
    async fn event(&mut self) -> Result<Event, Death> {
        let late = Death { cause: "unresponsive", text: "does not get ready".into() };
        tokio::select! {
            biased;
            Some(event) = self.events.recv() => Ok(event),
            death = self.body.death(None) => Err(death),
            () = sleep(START) => Err(late),
        }
    }

    async fn kill(&mut self) {
        self.body.kill().await;
    }
}

/// What ends with a process.
struct Body {
    running: Running,
    session: Arc<Session>,
    reading: JoinHandle<Result<(), Violation>>,
    death: Option<Death>,
}

impl Body {
    /// Resolves when the process has ended, or had to be ended: because it broke
    /// the rules or, where there is a limit to patience, gave no sign of life.
    async fn death(&mut self, patience: Option<Duration>) -> Death {
        if let Some(death) = &self.death {
            return death.clone();
        }
        let pulse = async {
            match patience {
                Some(patience) => pulse(&self.session, patience).await,
                None => std::future::pending().await,
            }
        };
        let (ended, death) = tokio::select! {
            status = self.running.wait() => (true, buried(status)),
            ended = &mut self.reading => match ended {
                Ok(Err(violation)) => {
                    (false, Death { cause: "protocol", text: violation.to_string() })
                }
                _ => match timeout(LAST, self.running.wait()).await {
                    Ok(status) => (true, buried(status)),
                    Err(_) => {
                        (false, Death { cause: "protocol", text: "closed its socket".into() })
                    }
                },
            },
            text = pulse => (false, Death { cause: "unresponsive", text }),
        };
        if !ended {
            self.kill().await;
        }
        self.death.insert(death).clone()
    }

    async fn kill(&mut self) {
        // It may have ended already.
        let _ended = self.running.kill().await;
    }
}

/// What a child is handed of its host's environment: nothing of it is secret, and
/// programs fail in odd ways without it.
fn inherited() -> impl Iterator<Item = (&'static str, OsString)> {
    let set = |name: &'static str| Some((name, std::env::var_os(name)?));
    let names = [
        "LANG",
        "LC_ALL",
        "TZ",
        "PATH",
        "HOME",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "RUST_BACKTRACE",
    ];
    names.into_iter().filter_map(set)
}

fn buried(status: io::Result<ExitStatus>) -> Death {
    match status {
        Ok(status) => told(status),
        Err(error) => Death { cause: "exit", text: format!("is lost: {error}") },
    }
}

fn unready(origin: &Origin, event: Result<Event, Death>) -> LoadError {
    match event {
        Ok(Event::Refused(text)) => LoadError::InProcess { text },
        Ok(_) => process_error(&origin.path, "says things out of turn".into()),
        Err(death) => process_error(&origin.path, death.text),
    }
}

fn setup(origin: &Origin) -> Setup {
    let Launch { memory_bytes, files, .. } = &origin.launch;
    let texts = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect();
    Setup {
        path: origin.path.display().to_string(),
        host: std::process::id(),
        memory: *memory_bytes,
        files: files.as_ref().map(|files| Files {
            read: texts(&files.read),
            write: texts(&files.write),
            required: files.required,
        }),
    }
}

/// Resolves with what is wrong once the child shows no sign of life, or one of its
/// threads does not give way.
async fn pulse(session: &Session, patience: Duration) -> String {
    let every = (patience / 4).clamp(Duration::from_millis(50), Duration::from_secs(1));
    // Not blamed on a child: that this thread itself was held up.
    let mut silent = Duration::ZERO;
    let mut heard = session.pulse().0;
    for nonce in 0.. {
        let levels = Session::levels(session.host());
        let _gone = session.say(&ToChild::Ping { nonce, levels }, b"");
        sleep(every).await;
        let (at, busy) = session.pulse();
        silent = if at == heard { silent + every } else { Duration::ZERO };
        heard = at;
        if busy >= patience {
            return format!("had to be ended: a thread of it did not give way for {busy:.1?}");
        }
        if silent >= patience {
            return format!("had to be ended: it gave no sign of life for {silent:.1?}");
        }
    }
    String::new()
}

/// Logs what the child writes to its standard error, which is for people.
async fn listen(
    stderr: tokio::process::ChildStderr,
    session: Arc<Session>,
    words: Arc<Mutex<String>>,
) {
    let mut lines = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        if let Some(host) = session.host() {
            let (target, fields) = ("stderr", &[][..]);
            host.log(&LogRecord { level: Level::Warn, target, message: line, fields });
        }
        line.clone_into(&mut words.lock());
    }
}

fn told(status: ExitStatus) -> Death {
    let Some(signal) = status.signal() else {
        let text = match status.code() {
            Some(code) => format!("exited with status {code}"),
            None => "ended".into(),
        };
        return Death { cause: "exit", text };
    };
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGTERM => "SIGTERM",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGSYS => "SIGSYS",
        _ => "another signal",
    };
    Death { cause: "signal", text: format!("was killed by signal {signal} ({name})") }
}
