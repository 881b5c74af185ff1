//! A session allocates in its first run and never again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dynet_engine::{Options, Plan, Session};
use dynet_net::Weights;
use dynet_net::zoo::{self, ZooOptions};

/// The system's allocator, counting.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// One test alone: another one would count as well.
#[test]
fn only_the_first_run_allocates() {
    for name in zoo::models().iter().map(|m| m.name) {
        let options = ZooOptions { width: 0.25, classes: 7, size: [33, 40], ..Default::default() };
        let net = zoo::build(name, &options).unwrap();
        let plan = Arc::new(Plan::compile(&net, &Weights::init(&net, 1), &Options::default()).unwrap());
        let images = vec![0.5; 3 * net.input().len()];
        let mut session = Session::new(plan, 2).unwrap();
        // The first runs may end before the second thread has started, which allocates.
        for _ in 0..30 {
            session.run(&images).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        let before = CALLS.load(Ordering::Relaxed);
        for batch in [3, 1, 2] {
            session.run(&images[..batch * net.input().len()]).unwrap();
        }
        assert_eq!(CALLS.load(Ordering::Relaxed) - before, 0, "{name}");
    }
}
