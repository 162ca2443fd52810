//! Owns the line before work that only a few may do at once. It is called in rounds, each client once in a round; and
//! where it is full, whoever stands in the last round gives way. So a client that sends more than all others together
//! waits for itself: another's first waits for one of it in the round that is on, and for one in the next.
//! Must not know: what the work is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::client::Client;

/// The line was full, and this client had the most in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug)]
pub(super) struct Line {
    at_once: usize,
    most_waiting: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    at_work: usize,
    /// The round of who was called last.
    round: u64,
    arrivals: u64,
    /// Short enough to be searched from end to end.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// Round and arrival: the least is called next.
    rank: (u64, u64),
    client: Client,
    call: oneshot::Sender<Place>,
}

/// The right to work. Dropping it calls the next.
#[derive(Debug)]
pub(super) struct Place(Arc<Line>);

impl Line {
    pub fn new(at_once: usize, most_waiting: usize) -> Arc<Self> {
        Arc::new(Self { at_once, most_waiting, state: Mutex::default() })
    }

    /// Waits until this client is called.
    pub async fn enter(self: &Arc<Self>, client: Client) -> Result<Place, Full> {
        let called = {
            let mut state = self.state();
            if state.at_work < self.at_once {
                state.at_work += 1;
                return Ok(Place(Arc::clone(self)));
            }
            state.join(client, self.most_waiting)
        };
        called.await.map_err(|_| Full)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// At the line's end as this client sees it: once in each round, beginning with the next one.
    fn join(&mut self, client: Client, most_waiting: usize) -> oneshot::Receiver<Place> {
        self.waiting.retain(|waiting| !waiting.call.is_closed());
        let own = self.waiting.iter().filter(|waiting| waiting.client == client);
        let last = own.map(|waiting| waiting.rank.0).max().unwrap_or(self.round);
        let (call, called) = oneshot::channel();
        self.arrivals += 1;
        self.waiting.push(Waiting { rank: (last + 1, self.arrivals), client, call });
        if self.waiting.len() > most_waiting {
            let ranks = self.waiting.iter().enumerate();
            if let Some((last, _)) = ranks.max_by_key(|(_, waiting)| waiting.rank) {
                self.waiting.swap_remove(last);
            }
        }
        called
    }

    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        self.waiting.retain(|waiting| !waiting.call.is_closed());
        let ranks = self.waiting.iter().enumerate();
        let (first, _) = ranks.min_by_key(|(_, waiting)| waiting.rank)?;
        let Waiting { rank: (round, _), call, .. } = self.waiting.swap_remove(first);
        self.round = round;
        Some(call)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.state();
            let next = state.next();
            if next.is_none() {
                state.at_work -= 1;
            }
            next
        };
        if let Some(call) = next {
            // Who stopped waiting just now drops the place, and so calls the next.
            drop(call.send(Self(Arc::clone(&self.0))));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    fn client(number: u8) -> Client {
        Client::of(Some([192, 0, 2, number].into()))
    }

    /// Who was called, in order, and who was sent away.
    #[derive(Debug, Default)]
    struct Book {
        called: Vec<u8>,
        sent_away: Vec<u8>,
        at_work: Option<Place>,
    }

    /// A line before one place, which somebody has.
    struct Queue {
        line: Arc<Line>,
        book: Arc<Mutex<Book>>,
        tasks: JoinSet<()>,
    }

    impl Queue {
        async fn new(most_waiting: usize) -> Self {
            let line = Line::new(1, most_waiting);
            let at_work = Some(line.enter(Client::House).await.expect("a place"));
            let book = Book { at_work, ..Book::default() };
            Self { line, book: Arc::new(Mutex::new(book)), tasks: JoinSet::new() }
        }

        fn book(&self) -> MutexGuard<'_, Book> {
            self.book.lock().expect("no panic")
        }

        /// Each joins before the next comes.
        async fn come(&mut self, numbers: impl IntoIterator<Item = u8>) {
            for number in numbers {
                let (line, book) = (Arc::clone(&self.line), Arc::clone(&self.book));
                self.tasks.spawn(async move {
                    let entered = line.enter(client(number)).await;
                    let mut book = book.lock().expect("no panic");
                    match entered {
                        Ok(place) => {
                            book.called.push(number);
                            book.at_work = Some(place);
                        }
                        Err(Full) => book.sent_away.push(number),
                    }
                });
                tokio::task::yield_now().await;
            }
        }

        /// Whoever is at work ends, and the next is called. `false`: there was nobody at work.
        async fn step(&self) -> bool {
            let ends = self.book().at_work.take();
            let somebody = ends.is_some();
            drop(ends);
            tokio::task::yield_now().await;
            somebody
        }

        async fn end(self) -> Book {
            while self.step().await {}
            self.tasks.join_all().await;
            assert_eq!(self.line.state().at_work, 0, "a place was lost");
            std::mem::take(&mut self.book.lock().expect("no panic"))
        }
    }

    #[tokio::test]
    async fn each_client_is_called_once_in_a_round() {
        let mut queue = Queue::new(64).await;
        queue.come([1, 1, 1, 1, 1, 2, 3, 2]).await;
        assert_eq!(queue.end().await.called, [1, 2, 3, 1, 2, 1, 1, 1]);
    }

    /// However many others come in the meantime, each as the first of its client.
    #[tokio::test]
    async fn the_second_of_a_client_is_called_too() {
        let mut queue = Queue::new(64).await;
        queue.come([2, 2]).await;
        for other in 3..20 {
            queue.come([other]).await;
            queue.step().await;
        }
        assert_eq!(queue.book().called[..4], [2, 3, 2, 4]);
    }

    #[tokio::test]
    async fn where_it_is_full_the_client_with_the_most_in_it_gives_way() {
        let mut queue = Queue::new(4).await;
        queue.come([1, 1, 1, 1, 1, 2, 3, 2, 4, 5]).await;
        assert_eq!(queue.line.state().waiting.len(), 4);
        let book = queue.end().await;
        assert_eq!(book.called, [1, 2, 3, 4]);
        assert_eq!(book.sent_away, [1, 1, 1, 2, 1, 5]);
    }

    #[tokio::test]
    async fn whoever_leaves_frees_a_place() {
        let mut queue = Queue::new(2).await;
        queue.come([1, 1]).await;
        queue.tasks.shutdown().await;
        queue.come([2, 3]).await;
        let book = queue.end().await;
        assert_eq!((book.called, book.sent_away), (vec![2, 3], vec![]));
    }
}
