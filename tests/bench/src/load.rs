//! A load, and how it is counted.

use std::cell::Cell;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Result;

/// The runtime that a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
    /// tokio's default: a worker for each core.
    Multi,
    /// Everything on one thread.
    Current,
}

impl Shape {
    /// As the command line has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Multi => "multi",
            Self::Current => "current",
        }
    }

    pub(crate) fn runtime(self) -> Result<tokio::runtime::Runtime> {
        let mut builder = match self {
            Self::Multi => tokio::runtime::Builder::new_multi_thread(),
            Self::Current => tokio::runtime::Builder::new_current_thread(),
        };
        Ok(builder.enable_all().build()?)
    }
}

/// One client's load on one connection.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Load {
    /// Calls kept under way at once.
    #[arg(long, default_value_t = 64)]
    pub(crate) in_flight: usize,
    /// Connections that share the load; the call protocol alone.
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// How long to count, after a quarter of that for warming up.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Bytes of text in each call.
    #[arg(long, default_value_t = 64)]
    pub(crate) payload: usize,
    /// The client's runtime.
    #[arg(long, value_enum, default_value_t = Shape::Multi)]
    pub(crate) shape: Shape,
    /// The server's certificate, where the contender needs one.
    #[arg(long)]
    pub(crate) certificate: Option<std::path::PathBuf>,
    /// The daemon's directory, for the call protocol.
    #[arg(long)]
    pub(crate) node: Option<std::path::PathBuf>,
}

impl Load {
    /// The text of each call.
    pub(crate) fn text(&self) -> String {
        "x".repeat(self.payload)
    }

    pub(crate) fn certificate(&self) -> Result<String> {
        let path = self.certificate.as_ref();
        let path = path.ok_or_else(|| anyhow::anyhow!("--certificate is missing"))?;
        Ok(std::fs::read_to_string(path)?)
    }

    /// Keeps `in_flight` calls of `call` under way in one task, each with its
    /// number, and returns calls per second.
    pub(crate) async fn run<F, Fut>(&self, call: F) -> Result<f64>
    where
        F: Fn(usize) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let clock = Counter::new(self.seconds);
        let callers = (0..self.in_flight).map(async |number| {
            while clock.tick() {
                call(number).await?;
            }
            anyhow::Ok(())
        });
        futures_util::future::try_join_all(callers).await?;
        Ok(clock.rate())
    }
}

/// Counts calls between the end of warming up and the end.
pub(crate) struct Counter {
    begin: Instant,
    end: Instant,
    counted: Cell<u64>,
}

impl Counter {
    pub(crate) fn new(seconds: f64) -> Self {
        let begin = Instant::now() + Duration::from_secs_f64(seconds / 4.0);
        Self { begin, end: begin + Duration::from_secs_f64(seconds), counted: Cell::new(0) }
    }

    /// Counts a call that is about to start; `false` when time is up.
    pub(crate) fn tick(&self) -> bool {
        self.add(1)
    }

    pub(crate) fn add(&self, calls: u64) -> bool {
        let now = Instant::now();
        if now >= self.begin && now < self.end {
            self.counted.set(self.counted.get() + calls);
        }
        now < self.end
    }

    pub(crate) fn rate(&self) -> f64 {
        self.counted.get() as f64 / (self.end - self.begin).as_secs_f64()
    }
}
