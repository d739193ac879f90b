//! Threads that help the ones that call.
//!
//! A step has some five hundred loops of a millisecond or less, one after the other, on the same thread. A pool that the
//! thread hands them to wakes a worker for each, and is woken by it: a fiftieth of a large step, a quarter of a small one. Here
//! the calling thread does its share itself, helpers that have just helped look for the next loop for a moment before they
//! sleep, and one that comes late is not waited for.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a helper looks for work before it sleeps: longer than what lies between two loops of a step.
const PATIENCE: Duration = Duration::from_micros(200);

/// Loops of different threads at one time that helpers are there for; others run on their threads alone.
const SLOTS: usize = 8;

/// f(i) for all i below `count`, by the calling thread and at most `helpers` others.
pub(super) fn run(count: usize, helpers: usize, f: &(impl Fn(usize) + Sync)) {
    let Some(slot) = Team::get(helpers).and_then(Team::free_slot) else { return (0..count).for_each(f) };
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None::<Box<dyn Any + Send>>);
    let work = || {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    break;
                }
                f(i);
            }
        }));
        if let Err(panic) = outcome {
            next.store(count, Ordering::Relaxed);
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    };
    slot.share(&work, helpers.min(count - 1));
    if let Some(panic) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

type Work<'a> = &'a (dyn Fn() + Sync + 'a);

/// A loop that helpers may join.
struct Slot {
    taken: AtomicBool,
    /// Helpers at work, and [`OPEN`] while more may come.
    state: AtomicUsize,
    work: UnsafeCell<Option<Work<'static>>>,
}

/// There is something left to do.
const OPEN: usize = 1 << (usize::BITS - 1);

// SAFETY: `work` is written by the thread that has taken the slot, while it is not open and nobody is at work; others read
// it after they have found it open.
unsafe impl Sync for Slot {}

impl Slot {
    const fn free() -> Self {
        Self { taken: AtomicBool::new(false), state: AtomicUsize::new(0), work: UnsafeCell::new(None) }
    }

    /// Runs `work` on this thread and on helpers that come while it runs; it ends when all have ended.
    fn share(&self, work: Work, wanted: usize) {
        // SAFETY: the slot is this thread's and closed. Nobody uses the reference after `share` has ended: helpers are at
        // work only between `join` and `leave`, none can join a closed slot, and those within are waited for. `work` does
        // not unwind.
        unsafe { *self.work.get() = Some(std::mem::transmute::<Work<'_>, Work<'static>>(work)) };
        self.state.store(OPEN, Ordering::Release);
        Team::call(wanted);
        work();
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut turns = 0u32;
        while self.state.load(Ordering::Acquire) != 0 {
            // They are in their last piece. Where there are more threads than cores, they may be waiting for this one.
            turns += 1;
            if turns.is_multiple_of(1 << 10) { thread::yield_now() } else { spin_loop() }
        }
        self.taken.store(false, Ordering::Release);
    }

    /// Does some of what is left to do, if anything is.
    fn help(&self) -> bool {
        let join = |state: usize| (state & OPEN != 0).then_some(state + 1);
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, join).is_err() {
            return false;
        }
        // SAFETY: the slot was open, and its owner waits until this helper has left.
        if let Some(work) = unsafe { *self.work.get() } {
            work();
        }
        // What this helper found nothing to do in, no other will.
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        self.state.fetch_sub(1, Ordering::AcqRel);
        true
    }
}

/// The helpers.
struct Team {
    slots: [Slot; SLOTS],
    /// How many loops have been shared.
    calls: AtomicUsize,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    woken: Condvar,
}

static TEAM: Team = Team {
    slots: [const { Slot::free() }; SLOTS],
    calls: AtomicUsize::new(0),
    asleep: AtomicUsize::new(0),
    bed: Mutex::new(()),
    woken: Condvar::new(),
};

impl Team {
    /// The team, with its threads running; none when there are none.
    fn get(helpers: usize) -> Option<&'static Self> {
        static STARTED: OnceLock<usize> = OnceLock::new();
        let start = |i: usize| thread::Builder::new().name(format!("flowtune-{i}")).spawn(|| TEAM.help());
        let started = *STARTED.get_or_init(|| (1..=helpers).map_while(|i| start(i).ok()).count());
        (started > 0).then_some(&TEAM)
    }

    fn free_slot(&self) -> Option<&Slot> {
        self.slots.iter().find(|slot| !slot.taken.swap(true, Ordering::Acquire))
    }

    /// Tells helpers that there is work, and wakes so many of those that sleep.
    fn call(wanted: usize) {
        TEAM.calls.fetch_add(1, Ordering::SeqCst);
        let asleep = TEAM.asleep.load(Ordering::SeqCst);
        if asleep > 0 {
            let _bed = TEAM.bed.lock().unwrap_or_else(PoisonError::into_inner);
            (0..wanted.min(asleep)).for_each(|_| TEAM.woken.notify_one());
        }
    }

    /// What a helper does as long as the program runs.
    fn help(&self) {
        loop {
            let heard = self.calls.load(Ordering::SeqCst);
            if !self.slots.iter().any(Slot::help) && !self.hears_more_than(heard) {
                self.sleep(heard);
            }
        }
    }

    /// Whether another call comes soon.
    fn hears_more_than(&self, heard: usize) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for _ in 0..32 {
                if self.calls.load(Ordering::Relaxed) != heard {
                    return true;
                }
                spin_loop();
            }
        }
        false
    }

    /// Until there is another call.
    fn sleep(&self, heard: usize) {
        let bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let silent = |_: &mut ()| self.calls.load(Ordering::SeqCst) == heard;
        drop(self.woken.wait_while(bed, silent).unwrap_or_else(PoisonError::into_inner));
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELPERS: usize = 3;

    fn sum(count: usize) -> usize {
        let sum = AtomicUsize::new(0);
        run(count, HELPERS, &|i| {
            sum.fetch_add(i + 1, Ordering::Relaxed);
        });
        sum.into_inner()
    }

    #[test]
    fn each_piece_runs_once_whoever_calls() {
        // More callers than slots, and loops within loops.
        thread::scope(|scope| {
            for _ in 0..2 * SLOTS {
                scope.spawn(|| {
                    for count in [1, 2, 7, 100, 1000] {
                        assert_eq!(sum(count), count * (count + 1) / 2);
                        let nested = AtomicUsize::new(0);
                        run(count, HELPERS, &|_| {
                            nested.fetch_add(sum(10), Ordering::Relaxed);
                        });
                        assert_eq!(nested.into_inner(), count * 55);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        for _ in 0..100 {
            let panicked = catch_unwind(|| run(50, HELPERS, &|i| assert!(i != 20, "piece {i}")));
            let message = panicked.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(*message, "piece 20");
            assert_eq!(sum(100), 5050);
        }
    }

    #[test]
    fn others_help_and_sleep_when_there_is_nothing_to_do() {
        let here = thread::current().id();
        let helped = AtomicBool::new(false);
        // The caller's piece ends when another thread has had one.
        run(2, HELPERS, &|_| {
            if thread::current().id() == here {
                let start = Instant::now();
                while !helped.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(20) {
                    thread::yield_now();
                }
            } else {
                helped.store(true, Ordering::Relaxed);
            }
        });
        assert!(helped.into_inner());
        // Other tests may be at work for a while.
        let start = Instant::now();
        while TEAM.asleep.load(Ordering::SeqCst) == 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "helpers look for work for ever");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
