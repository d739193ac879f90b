//! Weights of a frozen base on a device, in fewer bits than products take.

use candle_core::{DType as Kind, Device as Place, Result as Composed, Tensor as Twin};

use super::ferry::brought;
use super::{Bring, Device, Kernels, int8_rows, nf4};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::quant::{Int8Rows, NF4, Nf4, Quantised};
use crate::tensor::Tensor;

/// [`Quantised`] on a device, `[rows, cols]`.
#[derive(Clone)]
pub(crate) struct QuantisedOnDevice {
    codes: Codes,
    scales: Twin,
    extents: [usize; 2],
    pub(crate) kernels: Kernels,
}

#[derive(Clone)]
enum Codes {
    /// `[rows, cols]`, in two's complement.
    Int8(Twin),
    /// `[rows·cols / 2]`, and the values that they stand for, `[16]`.
    Nf4(Twin, Twin),
}

impl QuantisedOnDevice {
    pub(crate) fn new(weight: &Quantised, place: &Place, kernels: Kernels, by: &impl Bring) -> Composed<Self> {
        let bring = |x: &[u8]| by.bring(x, &[x.len()], place);
        let (codes, scales, extents) = match weight {
            Quantised::Int8(Int8Rows { data, scales, .. }) => {
                let extents = [scales.len(), data.len() / scales.len().max(1)];
                (Codes::Int8(bring(bytemuck::cast_slice(data))?.reshape(&extents[..])?), scales, extents)
            }
            Quantised::Nf4(Nf4 { codes, scales, rows, cols }) => {
                (Codes::Nf4(bring(codes)?, by.bring(&NF4, &[NF4.len()], place)?), scales, [*rows, *cols])
            }
        };
        Ok(Self { codes, scales: by.bring(scales, &[scales.len()], place)?, extents, kernels })
    }

    /// Back to the host.
    pub(crate) fn to_host(&self) -> Composed<Quantised> {
        let ([rows, cols], scales) = (self.extents, self.scales.to_vec1()?);
        Ok(match &self.codes {
            Codes::Int8(codes) => {
                let codes = codes.flatten_all()?.to_vec1::<u8>()?;
                Quantised::Int8(Int8Rows::new(bytemuck::cast_slice(&codes).to_vec(), scales, cols))
            }
            Codes::Nf4(codes, _) => Quantised::Nf4(Nf4 { codes: codes.to_vec1()?, scales, rows, cols }),
        })
    }

    pub(crate) fn device(&self) -> Device {
        Device::of(&self.scales, self.kernels)
    }

    pub(crate) fn dtype(&self) -> DType {
        match self.codes {
            Codes::Int8(_) => DType::I8,
            Codes::Nf4(..) => DType::Nf4,
        }
    }

    /// The matrix.
    pub(crate) fn dequantised(&self, dtype: Kind) -> Result<Twin> {
        match &self.codes {
            Codes::Int8(codes) => int8_rows(self.kernels, codes, &self.scales, dtype),
            Codes::Nf4(codes, values) => nf4(self.kernels, [codes, &self.scales, values], self.extents, dtype),
        }
    }
}

/// A weight `[out, in]` of a product.
#[derive(Clone)]
pub(crate) enum Weight {
    /// In a type of numbers.
    Plain(Twin),
    /// In fewer bits: made into numbers for each product, and not kept.
    Quantised(QuantisedOnDevice),
    /// On the host: brought for each product, and not kept.
    Resting(Tensor),
}

impl Weight {
    /// A weight for products on a device with `kernels`.
    ///
    /// # Errors
    /// When it is on another device; when it is in fewer bits and has another shape than it was made with.
    pub(crate) fn of(op: &'static str, weight: &Tensor, kernels: Kernels) -> Result<Self> {
        let (found, of) = if let Some(quantised) = weight.quantised_on_device() {
            if weight.shape() != quantised.extents {
                return Err(Error::Device { op });
            }
            (quantised.kernels, Self::Quantised(quantised.clone()))
        } else if let Some(plain) = weight.on_device()? {
            (plain.kernels, Self::Plain(plain.twin))
        } else {
            (kernels, Self::Resting(weight.clone()))
        };
        if found == kernels { Ok(of) } else { Err(Error::Device { op }) }
    }

    /// The weight for a product with `x`.
    pub(crate) fn for_product(&self, op: &'static str, kernels: Kernels, x: &Twin) -> Result<Twin> {
        match self {
            Self::Plain(twin) => Ok(twin.clone()),
            Self::Quantised(weight) => weight.dequantised(x.dtype()),
            Self::Resting(weight) => {
                let here = brought(weight, &Device::of(x, kernels))?;
                Self::of(op, &here, kernels)?.for_product(op, kernels, x)
            }
        }
    }
}
