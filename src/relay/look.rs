//! Files that others write anew: whether they are what they were (docs/adr/0010).

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// How often they are looked at.
pub(super) const EVERY: Duration = Duration::from_millis(250);

/// What tells one state of some files from another, through links: Kubernetes swaps a link, others rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look(Vec<Option<(u64, u64, i64, i64)>>);

impl Look {
    /// Looks now; a file that is not there is a state too.
    pub(super) async fn at(files: &[PathBuf]) -> Self {
        let mut seen = Vec::with_capacity(files.len());
        for file in files {
            let found = tokio::fs::metadata(file).await.ok();
            seen.push(found.map(|found| {
                let modified = found.mtime_nsec() + found.mtime() * 1_000_000_000;
                let changed = found.ctime_nsec() + found.ctime() * 1_000_000_000;
                (found.ino(), found.size(), modified, changed)
            }));
        }
        Self(seen)
    }
}

/// Waits until the files are others than `last`, and have been the same for two looks: half of a pair is not read.
pub(super) async fn changed(files: &[PathBuf], last: &mut Look) {
    let mut before = None;
    loop {
        tokio::time::sleep(EVERY).await;
        let now = Look::at(files).await;
        if now != *last && before.as_ref() == Some(&now) {
            *last = now;
            return;
        }
        before = Some(now);
    }
}
