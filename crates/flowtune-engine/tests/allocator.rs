//! The allocator of tensors as that of a program.
#![cfg(target_os = "linux")]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use flowtune_engine::TensorAllocator;

#[global_allocator]
static ALLOCATOR: TensorAllocator = TensorAllocator;

const MEGABYTE: usize = 1 << 20;
const HUGE_PAGE: usize = 2 * MEGABYTE;

/// One test at a time: they measure the process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn filled(megabytes: usize) -> Vec<u8> {
    let mut block = Vec::with_capacity(megabytes * MEGABYTE);
    block.resize(megabytes * MEGABYTE, 1);
    block
}

/// Megabytes in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096 / MEGABYTE
}

/// Pages that this process got so far.
fn faults() -> i64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    stat.rsplit(')').next().unwrap().split(' ').nth(8).unwrap().parse().unwrap()
}

#[test]
fn large_blocks_are_on_huge_pages_and_small_ones_are_not() {
    let _alone = alone();
    let large: Vec<_> = [4, 5, 100].map(filled).into();
    assert!(large.iter().all(|block| block.as_ptr().addr().is_multiple_of(HUGE_PAGE)));
    let small = filled(3);
    assert!(!small.as_ptr().addr().is_multiple_of(HUGE_PAGE));
}

#[test]
fn what_is_free_is_used_again_and_takes_no_more_memory() {
    let _alone = alone();
    // No other test here has so much at once.
    let [first, stays, between, last] = [50, 200, 4, 60].map(filled);
    let at_most = resident();
    drop(first);
    drop(last);
    let before = faults();
    (0..20).for_each(|_| drop([filled(40), filled(58)]));
    // 98 MB are 25,000 pages, or 49 huge ones.
    assert!(faults() - before < 40, "{}", faults() - before);
    assert!(resident() <= at_most + 2, "{at_most} {}", resident());
    // This one fits nowhere between, and takes the memory of what is free.
    let larger = filled(70);
    assert!(resident() <= at_most + 2, "{at_most} {}", resident());
    drop((stays, between));
    // No more is kept than is in use.
    assert!(resident() <= at_most - 314 + 2 * 70 + 2, "{at_most} {}", resident());
    drop(larger);
    assert!(resident() <= at_most - 314 + 2, "{at_most} {}", resident());
}

#[test]
fn zeros_are_zero_where_something_was() {
    let _alone = alone();
    let stays = filled(16);
    drop(filled(8));
    let zeros = vec![0u8; 8 * MEGABYTE];
    assert!(zeros.iter().all(|&byte| byte == 0));
    drop(stays);
}

#[test]
fn vectors_grow_and_shrink_over_the_border() {
    let _alone = alone();
    let mut numbers: Vec<u32> = Vec::new();
    for i in 0..5 * MEGABYTE as u32 {
        numbers.push(i);
    }
    assert!(numbers.as_ptr().addr().is_multiple_of(HUGE_PAGE));
    for len in [3 * MEGABYTE, 2 * MEGABYTE, MEGABYTE / 2, 10] {
        numbers.truncate(len);
        numbers.shrink_to_fit();
        assert!(numbers.iter().zip(0..).all(|(&number, i)| number == i));
    }
}

#[test]
fn threads_have_blocks_of_their_own() {
    let _alone = alone();
    let work = |seed: usize| {
        let mut blocks: Vec<(u8, Vec<u8>)> = Vec::new();
        for i in 0..200 {
            let mark = (seed * 200 + i) as u8;
            let size = 4 * MEGABYTE + (seed * 7919 + i * 104_729) % (12 * MEGABYTE);
            let mut block = Vec::with_capacity(size);
            block.resize(size, mark);
            blocks.push((mark, block));
            if blocks.len() > 4 {
                let (mark, block) = blocks.swap_remove((seed + i) % 4);
                assert!(block.iter().step_by(509).all(|&byte| byte == mark) && block.last() == Some(&mark));
            }
        }
    };
    thread::scope(|scope| (0..4).for_each(|seed| drop(scope.spawn(move || work(seed)))));
}
