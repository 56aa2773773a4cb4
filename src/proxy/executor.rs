//! hyper's tasks, tracked: none of them is lost sight of.

use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

/// Spawns on a tracker.
#[derive(Debug, Clone)]
pub(super) struct Tracked(pub(super) TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
