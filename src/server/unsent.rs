//! The responses of a connection with HTTP/2 until they are written to the socket, as `responder` has it for HTTP/1.1.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::dispatch::response::HttpResponse;
use crate::dispatch::{OpenLine, Worker};

/// The responses of a connection with HTTP/2 that are not written yet.
///
/// They count as sent with the first flush after hyper has taken them. So a response counts as sent too if the client
/// resets its stream between these, or keeps its body back by flow control: h2 shows neither.
pub(super) struct UnsentStreams {
    worker: Rc<Worker>,
    taken: RefCell<Vec<OpenLine>>,
    reader: Cell<Option<Waker>>,
}

impl UnsentStreams {
    pub(super) fn new(worker: Rc<Worker>) -> Rc<Self> {
        Rc::new(Self { worker, taken: RefCell::default(), reader: Cell::default() })
    }

    /// Waits until fewer than `most` responses are taken and not written.
    ///
    /// What hyper takes it copies into one buffer, which grows by each header block that is longer than what is left of
    /// it (h2 0.4.20, `FramedWrite::has_capacity`), however little the client reads. So no more is read from a client
    /// that leaves this many responses unread.
    pub(super) fn poll_room(&self, most: usize, cx: &Context<'_>) -> Poll<()> {
        if self.taken.borrow().len() < most {
            return Poll::Ready(());
        }
        self.reader.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// A future that gives hyper a response.
    pub(super) fn made(self: &Rc<Self>, (answer, line): (HttpResponse, OpenLine)) -> Made {
        Made { response: Some((answer, line)), was_polled: false, unsent: Rc::clone(self) }
    }

    /// All that hyper has taken so far was written.
    pub(super) fn flushed(&self) {
        for line in self.taken.borrow_mut().drain(..) {
            self.worker.settle(line, true);
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for UnsentStreams {
    fn drop(&mut self) {
        for line in self.taken.get_mut().drain(..) {
            self.worker.settle(line, false);
        }
    }
}

/// A response that hyper takes in the moment when it sends it, and not at all if the client has reset the stream by then.
pub(super) struct Made {
    response: Option<(HttpResponse, OpenLine)>,
    was_polled: bool,
    unsent: Rc<UnsentStreams>,
}

impl Future for Made {
    type Output = Result<HttpResponse, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.was_polled {
            // hyper looks for a reset only if a response is not ready.
            self.was_polled = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.response.take() {
            Some((answer, line)) => {
                self.unsent.taken.borrow_mut().push(line);
                Poll::Ready(Ok(answer))
            }
            // hyper does not poll it again.
            None => Poll::Pending,
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some((_, line)) = self.response.take() {
            self.unsent.worker.settle(line, false);
        }
    }
}
