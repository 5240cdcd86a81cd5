//! A thread that writes log lines to a stream, many of them with one system call.
//!
//! Each thread that logs appends its lines to a [`LogBuffer`] of its own. The writer sleeps until a buffer has a line,
//! waits a moment for more, then takes what all buffers hold and writes it. While there are no lines, nothing wakes up.
//!
//! Appending never waits: buffer and writer exchange one pointer. If the stream is slower than the lines come, a buffer
//! grows up to its limit; further lines are dropped as a whole, and counted.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_utils::atomic::AtomicCell;
use memchr::{memchr, memchr_iter};

/// How long the writer of the access log waits for more lines after the first. With the time that a write takes, a line
/// is in the file within 100 ms.
pub const ACCESS_DELAY: Duration = Duration::from_millis(50);
/// From this size on a buffer is written without delay. Larger writes do not get cheaper by the byte.
const FULL: usize = 32 << 10;
/// The largest allocation that an emptied buffer keeps. A busy thread fills more than [`FULL`] until the writer comes.
const MAX_KEPT: usize = 4 * FULL;
/// How much all buffers of a writer may hold together, in bytes. As much again may be on its way to the stream.
const MAX_WAITING: usize = 8 << 20;

/// A thread that writes the lines of its buffers to a stream. [`LogWriter::close`] writes what is left.
#[derive(Debug)]
pub struct LogWriter {
    handle: Handle,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// Takes the lines of one thread at a time.
pub struct LogBuffer {
    slot: Arc<Slot>,
    limit: usize,
    handle: Handle,
    /// Not `Sync`: two threads would overwrite each other's lines.
    _not_sync: PhantomData<Cell<()>>,
}

/// Holds the lines of a buffer, but for the moment in which one is appended. The writer leaves an empty batch in place
/// of the one that it takes. So what is put back replaces a batch only if the writer came in that moment.
type Slot = AtomicCell<Option<Box<Batch>>>;

/// Whole lines.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
}

// Otherwise it is a spin lock.
const _: () = assert!(Slot::is_lock_free());

/// What reaches the writer from other threads.
#[derive(Clone, Debug)]
struct Handle {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// The most urgent of what the writer is to do.
    signal: AtomicU8,
    /// Buffers that the writer does not know yet.
    new: Mutex<Vec<Arc<Slot>>>,
    dropped: AtomicU64,
}

/// Nothing is to be written.
const IDLE: u8 = 0;
/// A buffer has lines.
const LINES: u8 = 1;
/// A buffer is full.
const NOW: u8 = 2;
/// The writer is to end.
const CLOSE: u8 = 3;

impl Handle {
    fn signal(&self, signal: u8) {
        if self.shared.signal.fetch_max(signal, Ordering::AcqRel) < signal {
            self.thread.unpark();
        }
    }
}

impl Shared {
    fn drop_lines(&self, lines: &[u8]) {
        self.dropped.fetch_add(memchr_iter(b'\n', lines).count() as u64, Ordering::Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("signal", &self.signal)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LogBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogBuffer").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl LogBuffer {
    /// Appends a line, which ends with a newline. It is dropped and counted if the buffer holds all that it may.
    /// Allocates only if the buffer has never held as much before.
    pub fn push(&self, line: &[u8]) {
        let mut batch = self.slot.take().unwrap_or_default();
        let before = batch.bytes.len();
        if before + line.len() > self.limit {
            self.handle.shared.drop_lines(line);
        } else {
            batch.bytes.extend_from_slice(line);
        }
        self.put_back(batch, before);
    }

    /// Puts back a batch that had so many bytes before, and wakes the writer if it does not know that there are lines.
    fn put_back(&self, batch: Box<Batch>, before: usize) {
        let after = batch.bytes.len();
        // If the writer came meanwhile, it has left an empty batch and does not know of this one.
        let was_missed = self.slot.swap(Some(batch)).is_some();
        if before < FULL && after >= FULL {
            self.handle.signal(NOW);
        } else if before == 0 || was_missed {
            self.handle.signal(LINES);
        }
    }
}

impl LogWriter {
    /// Starts a thread that writes to `stream`, which may block. Lines wait for `delay` at most until they are written.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(stream: impl Write + Send + 'static, delay: Duration) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let (end, ended) = mpsc::channel::<()>();
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("log".to_owned()).spawn(move || {
            Writing { shared: of_thread, stream, delay, slots: Vec::new(), empty: None, cut: Vec::new() }
                .run();
            drop(end);
        })?;
        Ok(Self { handle: Handle { shared, thread: thread.thread().clone() }, ended })
    }

    /// Returns a buffer for one of `threads` threads, among which the memory for waiting lines is divided.
    pub fn buffer(&self, threads: usize) -> LogBuffer {
        let slot = Arc::new(Slot::new(Some(Box::default())));
        let mut new = self.handle.shared.new.lock().unwrap_or_else(PoisonError::into_inner);
        new.push(Arc::clone(&slot));
        // With more room than makes the writer come.
        let limit = (MAX_WAITING / threads.max(1)).max(2 * FULL);
        LogBuffer { slot, limit, handle: self.handle.clone(), _not_sync: PhantomData }
    }

    /// Returns a function that counts the lines dropped so far, because a buffer was full or a write failed.
    pub fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let shared = Arc::clone(&self.handle.shared);
        move || shared.dropped.load(Ordering::Relaxed)
    }

    /// Has all these writers write what their buffers hold and end. Waits for that, but not longer than `limit`: a
    /// stream may block forever.
    pub fn close(writers: &[&Self], limit: Duration) {
        let give_up = Instant::now() + limit;
        writers.iter().for_each(|writer| writer.handle.signal(CLOSE));
        for writer in writers {
            let _ = writer.ended.recv_timeout(give_up.saturating_duration_since(Instant::now()));
        }
    }
}

/// What the writer's thread has.
struct Writing<W> {
    shared: Arc<Shared>,
    stream: W,
    delay: Duration,
    slots: Vec<Arc<Slot>>,
    /// An empty batch, to be exchanged for one with lines.
    empty: Option<Box<Batch>>,
    /// The rest of a line of which the stream took a part before it failed.
    cut: Vec<u8>,
}

impl<W: Write> Writing<W> {
    fn run(mut self) {
        let mut is_closing = false;
        loop {
            is_closing |= self.wait(if is_closing { Duration::ZERO } else { self.delay }) == CLOSE;
            let mut new = self.shared.new.lock().unwrap_or_else(PoisonError::into_inner);
            self.slots.append(&mut new);
            drop(new);
            if self.write_all() && is_closing {
                return;
            }
        }
    }

    /// Waits until lines are to be written, and then for more; returns the signal.
    fn wait(&self, delay: Duration) -> u8 {
        let signal = || self.shared.signal.load(Ordering::Acquire);
        while signal() == IDLE {
            thread::park();
        }
        let due = Instant::now() + delay;
        while signal() < NOW {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
        // Before buffers are taken: what is appended from now on signals again.
        self.shared.signal.swap(IDLE, Ordering::AcqRel)
    }

    /// Writes what the buffers hold; returns whether that was possible for all. If a line is just being appended to one,
    /// its thread signals when it puts the lines back.
    fn write_all(&mut self) -> bool {
        let mut complete = true;
        let mut slots = std::mem::take(&mut self.slots);
        slots.retain_mut(|slot| {
            let is_abandoned = Arc::get_mut(slot).is_some();
            match slot.swap(Some(self.empty.take().unwrap_or_default())) {
                Some(mut batch) => {
                    self.write(&batch.bytes);
                    batch.bytes.clear();
                    if batch.bytes.capacity() > MAX_KEPT {
                        batch.bytes = Vec::new();
                    }
                    self.empty = Some(batch);
                }
                None => complete = false,
            }
            !is_abandoned
        });
        self.slots = slots;
        complete
    }

    /// Writes lines, and drops those that the stream does not take. A line is never written in part: if the stream
    /// fails in the middle of one, the rest of it is written before all others as soon as the stream works again.
    fn write(&mut self, lines: &[u8]) {
        let of_cut = write_until_error(&mut self.stream, &self.cut);
        self.cut.drain(..of_cut);
        let written = if self.cut.is_empty() { write_until_error(&mut self.stream, lines) } else { 0 };
        let (done, mut rest) = lines.split_at(written);
        if done.last().is_some_and(|&last| last != b'\n') {
            let end = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            self.cut.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
        self.shared.drop_lines(rest);
    }
}

/// Returns how many bytes were written until all were, or the stream failed.
fn write_until_error(stream: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(count) if count > 0 => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};

    use super::*;

    /// Longer than any test.
    const HOUR: Duration = Duration::from_secs(3600);

    /// A stream of which each write is received by the test. It waits for the test if the channel is bounded.
    enum Received {
        At(Sender<Vec<u8>>),
        Slowly(SyncSender<Vec<u8>>),
    }

    impl Write for Received {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let sent = match self {
                Self::At(sender) => sender.send(bytes.to_vec()),
                Self::Slowly(sender) => sender.send(bytes.to_vec()),
            };
            sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn close(writer: &LogWriter) {
        LogWriter::close(&[writer], HOUR);
    }

    #[test]
    fn writes_many_lines_with_one_call() {
        let (sender, written) = channel();
        let writer = LogWriter::start(Received::At(sender), HOUR).unwrap();
        let buffers = [writer.buffer(2), writer.buffer(2)];
        for _ in 0..3 {
            buffers[0].push(b"a\n");
            buffers[1].push(b"b\n");
        }
        close(&writer);
        assert_eq!(written.iter().collect::<Vec<_>>(), [b"a\na\na\n", b"b\nb\nb\n"]);
    }

    #[test]
    fn writes_the_last_lines_of_a_thread_that_has_ended() {
        let (sender, written) = channel();
        let writer = LogWriter::start(Received::At(sender), Duration::ZERO).unwrap();
        for count in 0..100 {
            let line = format!("{count}\n");
            let buffer = writer.buffer(1);
            thread::spawn({
                let line = line.clone();
                move || buffer.push(line.as_bytes())
            });
            assert_eq!(written.recv().unwrap(), line.as_bytes());
        }
        close(&writer);
    }

    #[test]
    fn writes_a_single_line_after_the_delay_and_a_full_buffer_without_it() {
        let (sender, written) = channel();
        let writer = LogWriter::start(Received::At(sender), ACCESS_DELAY).unwrap();
        let buffer = writer.buffer(1);
        for _ in 0..2 {
            buffer.push(b"a line\n");
            assert_eq!(written.recv().unwrap(), b"a line\n");
        }
        close(&writer);

        let (sender, written) = channel();
        let writer = LogWriter::start(Received::At(sender), HOUR).unwrap();
        let buffer = writer.buffer(1);
        let line = [b'x'; 1023].iter().chain(b"\n").copied().collect::<Vec<_>>();
        for _ in 0..FULL / line.len() {
            buffer.push(&line);
        }
        assert_eq!(written.recv().unwrap().len(), FULL);
        close(&writer);
    }

    #[test]
    fn keeps_the_lines_of_each_thread_whole_and_in_order() {
        let (sender, written) = channel();
        // Without delay the writer takes buffers while lines are appended.
        let writer = LogWriter::start(Received::At(sender), Duration::ZERO).unwrap();
        const THREADS: usize = 3;
        const LINES: usize = 20_000;
        thread::scope(|scope| {
            for number in 0..THREADS {
                let buffer = writer.buffer(THREADS);
                scope.spawn(move || {
                    for line in 0..LINES {
                        buffer.push(format!("{number} {line} {}\n", "x".repeat(line % 50)).as_bytes());
                    }
                });
            }
        });
        close(&writer);
        let mut next = [0; THREADS];
        for batch in written {
            for line in String::from_utf8(batch).unwrap().split_terminator('\n') {
                let mut words = line.split(' ');
                let [number, count] = [(); 2].map(|()| words.next().unwrap().parse::<usize>().unwrap());
                assert_eq!(count, next[number]);
                assert_eq!(words.next().unwrap().len(), count % 50);
                next[number] += 1;
            }
        }
        assert_eq!(next, [LINES; THREADS]);
        assert_eq!(writer.dropped_lines()(), 0);
    }

    #[test]
    fn drops_and_counts_lines_if_the_stream_stalls() {
        let (sender, written) = sync_channel(0);
        let writer = LogWriter::start(Received::Slowly(sender), Duration::ZERO).unwrap();
        let (buffer, dropped) = (writer.buffer(64), writer.dropped_lines());
        let line = |count: u64| format!("{count} {}\n", "x".repeat(1000)).into_bytes();
        let mut count = 0;
        while dropped() < 3 {
            buffer.push(&line(count));
            count += 1;
        }
        let waiting = count - 3;
        // One batch is on its way, and one is in the buffer.
        assert!(waiting as usize * line(0).len() <= 2 * MAX_WAITING / 64, "{waiting} lines wait");
        let reader = thread::spawn(move || written.iter().flatten().collect::<Vec<_>>());
        close(&writer);
        assert_eq!(reader.join().unwrap(), (0..waiting).flat_map(line).collect::<Vec<_>>());
        assert_eq!(dropped(), 3);
    }

    #[test]
    fn writes_lines_although_it_came_more_than_once_while_one_was_appended() {
        let (sender, written) = channel();
        let writer = LogWriter::start(Received::At(sender), Duration::ZERO).unwrap();
        let [slow, other] = [(); 2].map(|()| writer.buffer(2));
        for missed in 0..4 {
            let mut batch = slow.slot.take().unwrap();
            batch.bytes.extend_from_slice(b"slow\n");
            for _ in 0..missed {
                other.push(b"other\n");
                assert_eq!(written.recv().unwrap(), b"other\n");
            }
            // As if there had been lines of which the writer knew.
            slow.put_back(batch, usize::from(missed > 0));
            assert_eq!(written.recv().unwrap(), b"slow\n");
        }
        close(&writer);
    }

    /// Takes so many bytes, then fails once, and takes all.
    struct Full {
        room: usize,
        written: Sender<Vec<u8>>,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.room.min(bytes.len());
            self.room -= count;
            if count == 0 {
                self.room = usize::MAX;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.send(bytes[..count].to_vec()).unwrap();
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn counts_each_line_that_cannot_be_written_and_completes_one_that_was_cut() {
        for (room, expected, lost) in [
            (0, "d\n", 3),
            (3, "one\nd\n", 2),
            (4, "one\nd\n", 2),
            (6, "one\ntwo\nd\n", 1),
            (11, "one\ntwo\nthree\nd\n", 0),
        ] {
            let (sender, written) = channel();
            let writer = LogWriter::start(Full { room, written: sender }, HOUR).unwrap();
            // The writer takes its buffers in the order in which they were made.
            let [first, second] = [(); 2].map(|()| writer.buffer(2));
            first.push(b"one\ntwo\nthree\n");
            second.push(b"d\n");
            close(&writer);
            let all: Vec<_> = written.try_iter().flatten().collect();
            assert_eq!(String::from_utf8(all).unwrap(), expected, "room for {room} bytes");
            assert_eq!(writer.dropped_lines()(), lost, "room for {room} bytes");
        }
    }

    #[test]
    fn gives_large_buffers_back() {
        let (sender, written) = channel();
        let writer = LogWriter::start(Received::At(sender), Duration::ZERO).unwrap();
        let buffer = writer.buffer(1);
        let capacity = || {
            let batch = buffer.slot.take().unwrap();
            let capacity = batch.bytes.capacity();
            buffer.slot.store(Some(batch));
            capacity
        };
        let mut large = vec![b'x'; MAX_KEPT];
        large.push(b'\n');
        for line in [large.as_slice(), b"small\n", b"small\n"] {
            buffer.push(line);
            assert_eq!(written.recv().unwrap(), line);
        }
        assert!(capacity() <= MAX_KEPT);
        close(&writer);
    }

    #[test]
    fn a_stream_that_blocks_forever_does_not_keep_the_process() {
        let (sender, written) = sync_channel(0);
        let writer = LogWriter::start(Received::Slowly(sender), Duration::ZERO).unwrap();
        let buffer = writer.buffer(1);
        buffer.push(b"a line\n");
        LogWriter::close(&[&writer], Duration::from_millis(10));
        drop(written);
    }
}
