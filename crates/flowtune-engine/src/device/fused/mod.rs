//! The operations by this crate's own kernels ([`crate::kernels`]), where a device has them. What they do not take, float64
//! among it, is composed.

mod attention;
mod linear;
mod norm;
mod norm_rope;
mod optimizer;
mod place;
mod quant;
mod residual;
mod swiglu;

pub(crate) use attention::{attention, attention_backward};
pub(crate) use linear::{linear, linear_backward};
pub(crate) use norm::{layer_norm_modulate, layer_norm_modulate_backward};
pub(crate) use norm_rope::{rms_norm_rope, rms_norm_rope_input_gradient, rms_norm_rope_weight_gradient};
pub(crate) use optimizer::{adamw, sums_of_squares};
pub(crate) use quant::{int8_rows, nf4};
pub(crate) use residual::{gate_gradient, gated, gated_residual};
pub(crate) use swiglu::{swiglu, swiglu_backward};

/// Runs `$body` with `$on` a launcher for a device and `$T` the type of `$dtype`; nothing where the device has no kernels, or
/// the kernels have no such type.
macro_rules! launched {
    ($kernels:expr, $twin:expr, $dtype:expr, $on:ident, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $crate::device::fused::launched!($kernels, $twin, $on => $body)
            }
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $crate::device::fused::launched!($kernels, $twin, $on => $body)
            }
            _ => None,
        }
    };
    ($kernels:expr, $twin:expr, $on:ident => $body:expr) => {
        match $kernels {
            #[cfg(feature = "emulate")]
            $crate::device::Kernels::Emulated => {
                let $on = &$crate::kernels::Emulated::new();
                Some($body)
            }
            #[cfg(feature = "cuda")]
            $crate::device::Kernels::Cuda => match $twin.device() {
                candle_core::Device::Cuda(device) => {
                    let $on = &$crate::kernels::Cuda::new(device);
                    Some($body)
                }
                _ => None,
            },
            $crate::device::Kernels::None => None,
        }
    };
}
pub(super) use launched;
