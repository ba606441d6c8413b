//! The table of limits.

use std::time::Duration;

use serde::Serialize;

/// How a plugin runs, which decides what can be enforced on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Substrate {
    /// A shared library in the daemon's own process.
    Native,
    /// A WebAssembly component.
    Component,
    /// A shared library in a process of its own.
    Process,
}

/// What is limited. The order is the table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Resource {
    Memory,
    Cpu,
    CpuPerSecond,
    Instances,
    CallInstances,
    Handles,
    Connections,
    Streams,
    Calls,
    Subscriptions,
    BytesPerSecond,
}

/// What a limit is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes, written as an integer or with `KiB`, `MiB` or `GiB`.
    Bytes,
    /// Milliseconds, written as a duration.
    Milliseconds,
    /// Things.
    Count,
}

/// What happens to a plugin that wants more than it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// What is beyond is refused; the rest goes on.
    Refused,
    /// It waits.
    Waits,
    /// The instance, or the process, is stopped.
    Stopped,
    /// Nothing: this is why it cannot be enforced.
    Unenforceable(&'static str),
}

impl Hold {
    /// In a word, for status and documentation.
    pub fn text(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Waits => "waits",
            Self::Stopped => "stopped",
            Self::Unenforceable(_) => "not enforceable",
        }
    }

    /// Whether the limit is more than a wish.
    pub fn is_enforced(self) -> bool {
        !matches!(self, Self::Unenforceable(_))
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// The key in `[plugin.limits]`, and the name in status and metrics.
    pub key: &'static str,
    /// What it is counted in.
    pub unit: Unit,
    /// What it holds for, where that is not the plugin as a whole.
    pub each: Option<&'static str>,
    /// What holds for a component where the file says nothing; `None` for no limit.
    pub component_default: Option<u64>,
    /// The same for a process.
    pub process_default: Option<u64>,
    /// What it means.
    pub meaning: &'static str,
    /// What happens at the limit, in full.
    pub beyond: &'static str,
    /// Whether the host counts what is in use now.
    pub counted: bool,
    native: Hold,
    component: Hold,
    process: Hold,
}

impl Limit {
    /// What happens at the limit on this substrate.
    pub fn hold(&self, substrate: Substrate) -> Hold {
        match substrate {
            Substrate::Native => self.native,
            Substrate::Component => self.component,
            Substrate::Process => self.process,
        }
    }

    /// What holds on this substrate where the file says nothing.
    pub fn default(&self, substrate: Substrate) -> Option<u64> {
        match substrate {
            Substrate::Native => None,
            Substrate::Component => self.component_default,
            Substrate::Process => self.process_default,
        }
    }
}

use Hold::{Refused, Stopped, Unenforceable, Waits};

const SHARES_MEMORY: Hold = Unenforceable("its memory is the daemon's");
const SHARES_THREADS: Hold = Unenforceable("it computes on the daemon's threads");
const ONE_CODE: Hold = Unenforceable("it has no instances; `connections` and `calls` limit it");
const NO_HANDLES: Hold = Unenforceable("it has no table of handles; `streams` limits it");
const FREE_THREADS: Hold = Unenforceable("the kernel shares the processors out");

/// Every limit that `[plugin.limits]` takes.
pub const TABLE: [Limit; 11] = [
    Limit {
        resource: Resource::Memory,
        key: "memory",
        unit: Unit::Bytes,
        each: Some("instance"),
        component_default: Some(64 << 20),
        process_default: Some(PROCESS_MEMORY),
        meaning: "Memory for each instance, or for the process",
        beyond: "The instance, or the process, is stopped: its connections close as crashed, its calls fail with `INTERNAL`.",
        counted: true,
        native: SHARES_MEMORY,
        component: Stopped,
        process: Stopped,
    },
    Limit {
        resource: Resource::Cpu,
        key: "cpu",
        unit: Unit::Milliseconds,
        each: Some("instance"),
        component_default: Some(1_000),
        process_default: Some(PROCESS_CPU.as_millis() as u64),
        meaning: "How long the plugin may compute without giving way",
        beyond: "It is stopped, as for `memory`. Waiting for anything, or moving bytes of a stream, begins anew; of a process, each thread is watched.",
        counted: false,
        native: SHARES_THREADS,
        component: Stopped,
        process: Stopped,
    },
    Limit {
        resource: Resource::CpuPerSecond,
        key: "cpu_per_second",
        unit: Unit::Milliseconds,
        each: None,
        component_default: None,
        process_default: None,
        meaning: "How long the plugin may compute in each second, all instances together",
        beyond: "It computes on once it has waited for its share; nothing fails but for deadlines. What it leaves over in a second, it may use in the next.",
        counted: false,
        native: SHARES_THREADS,
        component: Waits,
        process: FREE_THREADS,
    },
    Limit {
        resource: Resource::Instances,
        key: "instances",
        unit: Unit::Count,
        each: None,
        component_default: Some(512),
        process_default: None,
        meaning: "Instances that serve connections at the same time",
        beyond: "A connection beyond closes at once, as crashed.",
        counted: true,
        native: ONE_CODE,
        component: Refused,
        process: ONE_CODE,
    },
    Limit {
        resource: Resource::CallInstances,
        key: "call_instances",
        unit: Unit::Count,
        each: None,
        component_default: Some(16),
        process_default: None,
        meaning: "Instances that serve calls at the same time; eight times as many for calls that such calls make of the plugin itself",
        beyond: "A call beyond waits for an instance.",
        counted: true,
        native: ONE_CODE,
        component: Waits,
        process: ONE_CODE,
    },
    Limit {
        resource: Resource::Handles,
        key: "handles",
        unit: Unit::Count,
        each: Some("instance"),
        component_default: Some(16_384),
        process_default: None,
        meaning: "Streams, contexts and other things of the host's that each instance holds",
        beyond: "The instance is stopped, as for `memory`.",
        counted: false,
        native: NO_HANDLES,
        component: Stopped,
        process: NO_HANDLES,
    },
    Limit {
        resource: Resource::Connections,
        key: "connections",
        unit: Unit::Count,
        each: None,
        component_default: None,
        process_default: None,
        meaning: "Connections served at the same time",
        beyond: "A connection beyond is closed with code 4, `rate limited`, before the plugin sees it.",
        counted: true,
        native: Refused,
        component: Refused,
        process: Refused,
    },
    Limit {
        resource: Resource::Streams,
        key: "streams",
        unit: Unit::Count,
        each: None,
        component_default: None,
        process_default: None,
        meaning: "Streams open at the same time, over all its connections",
        beyond: "A stream of the peer's is reset and stopped with code 0x11 before the plugin sees it; opening one fails.",
        counted: true,
        native: Refused,
        component: Refused,
        process: Refused,
    },
    Limit {
        resource: Resource::Calls,
        key: "calls",
        unit: Unit::Count,
        each: None,
        component_default: None,
        process_default: None,
        meaning: "Calls of its queries and mutations in flight",
        beyond: "A call beyond is refused with `RESOURCE_EXHAUSTED`, which callers may retry.",
        counted: true,
        native: Refused,
        component: Refused,
        process: Refused,
    },
    Limit {
        resource: Resource::Subscriptions,
        key: "subscriptions",
        unit: Unit::Count,
        each: None,
        component_default: None,
        process_default: None,
        meaning: "Subscriptions to its operations at the same time",
        beyond: "A subscription beyond is refused, as for `calls`.",
        counted: true,
        native: Refused,
        component: Refused,
        process: Refused,
    },
    Limit {
        resource: Resource::BytesPerSecond,
        key: "bytes_per_second",
        unit: Unit::Bytes,
        each: None,
        component_default: None,
        process_default: None,
        meaning: "Bytes that it reads from and writes to streams in each second",
        beyond: "Its reads and writes wait, and so does the peer in the end; a datagram beyond is dropped. What it leaves over in a second, it may use in the next.",
        counted: false,
        native: Waits,
        component: Waits,
        process: Waits,
    },
];

/// Bytes of memory of a plugin's own process whose stanza says nothing.
pub const PROCESS_MEMORY: u64 = 1 << 30;

/// How long a thread of such a process may go without giving way.
pub const PROCESS_CPU: Duration = Duration::from_secs(10);

/// The most memory that an instance of a component can be given.
pub const MAX_INSTANCE_MEMORY: u64 = 1 << 30;

/// Values for the rows of the table; `None` where there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits([Option<u64>; TABLE.len()]);

impl Limits {
    /// The limit of a resource.
    pub fn get(&self, resource: Resource) -> Option<u64> {
        self.0[resource as usize]
    }

    /// These, with another limit.
    #[must_use]
    pub fn with(mut self, resource: Resource, limit: u64) -> Self {
        self.0[resource as usize] = Some(limit);
        self
    }

    /// What holds for a plugin on this substrate whose stanza says this: without what cannot
    /// be enforced, and with what holds unless something else is said.
    #[must_use]
    pub fn in_force(&self, substrate: Substrate) -> Self {
        let mut limits = *self;
        for (row, limit) in TABLE.iter().zip(&mut limits.0) {
            if !row.hold(substrate).is_enforced() {
                *limit = None;
                continue;
            }
            *limit = limit.or(row.default(substrate));
            if substrate == Substrate::Component && row.resource == Resource::Memory {
                *limit = limit.map(|memory| memory.min(MAX_INSTANCE_MEMORY));
            }
        }
        limits
    }

    /// The rows that a stanza sets and that cannot be enforced on this substrate, and why.
    pub fn unenforceable(
        &self,
        substrate: Substrate,
    ) -> impl Iterator<Item = (&'static Limit, &'static str)> {
        let set = *self;
        TABLE.iter().filter_map(move |row| match row.hold(substrate) {
            Unenforceable(why) if set.get(row.resource).is_some() => Some((row, why)),
            _ => None,
        })
    }
}

/// One limit of one plugin, and how much of it is used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitStatus {
    /// The key in `[plugin.limits]`.
    pub name: &'static str,
    /// What it is counted in.
    pub unit: Unit,
    /// What it holds for, where that is not the plugin as a whole.
    pub each: Option<&'static str>,
    /// The limit; `None` where there is none. What a stanza says of a limit that is not
    /// enforceable stands here too, so that it can be seen to be of no effect.
    pub limit: Option<u64>,
    /// What is in use now, of all instances together; `None` where the host cannot tell.
    pub used: Option<u64>,
    /// How often more was wanted.
    pub hits: u64,
    /// Whether it can be enforced on this plugin.
    pub enforced: bool,
    /// What happens at the limit: `refused`, `waits`, `stopped`, or `not enforceable`.
    pub beyond: &'static str,
    /// Why it cannot be enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
}

/// What a plugin has used since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Seconds of computing. Measured for a component; for a native plugin an estimate
    /// of the time in its handlers, calls and tasks, without threads of its own. `None`
    /// where the host cannot tell.
    pub cpu_seconds: Option<f64>,
    /// Bytes that it has read from streams and datagrams.
    pub bytes_in: u64,
    /// Bytes that it has written to streams and datagrams.
    pub bytes_out: u64,
}

impl Unit {
    /// A value in words: `64 MiB`, `250ms`, `512`.
    pub fn show(self, value: u64) -> String {
        match self {
            Self::Count => value.to_string(),
            Self::Milliseconds => format!("{:?}", Duration::from_millis(value)),
            Self::Bytes => {
                const UNITS: [(&str, u64); 3] =
                    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
                match UNITS.iter().find(|(_, size)| value >= *size) {
                    Some((unit, size)) if value.is_multiple_of(*size) => {
                        format!("{} {unit}", value / size)
                    }
                    Some((unit, size)) => format!("{:.1} {unit}", value as f64 / *size as f64),
                    None => format!("{value} B"),
                }
            }
        }
    }
}
