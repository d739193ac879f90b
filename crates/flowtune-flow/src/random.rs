//! Randomness as a function of (run seed, step, sample, purpose): it does not depend on batch order, threads
//! or on where a run was resumed.

use flowtune_engine::Tensor;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// What a stream of random numbers is for; streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// σ of a sample.
    Sigma = 1,
    /// ε of a sample.
    Noise = 2,
    /// Whether a sample's caption is dropped.
    CaptionDropout = 3,
    /// Whether a whole batch is drawn uniformly.
    Mix = 4,
    /// ε of the held-out evaluation.
    EvaluationNoise = 5,
    /// Initial noise of a sample image.
    InitialLatents = 6,
}

/// The stream of one sample for one purpose.
pub fn stream(seed: u64, step: u64, sample: u64, purpose: Purpose) -> ChaCha8Rng {
    // The four numbers are the whole key, so no two streams coincide.
    let mut key = [0u8; 32];
    for (chunk, word) in key.chunks_exact_mut(8).zip([seed, step, sample, purpose as u64]) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Standard normal noise, float32 `[batch, ..shape]`: sample i of the batch from stream `first + i`.
///
/// # Errors
/// Never for a consistent shape.
pub fn normal_batch(
    seed: u64,
    step: u64,
    first: u64,
    purpose: Purpose,
    shape: &[usize],
) -> flowtune_engine::Result<Tensor> {
    let row: usize = shape[1..].iter().product();
    let mut data = Vec::with_capacity(shape[0] * row);
    for i in 0..shape[0] as u64 {
        let mut rng = stream(seed, step, first + i, purpose);
        data.extend((0..row).map(|_| -> f32 { StandardNormal.sample(&mut rng) }));
    }
    Tensor::from_vec(data, shape)
}

#[cfg(test)]
mod tests {
    use super::{Purpose, normal_batch};

    #[test]
    fn a_sample_has_the_same_noise_in_every_batch() {
        let both = normal_batch(7, 3, 0, Purpose::Noise, &[2, 5]).unwrap();
        let second = normal_batch(7, 3, 1, Purpose::Noise, &[1, 5]).unwrap();
        assert_eq!(both.as_slice::<f32>().unwrap()[5..], *second.as_slice::<f32>().unwrap());
        let other = normal_batch(7, 4, 1, Purpose::Noise, &[1, 5]).unwrap();
        assert_ne!(other.as_slice::<f32>().unwrap(), second.as_slice::<f32>().unwrap());
    }
}
