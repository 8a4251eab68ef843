//! How many bytes of messages the server holds, in all calls together.
//!
//! They are counted as they arrive. A call with one message has its bytes until the call is over.
//! In a call with many, a method takes the [`Share`] of each message that it reads and lets go of
//! it with what it made of the message: so a stream may go on for ever, and a document counts until
//! its last page is answered, though nothing of it arrives any more.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use super::status::{self, Reason};

/// When to try again after the bytes in flight were too many.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What stands before every message of gRPC: a flag, and the length of what follows.
const PREFIX_BYTES: usize = 5;

/// How many messages a method takes in one call, and how long it holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Messages {
    /// One, until the call is over.
    One,
    /// Many, each until the share that the method took of it is dropped.
    Shared,
    /// Many, each only until it is read: they are answered one by one.
    Passing,
}

/// How many bytes there are, and how many there may be.
#[derive(Debug)]
pub(super) struct InFlight {
    bytes: AtomicUsize,
    bytes_max: usize,
    /// How long a message that has begun may take to arrive.
    message_time_max: Duration,
}

impl InFlight {
    pub(super) fn new(bytes_max: usize, message_time_max: Duration) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), bytes_max, message_time_max })
    }

    /// The claim of a call that has sent nothing yet.
    pub(super) fn claim(self: &Arc<Self>) -> Arc<Claim> {
        Arc::new(Claim {
            of: Arc::clone(self),
            bytes: AtomicUsize::new(0),
            whole: Mutex::default(),
        })
    }

    fn take(&self, bytes: usize) -> bool {
        gauge().increment(bytes as f64);
        let fits = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.bytes_max;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        gauge().decrement(bytes as f64);
    }
}

fn gauge() -> metrics::Gauge {
    metrics::gauge!("img2text_messages_in_flight_bytes")
}

/// What one call has of them, for as long as it lives.
#[derive(Debug)]
pub(super) struct Claim {
    of: Arc<InFlight>,
    /// Without what is somebody's share.
    bytes: AtomicUsize,
    /// The sizes of the messages that have arrived and are nobody's share yet, the oldest first.
    whole: Mutex<VecDeque<usize>>,
}

impl Claim {
    /// The share of the oldest message that nobody has taken yet: of the one that was just read,
    /// since messages are read in their order.
    pub(super) fn share(&self) -> Share {
        let bytes = self.whole().pop_front().unwrap_or_default();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Share { of: Some(Arc::clone(&self.of)), bytes }
    }

    fn grow(&self, bytes: usize) -> bool {
        let fits = self.of.take(bytes);
        if fits {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn whole(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.whole.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.of.give_back(self.bytes.load(Ordering::Relaxed));
    }
}

/// The bytes of one message, given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Share {
    of: Option<Arc<InFlight>>,
    bytes: usize,
}

impl Share {
    /// Adds `bytes` of another share, as many as are kept of its message.
    pub(super) fn join(&mut self, mut other: Self, bytes: usize) {
        let kept = bytes.min(other.bytes);
        other.bytes -= kept;
        self.bytes += kept;
        if self.of.is_none() {
            self.of = other.of.clone();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            of.give_back(self.bytes);
        }
    }
}

/// Where a message ends and the next one begins, in the bytes of a call as they arrive.
#[derive(Debug, Default)]
struct Boundaries {
    prefix: [u8; PREFIX_BYTES],
    /// How much of the prefix is there.
    prefix_bytes: usize,
    /// How much of the message is still to come after the prefix.
    bytes_left: usize,
}

impl Boundaries {
    /// Goes past some bytes; gives the sizes of the messages that end in them.
    fn pass(&mut self, mut bytes: &[u8]) -> Vec<usize> {
        let mut whole = Vec::new();
        while !bytes.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                let (head, rest) =
                    bytes.split_at(bytes.len().min(PREFIX_BYTES - self.prefix_bytes));
                self.prefix[self.prefix_bytes..][..head.len()].copy_from_slice(head);
                self.prefix_bytes += head.len();
                bytes = rest;
                if self.prefix_bytes < PREFIX_BYTES {
                    break;
                }
                self.bytes_left = self.length();
            }
            let passed = bytes.len().min(self.bytes_left);
            bytes = &bytes[passed..];
            self.bytes_left -= passed;
            if self.bytes_left == 0 {
                whole.push(PREFIX_BYTES + self.length());
                self.prefix_bytes = 0;
            }
        }
        whole
    }

    fn length(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        u32::from_be_bytes(length) as usize
    }

    fn is_within_message(&self) -> bool {
        self.prefix_bytes > 0
    }
}

/// The messages of a call as they arrive, counted.
pub(super) struct Incoming {
    inner: Body,
    claim: Arc<Claim>,
    messages: Messages,
    boundaries: Boundaries,
    /// Whether the first message is there.
    has_one: bool,
    /// Over when a message that has begun has taken too long.
    late: Option<Pin<Box<Sleep>>>,
    refused: bool,
}

impl Incoming {
    pub(super) fn new(inner: Body, claim: Arc<Claim>, messages: Messages) -> Self {
        Self {
            inner,
            claim,
            messages,
            boundaries: Boundaries::default(),
            has_one: false,
            late: None,
            refused: false,
        }
    }

    fn count(&mut self, bytes: &[u8]) -> Result<(), Status> {
        // Whoever asks for one message would read the others only to throw them away.
        if self.messages == Messages::One && self.has_one && !bytes.is_empty() {
            return Err(status::plain(
                Reason::MessageMalformed,
                "this method takes one message, and more were sent",
            ));
        }
        if !self.claim.grow(bytes.len()) {
            let message = "the server holds as many messages as it can: try again later";
            return Err(status::retry(Reason::Overloaded, message, RETRY_DELAY));
        }
        let whole = self.boundaries.pass(bytes);
        if whole.is_empty() {
            return Ok(());
        }
        self.has_one = true;
        self.late = None;
        match self.messages {
            Messages::One => {}
            Messages::Shared => self.claim.whole().extend(whole),
            Messages::Passing => {
                self.claim.whole().extend(&whole);
                whole.iter().for_each(|_| drop(self.claim.share()));
            }
        }
        Ok(())
    }

    /// Whether the rest of a message does not come. A caller who says nothing between two messages
    /// holds nothing.
    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        if !self.boundaries.is_within_message() {
            return false;
        }
        let time_max = self.claim.of.message_time_max;
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(time_max)));
        late.as_mut().poll(context).is_ready()
    }

    fn refuse(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.refused = true;
        Poll::Ready(Some(Err(status)))
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.refused {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().cloned().unwrap_or_default();
                if let Err(status) = self.count(&bytes) {
                    return self.refuse(status);
                }
            }
            Poll::Pending if self.is_late(context) => {
                let message = "a message was begun and its rest did not come in time";
                return self.refuse(status::plain(Reason::DeadlineExceeded, message));
            }
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_found_however_the_bytes_are_cut() {
        let bytes =
            [&[0, 0, 0, 0, 3, b'a', b'b', b'c'][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256]]
                .concat();
        for size in 1..=bytes.len() {
            let mut boundaries = Boundaries::default();
            let whole: Vec<_> =
                bytes.chunks(size).flat_map(|chunk| boundaries.pass(chunk)).collect();
            assert_eq!(whole, [8, 5, 261], "in pieces of {size}");
            assert!(!boundaries.is_within_message());
        }
        let mut boundaries = Boundaries::default();
        assert!(boundaries.pass(&bytes[..7]).is_empty() && boundaries.is_within_message());
    }

    #[test]
    fn all_bytes_come_back_whoever_had_them() {
        let in_flight = InFlight::new(100, Duration::from_secs(1));
        let held = || in_flight.bytes.load(Ordering::Relaxed);
        let claim = in_flight.claim();
        assert!(claim.grow(60) && !claim.grow(41) && claim.grow(40));
        assert_eq!(held(), 100);
        claim.whole().extend([60, 30]);
        let (first, second) = (claim.share(), claim.share());
        // Of a message that is read, and of one that never was: nothing twice.
        drop(claim);
        assert_eq!(held(), 90);
        let mut kept = Share::default();
        kept.join(first, 50);
        assert_eq!(held(), 80);
        drop(second);
        assert_eq!(held(), 50);
        drop(kept);
        assert_eq!(held(), 0);
    }
}
