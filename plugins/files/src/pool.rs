//! Threads that may block.
//!
//! Reading a file can block for as long as a disk or a network mount likes, and
//! there is no asking it to hurry. So it happens on threads of the plugin's own: a
//! fixed number, fed by a bounded queue. A runtime with its own blocking pool would
//! do the same with more parts, and let that pool grow to hundreds of threads when
//! a mount hangs; here the queue fills, and callers are told to come back.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use alknet_plugin_api::{CallError, code};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that may wait for each thread.
const QUEUE: usize = 64;

pub(crate) struct Pool {
    jobs: SyncSender<Job>,
}

impl Pool {
    /// Starts the threads. They end when the pool is dropped and the queue is
    /// empty.
    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(threads * QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("files-{n}")).spawn(move || work(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Runs `job` on one of the threads. A job whose caller has left before it
    /// begins is skipped; one that has begun ends by itself.
    ///
    /// # Errors
    /// The job's own, or `RESOURCE_EXHAUSTED` when the queue is full.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, CallError> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move || {
            if !answer.is_closed() {
                // The caller may leave while the job runs.
                let _ = answer.send(job());
            }
        });
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => {
                CallError::new(code::RESOURCE_EXHAUSTED, "too many file operations are waiting")
            }
            TrySendError::Disconnected(_) => CallError::internal("the file threads have ended"),
        })?;
        answered.await.unwrap_or_else(|_| Err(CallError::internal("the file operation panicked")))
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // A panic drops the job's answer, which tells the caller. The thread lives.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
            std::mem::forget(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_job() {
        let pool = Pool::new(1).unwrap();
        let failed = pool.run(|| -> Result<(), _> { panic!("on purpose") }).await;
        assert_eq!(failed.unwrap_err().code, code::INTERNAL);
        assert_eq!(pool.run(|| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_left_callers_are_skipped() {
        let pool = Arc::new(Pool::new(1).unwrap());
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(move || {
                    let _ = begin.send(());
                    held.recv().map_err(|error| CallError::internal(error.to_string()))
                })
                .await
            }
        });
        begun.await.unwrap();
        let ran = Arc::new(Mutex::new(0));
        let mut waiting = Vec::new();
        for _ in 0..QUEUE {
            let (pool, ran) = (pool.clone(), ran.clone());
            let mut call = Box::pin(async move {
                pool.run(move || {
                    *ran.lock().unwrap() += 1;
                    Ok(())
                })
                .await
            });
            let waker = std::task::Waker::noop();
            let mut context = std::task::Context::from_waker(waker);
            assert!(std::future::Future::poll(call.as_mut(), &mut context).is_pending());
            waiting.push(call);
        }
        let refused = pool.run(|| Ok(())).await.unwrap_err();
        assert_eq!(refused.code, code::RESOURCE_EXHAUSTED);
        assert!(refused.retryable);
        waiting.truncate(3);
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        for call in waiting {
            call.await.unwrap();
        }
        pool.run(|| Ok(())).await.unwrap();
        assert_eq!(*ran.lock().unwrap(), 3);
    }
}
