//! The seam between what a kernel is given and what runs it.

use std::marker::PhantomData;

use super::buffer::{Buffer, View};
use super::grid::Grid;
use super::product::Product;
use crate::error::{Error, Result};

/// One argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// An address in the device's memory.
    Pointer(u64),
    /// An extent or an index.
    U64(u64),
    /// A choice.
    U32(u32),
    /// A factor.
    F32(f32),
}

impl From<usize> for Arg {
    fn from(extent: usize) -> Self {
        Self::U64(extent as u64)
    }
}

impl From<bool> for Arg {
    fn from(choice: bool) -> Self {
        Self::U32(choice.into())
    }
}

impl From<f32> for Arg {
    fn from(factor: f32) -> Self {
        Self::F32(factor)
    }
}

/// An entry point of a kernel file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Name of the file, without its ending.
    pub file: &'static str,
    /// Name of the entry point.
    pub name: String,
}

impl Kernel {
    /// Entry point `op_suffix` of `file`.
    pub fn new(file: &'static str, op: &str, suffix: &str) -> Self {
        Self { file, name: format!("{op}_{suffix}") }
    }
}

/// What runs kernels: one stream of a device, in order.
pub trait Launcher {
    /// Memory of the device.
    type Memory;

    /// Queues `kernel` with one argument for each of its parameters.
    ///
    /// # Safety
    /// The arguments must be those that the kernel has, and what it makes of them must be within their buffers.
    ///
    /// # Errors
    /// What the device says.
    unsafe fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<()>;

    /// Queues a product of matrices.
    ///
    /// # Safety
    /// The matrices must be within their buffers, and c in no other's use.
    ///
    /// # Errors
    /// What the device says.
    unsafe fn product(&self, product: &Product) -> Result<()>;

    /// Memory that is not filled, aligned for any number; giving it back is queued like a launch.
    ///
    /// # Errors
    /// When there is not enough.
    fn scratch(&self, bytes: usize) -> Result<Self::Memory>;

    /// Where it is.
    fn address(&self, memory: &Self::Memory) -> u64;
}

/// Partial results: one kernel writes them, a later one reads them.
pub(super) struct Scratch<M, T> {
    _memory: M,
    address: u64,
    len: usize,
    _elements: PhantomData<T>,
}

impl<M, T> Scratch<M, T> {
    pub(super) fn new<L: Launcher<Memory = M>>(on: &L, len: usize) -> Result<Self> {
        let memory = on.scratch(len * size_of::<T>())?;
        Ok(Self { address: on.address(&memory), _memory: memory, len, _elements: PhantomData })
    }

    pub(super) fn view(&self) -> View<'_, T> {
        // SAFETY: there while `self` is, and only launches that are in order use it.
        unsafe { View::new(self.address, self.len) }
    }
}

/// Launches when there is anything to do: a device refuses a grid of nothing.
///
/// # Safety
/// As [`Launcher::launch`].
pub(super) unsafe fn launch<L: Launcher>(on: &L, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
    match grid.blocks {
        0 => Ok(()),
        // SAFETY: the caller's.
        _ => unsafe { on.launch(kernel, grid, args) },
    }
}

/// That each buffer has as many elements as the extents beside it multiply to.
pub(super) fn check(op: &'static str, buffers: &[(&'static str, &dyn Buffer, &[usize])]) -> Result<()> {
    for (argument, buffer, extents) in buffers {
        let wanted = extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        if wanted != Some(buffer.len()) {
            let expected = format!("{extents:?}");
            return Err(Error::Shape { op, argument, expected, got: vec![buffer.len()] });
        }
    }
    Ok(())
}
