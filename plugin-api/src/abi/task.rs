//! Spawned tasks across the boundary.

use std::task::{Context, Poll};

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;

use super::fault::Fault;
use super::value::{Handle, PENDING, READY, Table, drop_raw, object};
use super::waker::{WakerCache, WakerWords};
use super::{guard, guard_drop};
use crate::host::{TaskControl, TaskHandle};

/// As [`TaskControl`]. `poll_ended` returns ready or pending.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = TaskRef, prefix_fields = TaskPrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct TaskTable {
    pub drop: unsafe extern "C" fn(data: *mut ()),
    pub abort: unsafe extern "C" fn(data: *mut ()),
    #[sabi(last_prefix_field)]
    pub poll_ended: unsafe extern "C" fn(data: *mut (), waker: *const WakerWords) -> u32,
}

impl Table for TaskRef {
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ()) {
        self.drop()
    }
}

/// Behind a lock, so that `abort` may be called while another thread polls.
struct ExportedTask {
    task: std::sync::Mutex<(TaskHandle, WakerCache)>,
}

static TASK: WithMetadata<TaskTable> = WithMetadata::new(TaskTable {
    drop: drop_raw::<ExportedTask>,
    abort: task_abort,
    poll_ended: task_poll_ended,
});

impl ExportedTask {
    fn lock(&self) -> std::sync::MutexGuard<'_, (TaskHandle, WakerCache)> {
        self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

unsafe extern "C" fn task_abort(data: *mut ()) {
    // SAFETY: called through the table with the handle's data.
    guard_drop(|| unsafe { object::<ExportedTask>(data) }.lock().0.abort());
}

unsafe extern "C" fn task_poll_ended(data: *mut (), waker: *const WakerWords) -> u32 {
    let ended = guard(|| {
        // SAFETY: called through the table with the handle's data.
        let mut task = unsafe { object::<ExportedTask>(data) }.lock();
        let (task, cache) = &mut *task;
        // SAFETY: the importer lends its waker for this call.
        unsafe { cache.with(*waker, |waker| task.poll_ended(&mut Context::from_waker(waker))) }
    });
    match ended {
        Ok(Poll::Pending) => PENDING,
        // A control that panics says nothing more about its task.
        Ok(Poll::Ready(())) | Err(_) => READY,
    }
}

pub(crate) fn export_task(task: TaskHandle) -> Handle<TaskRef> {
    let task = ExportedTask { task: std::sync::Mutex::new((task, WakerCache::default())) };
    Handle::new(task, TaskRef(TASK.static_as_prefix()))
}

struct ImportedTask(Handle<TaskRef>);

impl TaskControl for ImportedTask {
    fn abort(&self) {
        // SAFETY: the handle is alive.
        unsafe { self.0.table.abort()(self.0.data) }
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let words = WakerWords::of(cx.waker());
        // SAFETY: the handle is alive, the words live through the call.
        match unsafe { self.0.table.poll_ended()(self.0.data, &words) } {
            PENDING => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }
}

/// A task that the host would not take: it has ended.
struct NotSpawned;

impl TaskControl for NotSpawned {
    fn abort(&self) {}
    fn poll_ended(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// The task that the host has started, or the end of one that it would not take.
pub(crate) fn import_task(spawned: Result<Handle<TaskRef>, Fault>) -> TaskHandle {
    TaskHandle::new(match spawned {
        Ok(handle) => Box::new(ImportedTask(handle)),
        Err(_) => Box::new(NotSpawned),
    })
}
