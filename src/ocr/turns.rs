//! Whose turn it is: workers are handed out caller by caller, so that one who has a thousand
//! pictures waiting does not keep another with one picture waiting behind them all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

/// As many turns as there are workers.
pub struct Turns {
    state: Mutex<State>,
}

/// The right to use one worker. Dropping it passes it on.
#[derive(Debug)]
pub struct Turn {
    /// Absent when the turn is void: nobody may use it, and nothing is passed on.
    turns: Option<Arc<Turns>>,
}

struct State {
    free: usize,
    /// Who waits for what: of every caller the oldest first.
    waiting: HashMap<String, VecDeque<oneshot::Sender<Turn>>>,
    /// The callers that wait, the one whose turn is next first.
    round: VecDeque<String>,
}

/// One who waits, until it has its turn or gives up.
struct Waiter<'a> {
    turn: oneshot::Receiver<Turn>,
    turns: &'a Turns,
    caller: &'a str,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.turn.close();
        self.turns.state().forget_gone(self.caller);
    }
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Turns")
    }
}

impl Turns {
    /// So many at once.
    pub fn new(count: usize) -> Arc<Self> {
        let state = State { free: count, waiting: HashMap::new(), round: VecDeque::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Whether a caller who came now would not have to wait.
    pub fn is_free(&self) -> bool {
        self.state().free > 0
    }

    /// How many of those who wait have their turn before a caller who came now: its own, and of
    /// every other one as many as it gets turns until then.
    pub fn ahead_of(&self, caller: &str) -> usize {
        let state = self.state();
        let own = state.waiting.get(caller).map_or(0, VecDeque::len);
        let others = state.waiting.iter().filter(|(other, _)| *other != caller);
        own + others.map(|(_, waiting)| waiting.len().min(own + 1)).sum::<usize>()
    }

    /// Waits for the caller's next turn. A caller who stops waiting loses nothing to anybody.
    pub async fn take(self: &Arc<Self>, caller: &str) -> Turn {
        let mut waiter = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Turn { turns: Some(Arc::clone(self)) };
            }
            Waiter { turn: state.wait(caller), turns: self, caller }
        };
        // The sender is kept until it has sent.
        (&mut waiter.turn).await.unwrap_or(Turn { turns: None })
    }

    fn pass_on(self: &Arc<Self>) {
        let mut state = self.state();
        while let Some(next) = state.next() {
            match next.send(Turn { turns: Some(Arc::clone(self)) }) {
                Ok(()) => return,
                // It gives up just now. Void, or it would be passed on from here again.
                Err(mut turn) => turn.turns = None,
            }
        }
        state.free += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn wait(&mut self, caller: &str) -> oneshot::Receiver<Turn> {
        let (sender, receiver) = oneshot::channel();
        let waiting = self.waiting.entry(caller.to_string()).or_default();
        if waiting.is_empty() {
            self.round.push_back(caller.to_string());
        }
        waiting.push_back(sender);
        receiver
    }

    /// Forgets those of a caller who have given up: they take no turn from it, nor from others.
    fn forget_gone(&mut self, caller: &str) {
        let Some(waiting) = self.waiting.get_mut(caller) else { return };
        waiting.retain(|waiter| !waiter.is_closed());
        if waiting.is_empty() {
            self.waiting.remove(caller);
            self.round.retain(|other| other != caller);
        }
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let caller = self.round.pop_front()?;
        let waiting = self.waiting.get_mut(&caller)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&caller);
        } else {
            self.round.push_back(caller);
        }
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn callers_take_turns() {
        let turns = Turns::new(1);
        let first = turns.take("many").await;
        let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
        for caller in ["many", "many", "many", "one"] {
            let (there, done) = (Arc::clone(&turns), done.clone());
            let waiting = turns.state().waiting_for(caller);
            tokio::spawn(async move {
                let _turn = there.take(caller).await;
                done.send(caller).unwrap();
            });
            // Each waits before the next one comes.
            while turns.state().waiting_for(caller) == waiting {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(
            (turns.ahead_of("many"), turns.ahead_of("one"), turns.ahead_of("new")),
            (4, 3, 2)
        );
        drop(first);
        let mut callers = Vec::new();
        for _ in 0..4 {
            callers.push(order.recv().await.unwrap());
        }
        assert_eq!(callers, ["many", "one", "many", "many"]);
        assert!(turns.is_free());
    }

    #[tokio::test]
    async fn a_caller_who_goes_away_leaves_no_gap() {
        let turns = Turns::new(1);
        let first = turns.take("a").await;
        let gone = turns.take("b");
        assert!(tokio::time::timeout(Duration::from_millis(5), gone).await.is_err());
        assert_eq!((turns.ahead_of("b"), turns.state().round.len()), (0, 0));
        drop(first);
        let again = tokio::time::timeout(Duration::from_secs(5), turns.take("c")).await;
        drop(again.expect("the turn came back"));
        assert!(turns.is_free());
    }

    impl State {
        fn waiting_for(&self, caller: &str) -> usize {
            self.waiting.get(caller).map_or(0, VecDeque::len)
        }
    }
}
