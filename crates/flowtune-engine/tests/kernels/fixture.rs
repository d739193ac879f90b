//! Buffers, numbers, bounds, and the operation that a kernel must agree with.

use half::bf16;

use flowtune_engine::kernels::{Emulated, Value, View, ViewMut};
use flowtune_engine::{DType, Element, Gradients, Result, Tape, Tensor, Var};

/// A type that kernels take and the CPU's operations compute in.
pub(super) trait Sample: Value + Element {
    /// Bound relative to the largest element, when sums are taken in another order.
    const BOUND: f32;
    /// Bound relative to the element itself: what it is rounded to, once.
    const ROUNDING: f32;
    /// As float32.
    fn load(self) -> f32;
    /// The nearest.
    fn store(value: f32) -> Self;
}

impl Sample for f32 {
    const BOUND: f32 = 1e-5;
    const ROUNDING: f32 = 0.0;
    fn load(self) -> f32 {
        self
    }
    fn store(value: f32) -> Self {
        value
    }
}

impl Sample for bf16 {
    const BOUND: f32 = 1e-5;
    const ROUNDING: f32 = 1.0 / 128.0;
    fn load(self) -> f32 {
        self.to_f32()
    }
    fn store(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// Elements on each side of a [`Padded`].
const MARGIN: usize = 67;

/// A buffer between margins of NaN, which no kernel may touch: what is read there spoils the result.
pub(super) struct Padded<T>(Vec<T>);

impl<T: bytemuck::Pod> Padded<T> {
    /// With `data`.
    pub(super) fn of(data: &[T]) -> Self {
        let mut padded = Self::empty(data.len());
        padded.0[MARGIN..][..data.len()].copy_from_slice(data);
        padded
    }

    /// Not written yet: NaN.
    pub(super) fn empty(len: usize) -> Self {
        let mut data = vec![T::zeroed(); len + 2 * MARGIN];
        bytemuck::cast_slice_mut::<T, u8>(&mut data).fill(0xff);
        Self(data)
    }

    fn len(&self) -> usize {
        self.0.len() - 2 * MARGIN
    }

    pub(super) fn view(&self) -> View<'_, T> {
        Emulated::view(&self.0[MARGIN..][..self.len()])
    }

    pub(super) fn view_mut(&mut self) -> ViewMut<'_, T> {
        let len = self.len();
        Emulated::view_mut(&mut self.0[MARGIN..][..len])
    }

    /// What is in it now.
    pub(super) fn read(&self) -> &[T] {
        let (front, rest) = self.0.split_at(MARGIN);
        let (data, back) = rest.split_at(self.len());
        for margin in [front, back] {
            assert!(bytemuck::cast_slice::<T, u8>(margin).iter().all(|&byte| byte == 0xff), "a margin was written");
        }
        data
    }
}

/// Numbers in −1..1 that look random and are the same on every run.
pub(super) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// [`numbers`] in a type.
pub(super) fn samples<T: Sample>(count: usize, seed: u64) -> Vec<T> {
    numbers(count, seed).into_iter().map(T::store).collect()
}

/// `data` as a tensor.
pub(super) fn tensor<T: Element>(data: &[T], shape: &[usize]) -> Tensor {
    Tensor::from_vec(data.to_vec(), shape).unwrap()
}

/// That `got` is `want` within the bounds of its type.
pub(super) fn assert_close<T: Sample>(what: &str, got: &[T], want: &[T]) {
    assert_within(what, got, want, T::BOUND);
}

/// The same with another bound relative to the largest element.
pub(super) fn assert_within<T: Sample>(what: &str, got: &[T], want: &[T], bound: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(1e-30, |most: f32, x| most.max(x.load().abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let (got, want) = (got.load(), want.load());
        let allowed = bound * largest + T::ROUNDING * want.abs();
        assert!((got - want).abs() <= allowed, "{what}: element {i} is {got}, not {want}; largest {largest}");
    }
}

/// The value of `op` at `inputs`, and their gradients when that of the value is `g`.
pub(super) fn reference(
    op: impl Fn(&Tape, &[Var]) -> Result<Var>,
    inputs: &[Tensor],
    g: &Tensor,
) -> (Tensor, Vec<Tensor>) {
    let tape = Tape::new();
    let leaves: Vec<Var> = inputs.iter().map(|input| tape.leaf(input.clone())).collect();
    let y = op(&tape, &leaves).unwrap();
    let value = y.tensor().clone();
    let of: Vec<&Var> = leaves.iter().collect();
    let gradients = tape.backward(&y, g.clone(), &of, &mut Gradients::new()).unwrap();
    (value, gradients.into_iter().map(|gradient| gradient.unwrap()).collect())
}

/// The type of a [`Sample`] as the engine names it.
pub(super) fn dtype<T: Sample>() -> DType {
    T::KIND
}
