//! Memory that kernels read and write.

use std::marker::PhantomData;

use super::launch::Arg;
use super::product::Kind;

/// A type that activations and weights have in memory; kernels compute in float32.
pub trait Value: bytemuck::Pod {
    /// What the kernels' names end in.
    const NAME: &'static str;
    /// What it is to a product.
    const OPERAND: Kind;
}

impl Value for f32 {
    const NAME: &'static str = "f32";
    const OPERAND: Kind = Kind::F32;
}

impl Value for half::bf16 {
    const NAME: &'static str = "bf16";
    const OPERAND: Kind = Kind::Bf16;
}

/// What has to happen to a buffer once the launches that use it are queued, when it goes out of scope.
#[cfg(feature = "cuda")]
pub(super) type Guard<'a> = Option<candle_core::cuda_backend::cudarc::driver::SyncOnDrop<'a>>;
#[cfg(not(feature = "cuda"))]
pub(super) type Guard<'a> = Option<std::convert::Infallible>;

/// Elements in a device's memory that kernels read.
pub struct View<'a, T> {
    address: u64,
    len: usize,
    _guard: Guard<'a>,
    _elements: PhantomData<&'a [T]>,
}

/// Elements in a device's memory that kernels write.
pub struct ViewMut<'a, T> {
    address: u64,
    len: usize,
    _guard: Guard<'a>,
    _elements: PhantomData<&'a mut [T]>,
}

impl<'a, T> View<'a, T> {
    /// `len` elements from `address` on.
    ///
    /// # Safety
    /// For `'a` they must be there, in the memory of the device whose launcher the view is given to, and not be written
    /// by anything that the launches are not in order with.
    pub unsafe fn new(address: u64, len: usize) -> Self {
        Self { address, len, _guard: None, _elements: PhantomData }
    }

    #[cfg(feature = "cuda")]
    pub(super) fn guarded(self, guard: Guard<'a>) -> Self {
        Self { _guard: guard, ..self }
    }

    /// `len` elements from element `offset` on; nothing when they are not all there.
    pub fn slice(&self, offset: usize, len: usize) -> Option<View<'_, T>> {
        let address = part::<T>(self.address, self.len, offset, len)?;
        // SAFETY: a part of what is there for as long as `self`.
        Some(unsafe { View::new(address, len) })
    }
}

impl View<'_, u8> {
    /// The same bytes as numbers in two's complement.
    pub fn signed(&self) -> View<'_, i8> {
        // SAFETY: as many of the same size, there for as long as `self`.
        unsafe { View::new(self.address, self.len) }
    }
}

impl<'a, T> ViewMut<'a, T> {
    /// `len` elements from `address` on.
    ///
    /// # Safety
    /// As [`View::new`], and nothing else may use them.
    pub unsafe fn new(address: u64, len: usize) -> Self {
        Self { address, len, _guard: None, _elements: PhantomData }
    }

    #[cfg(feature = "cuda")]
    pub(super) fn guarded(self, guard: Guard<'a>) -> Self {
        Self { _guard: guard, ..self }
    }

    /// `len` elements from element `offset` on; nothing when they are not all there.
    pub fn slice(&mut self, offset: usize, len: usize) -> Option<ViewMut<'_, T>> {
        let address = part::<T>(self.address, self.len, offset, len)?;
        // SAFETY: a part of what nothing else uses while `self` is borrowed.
        Some(unsafe { ViewMut::new(address, len) })
    }
}

fn part<T>(address: u64, of: usize, offset: usize, len: usize) -> Option<u64> {
    (offset.checked_add(len)? <= of).then(|| address + (offset * size_of::<T>()) as u64)
}

/// What [`View`] and [`ViewMut`] have in common.
pub(super) trait Buffer {
    /// How many elements.
    fn len(&self) -> usize;
    /// Where the first is.
    fn address(&self) -> u64;
    /// The address, for a kernel.
    fn arg(&self) -> Arg {
        Arg::Pointer(self.address())
    }
}

impl<T> Buffer for View<'_, T> {
    fn len(&self) -> usize {
        self.len
    }
    fn address(&self) -> u64 {
        self.address
    }
}

impl<T> Buffer for ViewMut<'_, T> {
    fn len(&self) -> usize {
        self.len
    }
    fn address(&self) -> u64 {
        self.address
    }
}
