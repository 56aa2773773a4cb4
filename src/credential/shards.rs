//! A map that is read without a lock and copied on write, in shards so that a copy stays small.
//!
//! Reads are on every request; writes happen when a session's first lease is asked for and when it ends.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

/// Keys to shared values.
#[derive(Debug)]
pub(super) struct Shards<V>(Box<[Shard<V>]>);

#[derive(Debug)]
struct Shard<V> {
    map: ArcSwap<Map<V>>,
    writing: Mutex<()>,
}

type Map<V> = HashMap<Arc<[u8]>, Arc<V>>;

impl<V> Shards<V> {
    /// An empty map in `count` shards, at least one.
    pub(super) fn new(count: usize) -> Self {
        let shard = || Shard {
            map: ArcSwap::from_pointee(Map::new()),
            writing: Mutex::new(()),
        };
        Self((0..count.max(1)).map(|_| shard()).collect())
    }

    /// Applies `read` to the value under `key`. No lock, no allocation.
    pub(super) fn with<R>(&self, key: &[u8], read: impl FnOnce(&Arc<V>) -> R) -> Option<R> {
        self.shard(key)?.map.load().get(key).map(read)
    }

    /// The value under `key`, made where there is none.
    pub(super) fn get_or_insert(&self, key: &[u8], make: impl FnOnce() -> V) -> Arc<V> {
        if let Some(value) = self.with(key, Arc::clone) {
            return value;
        }
        let value = Arc::new(make());
        let Some(shard) = self.shard(key) else {
            return value;
        };
        let _writing = shard.writing.lock();
        let old = shard.map.load();
        if let Some(value) = old.get(key) {
            return Arc::clone(value);
        }
        let mut map = Map::clone(&old);
        map.insert(key.into(), Arc::clone(&value));
        shard.map.store(Arc::new(map));
        value
    }

    /// How many shards there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Shows every value of one shard to `look`; how many there were.
    pub(super) fn each(&self, shard: usize, mut look: impl FnMut(&Arc<V>)) -> usize {
        let Some(shard) = self.0.get(shard) else {
            return 0;
        };
        let map = shard.map.load_full();
        map.values().for_each(&mut look);
        map.len()
    }

    /// Takes out what `gone` names of one shard, copying it only where it changes.
    pub(super) fn remove(&self, shard: usize, mut gone: impl FnMut(&Arc<V>) -> bool) {
        let Some(shard) = self.0.get(shard) else {
            return;
        };
        let _writing = shard.writing.lock();
        let old = shard.map.load();
        let keep: Map<V> = old
            .iter()
            .filter(|(_, value)| !gone(value))
            .map(|(key, value)| (Arc::clone(key), Arc::clone(value)))
            .collect();
        if keep.len() != old.len() {
            shard.map.store(Arc::new(keep));
        }
    }

    /// Takes out the value under `key`, if it is the one that is meant.
    pub(super) fn remove_one(&self, key: &[u8], meant: impl FnOnce(&Arc<V>) -> bool) {
        let Some(shard) = self.shard(key) else { return };
        let _writing = shard.writing.lock();
        let old = shard.map.load();
        if old.get(key).is_some_and(meant) {
            let mut map = Map::clone(&old);
            map.remove(key);
            shard.map.store(Arc::new(map));
        }
    }

    /// Every value.
    pub(super) fn values(&self) -> Vec<Arc<V>> {
        self.0
            .iter()
            .flat_map(|shard| shard.map.load().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// FNV-1a over the key: keys are ours (session ids, agent ids); a user's name in one makes a shard longer at worst.
    fn shard(&self, key: &[u8]) -> Option<&Shard<V>> {
        let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let count = self.0.len() as u64;
        self.0.get(usize::try_from(hash % count).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inserted_is_found_once_and_can_be_taken() {
        let shards = Shards::new(8);
        for n in 0..1000 {
            let key = format!("session-{n}");
            assert_eq!(*shards.get_or_insert(key.as_bytes(), || n), n);
            assert_eq!(*shards.get_or_insert(key.as_bytes(), || usize::MAX), n);
        }
        assert_eq!(shards.values().len(), 1000);
        shards.remove_one(b"session-7", |_| false);
        assert_eq!(shards.with(b"session-7", |value| **value), Some(7));
        shards.remove_one(b"session-7", |value| **value == 7);
        assert_eq!(shards.with(b"session-7", |_| ()), None);
        let mut seen = 0;
        for shard in 0..shards.count() {
            shards.remove(shard, |value| **value % 2 == 0);
            seen += shards.each(shard, |value| assert_eq!(**value % 2, 1));
        }
        assert_eq!((seen, shards.values().len()), (499, 499));
        assert_eq!(shards.each(8, |_| ()), 0);
    }
}
