//! How numbers of the host come to a device.

use candle_core::{Device as Place, Result as Composed, Tensor as Twin, WithDType};

/// Types that a device can be given.
#[cfg(not(feature = "cuda"))]
pub(crate) trait Numbers: WithDType {}
#[cfg(not(feature = "cuda"))]
impl<T: WithDType> Numbers for T {}

/// Types that a device can be given.
#[cfg(feature = "cuda")]
pub(crate) trait Numbers:
    WithDType + candle_core::cuda_backend::CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr
{
}
#[cfg(feature = "cuda")]
impl<T> Numbers for T where
    T: WithDType + candle_core::cuda_backend::CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr
{
}

/// A way to bring them.
pub(crate) trait Bring {
    /// `x` as a tensor of `shape` there.
    fn bring<T: Numbers>(&self, x: &[T], shape: &[usize], place: &Place) -> Composed<Twin>;
}

/// In order with everything that is computed there.
pub(crate) struct InOrder;

impl Bring for InOrder {
    fn bring<T: Numbers>(&self, x: &[T], shape: &[usize], place: &Place) -> Composed<Twin> {
        Twin::from_slice(x, shape, place)
    }
}
