//! Futures that seldom move, in tasks that are polled for every piece of a connection's bytes.
//!
//! A task that waits for its connection and for three tokens asks each token at every poll; each takes a lock then, two
//! of them one that all connections of the process share, only to find the waker there that it left before. A
//! [`Seldom`] leaves a waker of its own in its future once. That one sets a mark, and a poll reads the mark.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// Polls a future only after that future has asked for it.
#[derive(Debug)]
pub(super) struct Seldom<F> {
    future: F,
    alarm: Arc<Alarm>,
    /// The task that the alarm wakes.
    task: Option<Waker>,
}

/// What the future wakes.
#[derive(Debug)]
struct Alarm {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        // Woken after the lock is let go: the task may run at once.
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F> Seldom<F> {
    /// Polls the future for the first time with its own first poll.
    pub(super) fn new(future: F) -> Self {
        let alarm = Alarm {
            rung: AtomicBool::new(true),
            task: Mutex::new(None),
        };
        Self {
            future,
            alarm: Arc::new(alarm),
            task: None,
        }
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let is_known = |task: &Waker| task.will_wake(cx.waker());
        if !this.task.as_ref().is_some_and(is_known) {
            // Before the mark is read: whoever sets it from now on wakes this task.
            *this.alarm.task.lock() = Some(cx.waker().clone());
            this.task = Some(cx.waker().clone());
        }
        // Looked at before it is taken back: a load costs nothing where nothing has happened.
        if !this.alarm.rung.load(Ordering::Relaxed)
            || !this.alarm.rung.swap(false, Ordering::AcqRel)
        {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&this.alarm));
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Counts its polls.
    struct Counted(Arc<Mutex<u32>>, oneshot::Receiver<()>);

    impl Future for Counted {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let this = self.get_mut();
            *this.0.lock() += 1;
            Pin::new(&mut this.1).poll(cx).map(drop)
        }
    }

    #[tokio::test]
    async fn it_is_polled_at_first_and_when_it_asks() {
        let polls = Arc::new(Mutex::new(0));
        let (send, receive) = oneshot::channel();
        let mut seldom = pin!(Seldom::new(Counted(Arc::clone(&polls), receive)));
        for _ in 0..10 {
            std::future::poll_fn(|cx| {
                assert!(seldom.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        assert_eq!(*polls.lock(), 1);
        send.send(()).unwrap();
        seldom.await;
        assert_eq!(*polls.lock(), 2);
    }

    #[tokio::test]
    async fn whoever_waits_last_is_woken() {
        let token = CancellationToken::new();
        let mut seldom = Seldom::new(Box::pin(token.clone().cancelled_owned()));
        // Another task had it first.
        std::future::poll_fn(|_| {
            let mut other = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut seldom).poll(&mut other).is_pending());
            Poll::Ready(())
        })
        .await;
        let calls = async {
            tokio::task::yield_now().await;
            token.cancel();
        };
        let waits = async { tokio::join!(seldom, calls) };
        tokio::time::timeout(Duration::from_secs(10), waits)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_call_before_the_first_poll_is_heard() {
        let token = CancellationToken::new();
        let seldom = Seldom::new(Box::pin(token.clone().cancelled_owned()));
        token.cancel();
        seldom.await;
    }
}
