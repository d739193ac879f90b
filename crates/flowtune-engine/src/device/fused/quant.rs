//! Quantised weights, back to what products take.

use candle_core::{DType, Tensor};

use super::launched;
use super::place::{filled, input};
use crate::device::Kernels;
use crate::error::Result;
use crate::kernels;

/// As [`crate::device::composed::int8_rows`].
pub(crate) fn int8_rows(kernels: Kernels, codes: &Tensor, scales: &Tensor, dtype: DType) -> Option<Result<Tensor>> {
    launched!(kernels, codes, dtype, on, T => {
        let run = || {
            let (bytes, scales) = (input::<_, u8>(on, codes)?, input(on, scales)?);
            let (rows, cols) = codes.dims2()?;
            filled::<_, T>(on, codes.dims(), |out| {
                kernels::int8_rows(on, &bytes.view.signed(), &scales.view, out, [rows, cols])
            })
        };
        run()
    })
}

/// As [`crate::device::composed::nf4`].
pub(crate) fn nf4(
    kernels: Kernels,
    [codes, scales, values]: [&Tensor; 3],
    extents: [usize; 2],
    dtype: DType,
) -> Option<Result<Tensor>> {
    launched!(kernels, codes, dtype, on, T => {
        let run = || {
            let (bytes, scales, values) = (input::<_, u8>(on, codes)?, input(on, scales)?, input(on, values)?);
            filled::<_, T>(on, &extents, |out| kernels::nf4(on, &bytes.view, &scales.view, &values.view, out))
        };
        run()
    })
}
