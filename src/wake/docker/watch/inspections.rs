//! Which containers have to be inspected, and who waits for that.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

/// Containers that are inspected at the same time.
pub(super) const CONCURRENT: usize = 8;

/// The queue of inspections, and those in progress.
///
/// An inspection in progress may have been answered before a change. So a hint that comes
/// meanwhile leads to another inspection, and a task that waits is bound to one that begins after
/// the request.
#[derive(Debug, Default)]
pub(super) struct Inspections {
    queue: VecDeque<Arc<str>>,
    queued: HashSet<Arc<str>>,
    /// The tasks that wait for an inspection that has not begun.
    waiting: HashMap<Arc<str>, Vec<oneshot::Sender<()>>>,
    /// The containers that are being inspected, and who waits for that.
    running: HashMap<Arc<str>, Vec<oneshot::Sender<()>>>,
}

impl Inspections {
    /// Queues a container. All hints that come before an inspection begins lead to one.
    pub(super) fn hint(&mut self, id: Arc<str>) {
        if self.queued.insert(Arc::clone(&id)) {
            self.queue.push_back(id);
        }
    }

    /// Queues a container, and notifies `done` when an inspection of it has ended that begins
    /// after this call.
    pub(super) fn request(&mut self, id: Arc<str>, done: oneshot::Sender<()>) {
        self.waiting.entry(Arc::clone(&id)).or_default().push(done);
        self.hint(id);
    }

    /// Begins the next inspection, if one is due: of no container that is being inspected.
    pub(super) fn begin(&mut self) -> Option<Arc<str>> {
        if self.running.len() >= CONCURRENT {
            return None;
        }
        let next = self.queue.iter().position(|id| !self.running.contains_key(id))?;
        let id = self.queue.remove(next)?;
        self.queued.remove(&id);
        let waiting = self.waiting.remove(&id).unwrap_or_default();
        self.running.insert(Arc::clone(&id), waiting);
        Some(id)
    }

    /// Ends an inspection, and notifies those who wait for it.
    pub(super) fn end(&mut self, id: &Arc<str>) {
        for done in self.running.remove(id).unwrap_or_default() {
            // The task that has waited may have gone away.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(inspections: &mut Inspections, id: &str) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        inspections.request(id.into(), done);
        wait
    }

    #[test]
    fn an_inspection_that_runs_does_not_answer_a_later_request() {
        let (id, mut inspections) = (Arc::from("a"), Inspections::default());
        let mut first = request(&mut inspections, "a");
        assert_eq!(inspections.begin().as_ref(), Some(&id));
        let mut second = request(&mut inspections, "a");
        assert_eq!(inspections.begin(), None, "it is being inspected");
        inspections.end(&id);
        assert!(first.try_recv().is_ok());
        assert!(second.try_recv().is_err());
        assert_eq!(inspections.begin().as_ref(), Some(&id));
        inspections.end(&id);
        assert!(second.try_recv().is_ok());
        assert_eq!(inspections.begin(), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Hint(u8),
        Request(u8),
        Begin,
        End(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        // More containers than are inspected at once.
        let id = 0..u8::try_from(CONCURRENT).expect("small") + 4;
        prop_oneof![
            id.clone().prop_map(Step::Hint),
            id.prop_map(Step::Request),
            Just(Step::Begin),
            any::<prop::sample::Index>().prop_map(Step::End),
        ]
    }

    /// The inspections, and what is expected of them. Times are numbers of steps.
    #[derive(Default)]
    struct Model {
        inspections: Inspections,
        running: Vec<(Arc<str>, usize)>,
        waiting: Vec<(Arc<str>, usize, oneshot::Receiver<()>)>,
    }

    impl Model {
        fn begin(&mut self, now: usize) {
            self.running.extend(self.inspections.begin().map(|id| (id, now)));
            assert!(self.running.len() <= CONCURRENT);
        }

        /// Ends an inspection: exactly those are told who have waited since before it began.
        fn end(&mut self, index: usize) {
            let (id, began) = self.running.swap_remove(index);
            self.inspections.end(&id);
            self.waiting.retain_mut(|(of, since, wait)| {
                let is_due = *of == id && *since < began;
                assert_eq!(wait.try_recv().is_ok(), is_due, "{of}");
                !is_due
            });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// A request that is left waiting would keep its app from being woken, or put to
        /// sleep, for good.
        #[test]
        fn every_request_is_answered_by_an_inspection_that_began_after_it(
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut model = Model::default();
            for (now, step) in steps.iter().enumerate() {
                match step {
                    Step::Hint(id) => model.inspections.hint(id.to_string().into()),
                    Step::Request(id) => {
                        let id: Arc<str> = id.to_string().into();
                        let wait = request(&mut model.inspections, &id);
                        model.waiting.push((id, now, wait));
                    }
                    Step::Begin => model.begin(now),
                    Step::End(_) if model.running.is_empty() => {}
                    Step::End(index) => model.end(index.index(model.running.len())),
                }
            }
            loop {
                model.begin(steps.len());
                if model.running.is_empty() {
                    break;
                }
                model.end(0);
            }
            assert!(model.waiting.is_empty(), "{:?}", model.waiting);
        }
    }
}
