//! `jobs`: calls that go on while the guest does other things.

use std::time::Duration;

use wasmtime::component::Resource;
use windlass_model::{Answered, CallError, LogStream, Reply};

use crate::bindings::windlass::plugin::{jobs, types};
use crate::guest::{Guest, Trapped};
use crate::job::{Job, JobEvent};
use crate::limits;

impl jobs::Host for Guest {
    async fn select(
        &mut self,
        handles: Vec<Resource<Job>>,
        timeout_ms: u32,
    ) -> Trapped<Result<Option<u32>, types::Error>> {
        self.sees_events()?;
        if handles.len() > limits::MAX_JOBS {
            let limit = limits::MAX_JOBS;
            return Err(self.reached(format!("its limit of {limit} jobs in one `select`")));
        }
        let end = tokio::time::Instant::now() + Duration::from_millis(timeout_ms.into());
        let cancel = self.setup.cancel.clone();
        loop {
            let mut notified = Vec::new();
            for handle in &handles {
                let changed = self.table.get(handle)?.changed();
                notified.push(Box::pin(async move { changed.notified().await }));
            }
            for (index, handle) in handles.iter().enumerate() {
                if self.table.get(handle)?.is_ready() {
                    self.answered(&Answered::default(), None);
                    return Ok(Ok(u32::try_from(index).ok()));
                }
            }
            if cancel.is_cancelled() {
                return Ok(Err(CallError::cancelled().into()));
            }
            if tokio::time::Instant::now() >= end {
                self.answered(&Answered::default(), None);
                return Ok(Ok(None));
            }
            // A notification that falls between the look and the wait costs at
            // most this pause.
            let pause = (tokio::time::Instant::now() + Duration::from_millis(20)).min(end);
            let _ = tokio::time::timeout_at(pause, first(notified)).await;
        }
    }
}

/// Ends with the first of them.
async fn first<F: Future<Output = ()> + Unpin>(mut futures: Vec<F>) {
    std::future::poll_fn(|context| {
        for future in &mut futures {
            if std::pin::Pin::new(future).poll(context).is_ready() {
                return std::task::Poll::Ready(());
            }
        }
        std::task::Poll::Pending
    })
    .await;
}

impl jobs::HostJob for Guest {
    async fn next(
        &mut self,
        handle: Resource<Job>,
        timeout_ms: u32,
    ) -> Trapped<Result<Option<jobs::Event>, types::Error>> {
        self.sees_events()?;
        let cancel = self.setup.cancel.clone();
        let job = self.table.get_mut(&handle)?;
        let event = tokio::select! {
            event = job.next(Duration::from_millis(timeout_ms.into())) => event,
            () = cancel.cancelled() => return Ok(Err(CallError::cancelled().into())),
        };
        self.answered(&Answered::default(), None);
        Ok(Ok(event.map(|event| match event {
            JobEvent::Log(stream, text) => jobs::Event::Log(jobs::LogLine {
                stream: match stream {
                    LogStream::Stdout => jobs::LogStream::Stdout,
                    LogStream::Stderr => jobs::LogStream::Stderr,
                },
                text,
            }),
            JobEvent::Status(text) => jobs::Event::Status(text),
            JobEvent::Ended => jobs::Event::Ended,
        })))
    }

    async fn wait(&mut self, handle: Resource<Job>) -> Trapped<Result<jobs::Exit, types::Error>> {
        let job = self.table.get_mut(&handle)?;
        let answer = job.wait().await;
        let answered = job.answered.clone();
        self.answered(&answered, answer.as_ref().err());
        let exit = match answer {
            Ok(Reply::Exit(exit)) => exit,
            Ok(Reply::Done) => windlass_model::reply::Exit::default(),
            Ok(other) => {
                return Ok(Err(CallError::wrong_reply("job.wait", other.kind()).into()));
            }
            Err(error) => return Ok(Err(error.into())),
        };
        let mut values = Vec::new();
        for (name, text) in exit.values {
            values.push((name, self.push_value(text)?));
        }
        Ok(Ok(jobs::Exit {
            code: exit.code,
            tail: exit.tail,
            values,
        }))
    }

    async fn cancel(&mut self, handle: Resource<Job>) -> Trapped<()> {
        self.table.get(&handle)?.cancel.cancel();
        Ok(())
    }

    async fn drop(&mut self, handle: Resource<Job>) -> Trapped<()> {
        self.table.delete(handle)?;
        self.jobs = self.jobs.saturating_sub(1);
        Ok(())
    }
}
