//! Room in the queue: how many calls, and how many bytes of their files, may wait or be worked on
//! at once: in all, and of one caller, so that one who comes with everything at once leaves room for
//! the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The room that there is.
pub struct Room {
    all: Space,
    /// What all those together may take of it who wait for room: for the others, who are refused
    /// where there is none, the rest stays.
    waiting: Space,
    /// What each caller may take of it.
    share: Size,
    /// Those who have something or wait for it: how often, and their shares.
    callers: Mutex<HashMap<String, (usize, Arc<Space>)>>,
}

/// How much room.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// For so many calls.
    pub calls: usize,
    /// For so many bytes of their files.
    pub bytes: usize,
}

/// What a call takes of the room; given back when dropped.
pub struct Permits {
    _of_all: Taken,
    _of_waiting: Option<Taken>,
    _of_share: Taken,
    _caller: Caller,
}

impl Room {
    /// So much in all, and so much of it for each caller.
    pub fn new(all: Size, share: Size) -> Arc<Self> {
        let (all, waiting) = (Space::new(all), Space::new(share));
        Arc::new(Self { all, waiting, share, callers: Mutex::default() })
    }

    /// Takes room for a file, if there is some.
    pub fn try_take(self: &Arc<Self>, caller: &str, bytes: usize) -> Option<Permits> {
        let caller = self.caller(caller);
        let of_share = caller.share.try_take(bytes)?;
        let of_all = self.all.try_take(bytes)?;
        Some(Permits { _of_all: of_all, _of_waiting: None, _of_share: of_share, _caller: caller })
    }

    /// Waits until there is room for a file. The caller's own share comes first: who waits for
    /// that keeps nobody else waiting.
    pub async fn take(self: &Arc<Self>, caller: &str, bytes: usize) -> Option<Permits> {
        let caller = self.caller(caller);
        let of_share = caller.share.take(bytes).await?;
        let of_waiting = self.waiting.take(bytes).await?;
        let of_all = self.all.take(bytes).await?;
        Some(Permits {
            _of_all: of_all,
            _of_waiting: Some(of_waiting),
            _of_share: of_share,
            _caller: caller,
        })
    }

    fn caller(self: &Arc<Self>, name: &str) -> Caller {
        let mut callers = self.callers();
        let new = || (0, Arc::new(Space::new(self.share)));
        let (uses, share) = callers.entry(name.to_string()).or_insert_with(new);
        *uses += 1;
        Caller { room: Arc::clone(self), name: name.to_string(), share: Arc::clone(share) }
    }

    fn callers(&self) -> MutexGuard<'_, HashMap<String, (usize, Arc<Space>)>> {
        self.callers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One who has room or waits for it; forgotten when it does neither.
struct Caller {
    room: Arc<Room>,
    name: String,
    share: Arc<Space>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut callers = self.room.callers();
        let Some((uses, _)) = callers.get_mut(&self.name) else { return };
        *uses -= 1;
        if *uses == 0 {
            callers.remove(&self.name);
        }
    }
}

/// Room of some size.
struct Space {
    /// A permit for every call.
    calls: Arc<Semaphore>,
    /// A permit for every kibibyte of their files.
    kibibytes: Arc<Semaphore>,
    kibibytes_max: u32,
}

struct Taken {
    _call: OwnedSemaphorePermit,
    _kibibytes: OwnedSemaphorePermit,
}

impl Space {
    fn new(size: Size) -> Self {
        let kibibytes_max = kibibytes(size.bytes);
        Self {
            calls: Arc::new(Semaphore::new(size.calls)),
            kibibytes: Arc::new(Semaphore::new(kibibytes_max as usize)),
            kibibytes_max,
        }
    }

    fn try_take(&self, bytes: usize) -> Option<Taken> {
        let call = Arc::clone(&self.calls).try_acquire_owned().ok()?;
        let kibibytes = Arc::clone(&self.kibibytes).try_acquire_many_owned(self.permits(bytes));
        Some(Taken { _call: call, _kibibytes: kibibytes.ok()? })
    }

    async fn take(&self, bytes: usize) -> Option<Taken> {
        let call = Arc::clone(&self.calls).acquire_owned().await.ok()?;
        let kibibytes = Arc::clone(&self.kibibytes).acquire_many_owned(self.permits(bytes)).await;
        Some(Taken { _call: call, _kibibytes: kibibytes.ok()? })
    }

    /// The permits that a file takes: never more than there are, or it would wait for ever.
    fn permits(&self, bytes: usize) -> u32 {
        kibibytes(bytes).min(self.kibibytes_max)
    }
}

fn kibibytes(bytes: usize) -> u32 {
    bytes.div_ceil(1 << 10).clamp(1, u32::MAX as usize >> 3) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Arc<Room> {
        Room::new(Size { calls: 3, bytes: 8 << 10 }, Size { calls: 2, bytes: 6 << 10 })
    }

    #[test]
    fn one_caller_leaves_room_for_another() {
        let room = room();
        let taken = (room.try_take("many", 1), room.try_take("many", 1));
        assert!(taken.0.is_some() && taken.1.is_some());
        assert!(room.try_take("many", 1).is_none(), "more than its share");
        let one = room.try_take("one", 1);
        assert!(one.is_some());
        assert!(room.try_take("another", 1).is_none(), "more than there is");
        drop(taken.0);
        assert!(room.try_take("many", 1).is_some());
    }

    #[test]
    fn bytes_are_bounded_and_the_largest_file_still_fits() {
        let room = room();
        let taken = room.try_take("many", 5 << 10);
        assert!(taken.is_some());
        assert!(room.try_take("many", 2 << 10).is_none(), "more than its share");
        assert!(room.try_take("one", 4 << 10).is_none(), "more than there is");
        drop(taken);
        assert!(room.try_take("many", 1 << 20).is_some());
    }

    #[tokio::test]
    async fn those_who_wait_leave_room_for_those_who_do_not() {
        let room = room();
        let taken = (room.take("one", 1).await, room.take("another", 1).await);
        let mut third = Box::pin(room.take("third", 1));
        assert!(futures::poll!(&mut third).is_pending());
        assert!(room.try_take("fourth", 1).is_some());
        drop(taken);
        assert!(third.await.is_some());
    }

    #[tokio::test]
    async fn who_waits_for_its_share_keeps_nobody_else_waiting_and_is_forgotten_in_the_end() {
        let room = room();
        let taken = (room.try_take("many", 1), room.try_take("many", 1));
        let mut third = Box::pin(room.take("many", 1));
        assert!(futures::poll!(&mut third).is_pending());
        let one = room.take("one", 1).await;
        assert!(one.is_some());
        drop(taken);
        assert!(third.await.is_some());
        drop(one);
        assert!(room.callers().is_empty());
    }
}
