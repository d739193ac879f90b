//! Which samples make up which batch: a function of seed and step alone, so that a resume needs no state.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Streams of random numbers that must not be the same.
const ORDER_OF_BUCKETS: u64 = 0;
const ORDER_OF_SAMPLES: u64 = 1;
const CHOICES: u64 = 2;

/// Order of samples in batches of one shape each.
///
/// Every bucket (samples of one shape, each as often as it counts) is an endless stream of its samples, shuffled anew
/// each time round, from which batches are cut; no sample is left over. A cycle has as many batches as all buckets have
/// members, and a bucket of n members has n of them, at random places: whatever its shape, a sample is seen as often as
/// it counts.
#[derive(Debug)]
pub(crate) struct Order {
    /// Samples of each shape; a sample that counts twice is there twice.
    buckets: Vec<Vec<usize>>,
    batch_size: usize,
    seed: u64,
    /// The order of buckets in the cycle used last: it is long, and needed again at the next step.
    cycle: Mutex<Option<(u64, Vec<usize>)>>,
}

impl Order {
    /// Order of the samples 0..`shapes.len()`, which have these shapes and are seen this often, against each other.
    pub(crate) fn new(shapes: impl Iterator<Item = Vec<usize>>, repeats: &[f64], batch_size: usize, seed: u64) -> Self {
        let mut buckets: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        for ((i, shape), count) in shapes.enumerate().zip(whole_numbers(repeats)) {
            buckets.entry(shape).or_default().extend(vec![i; count]);
        }
        Self { buckets: buckets.into_values().collect(), batch_size, seed, cycle: Mutex::default() }
    }

    /// Indices of the samples of batch number `step`, from 0.
    pub(crate) fn batch(&self, step: u64) -> Vec<usize> {
        let length = self.buckets.iter().map(Vec::len).sum::<usize>() as u64;
        let (cycle, position) = (step / length, (step % length) as usize);
        let (bucket, earlier) = self.bucket_at(cycle, position);
        let members = &self.buckets[bucket];
        let count = members.len() as u64;
        let first = (cycle * count + earlier) * self.batch_size as u64;
        (first..first + self.batch_size as u64)
            .map(|k| members[self.shuffled(bucket, k / count)[(k % count) as usize]])
            .collect()
    }

    /// One of `count` captions of the sample at `slot` of batch number `step`.
    pub(crate) fn choice(&self, step: u64, slot: usize, count: usize) -> usize {
        below(&mut generator([self.seed, CHOICES, slot as u64, step]), count)
    }

    /// The bucket at `position` of a cycle, and how often it came before in it.
    fn bucket_at(&self, cycle: u64, position: usize) -> (usize, u64) {
        let mut cached = self.cycle.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.as_ref().is_none_or(|(known, _)| *known != cycle) {
            let mut order: Vec<usize> =
                self.buckets.iter().enumerate().flat_map(|(b, members)| vec![b; members.len()]).collect();
            shuffle(&mut order, [self.seed, ORDER_OF_BUCKETS, 0, cycle]);
            *cached = Some((cycle, order));
        }
        let order = cached.as_ref().map_or(&[][..], |(_, order)| order);
        let bucket = order[position];
        (bucket, order[..position].iter().filter(|&&b| b == bucket).count() as u64)
    }

    /// Places in a bucket in the order of its `epoch`-th time round.
    fn shuffled(&self, bucket: usize, epoch: u64) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.buckets[bucket].len()).collect();
        shuffle(&mut places, [self.seed, ORDER_OF_SAMPLES, bucket as u64, epoch]);
        places
    }
}

/// Whole numbers in about the proportions of `repeats` (each within 1 %, or as near as a hundredfold gets), at least 1.
fn whole_numbers(repeats: &[f64]) -> Vec<usize> {
    const FINEST: usize = 100;
    let least = repeats.iter().copied().fold(f64::INFINITY, f64::min);
    let scaled = |times: usize| repeats.iter().map(move |r| r / least * times as f64);
    let error = |times: usize| scaled(times).map(|x| (x.round() / x - 1.0).abs()).fold(0.0, f64::max);
    let times = (1..=FINEST).find(|&times| error(times) <= 0.01).unwrap_or(FINEST);
    scaled(times).map(|x| x.round() as usize).collect()
}

/// Fisher–Yates. Written out because the order must be the same with every future version of every library.
fn shuffle(items: &mut [usize], key: [u64; 4]) {
    let mut rng = generator(key);
    for i in (1..items.len()).rev() {
        let j = below(&mut rng, i + 1);
        items.swap(i, j);
    }
}

fn generator(key: [u64; 4]) -> ChaCha8Rng {
    let mut seed = [0; 32];
    for (bytes, word) in seed.chunks_exact_mut(8).zip(key) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(seed)
}

/// The high word of a product is below `count`; its bias is below 2^-40 for any data set.
fn below(rng: &mut ChaCha8Rng, count: usize) -> usize {
    ((u128::from(rng.next_u64()) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(counts: &[usize], batch_size: usize, seed: u64) -> Order {
        let shapes: Vec<_> = counts.iter().enumerate().flat_map(|(shape, &count)| vec![vec![shape]; count]).collect();
        let repeats = vec![1.0; shapes.len()];
        Order::new(shapes.into_iter(), &repeats, batch_size, seed)
    }

    #[test]
    fn every_sample_comes_equally_often_and_batches_have_one_shape() {
        let order = order(&[7, 3, 1], 4, 5);
        let mut seen = [0; 11];
        // Two cycles of 11 batches of 4: 8 times each.
        for step in 0..22 {
            let batch = order.batch(step);
            assert_eq!(batch.len(), 4);
            let shape = |&i: &usize| (i >= 7) as usize + (i >= 10) as usize;
            assert!(batch.iter().all(|i| shape(i) == shape(&batch[0])), "{batch:?}");
            batch.iter().for_each(|&i| seen[i] += 1);
        }
        assert_eq!(seen, [8; 11]);
    }

    #[test]
    fn an_epoch_has_every_sample_once() {
        let order = order(&[12], 4, 5);
        for epoch in 0..3 {
            let mut all: Vec<_> = (0..3).flat_map(|i| order.batch(epoch * 3 + i)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..12).collect::<Vec<_>>());
        }
    }

    #[test]
    fn batches_are_a_function_of_seed_and_step() {
        let forwards: Vec<_> = (0..40).map(|step| order(&[9, 4], 3, 1).batch(step)).collect();
        let again = order(&[9, 4], 3, 1);
        let backwards: Vec<_> = (0..40).rev().map(|step| again.batch(step)).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()));
        let other: Vec<_> = (0..40).map(|step| order(&[9, 4], 3, 2).batch(step)).collect();
        assert_ne!(forwards, other);
        assert_ne!(forwards[..13], forwards[13..26]);
    }

    #[test]
    fn samples_are_seen_as_often_as_they_count() {
        // Two shapes; the last sample of each counts more.
        let shapes = [[1], [1], [2], [2]].map(|shape| shape.to_vec());
        for (repeats, counts) in [
            ([1.0, 3.0, 1.0, 2.0], [1, 3, 1, 2]),
            ([0.5, 0.75, 0.5, 1.0], [2, 3, 2, 4]),
            ([4.0, 4.0, 4.0, 4.0], [1, 1, 1, 1]),
        ] {
            let order = Order::new(shapes.clone().into_iter(), &repeats, 2, 3);
            let mut seen = [0; 4];
            (0..counts.iter().sum::<usize>() as u64).flat_map(|step| order.batch(step)).for_each(|i| seen[i] += 1);
            assert_eq!(seen, counts.map(|count| 2 * count));
        }
        let thirds = whole_numbers(&[1.0, 1.0 / 3.0, 0.123]);
        let within = |i: usize, share: f64| (thirds[i] as f64 / thirds[2] as f64 / (share / 0.123) - 1.0).abs() < 0.02;
        assert!(within(0, 1.0) && within(1, 1.0 / 3.0), "{thirds:?}");
    }

    /// Pinned: a change here breaks the resume of every run that is under way.
    #[test]
    fn the_order_is_the_same_for_ever() {
        let order = order(&[5], 5, 42);
        assert_eq!([order.batch(0), order.batch(1)], [[3, 4, 1, 0, 2], [3, 4, 0, 2, 1]]);
    }
}
