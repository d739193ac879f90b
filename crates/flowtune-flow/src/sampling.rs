//! Sampling: Euler steps along the learned path, from noise to latents.
//! Source: diffusers `pipeline_flux2_klein.py`, `scheduling_flow_match_euler_discrete.py`.
//!
//! ```
//! use flowtune_engine::Tensor;
//! use flowtune_flow::random::{Purpose, normal_batch};
//! use flowtune_flow::sampling::{SampleInputs, sample};
//! use flowtune_models::Precision;
//! use flowtune_models::transformer::{Flux2Config, Flux2Transformer};
//!
//! # fn main() -> flowtune_flow::Result<()> {
//! # let config = Flux2Config {
//! #     in_channels: 8,
//! #     num_layers: 1,
//! #     num_single_layers: 1,
//! #     attention_head_dim: 8,
//! #     num_attention_heads: 2,
//! #     joint_attention_dim: 6,
//! #     axes_dims_rope: vec![2; 4],
//! #     guidance_embeds: false,
//! #     ..Flux2Config::default()
//! # };
//! let model = Flux2Transformer::random(config, 0, Precision::FLOAT32)?;
//! let inputs = SampleInputs {
//!     text_embeddings: Tensor::full(0.5f32, &[1, 4, 6]),
//!     negative_text_embeddings: None,
//!     initial_latents: normal_batch(7, 0, 0, Purpose::Noise, &[1, 8, 3, 2])?,
//!     steps: 4,
//!     guidance_scale: 1.0,
//!     references: Vec::new(),
//! };
//! let latents = sample(&model, &inputs, &mut |step| {
//!     println!("step {step}");
//!     Ok(())
//! })?;
//! assert_eq!(latents.shape(), [1, 8, 3, 2]);
//! # Ok(()) }
//! ```

use flowtune_engine::{Tape, Tensor, Var};
use flowtune_models::transformer::{Flux2Inputs, Flux2Transformer, ReferenceTokens};

use crate::error::{Error, Result};
use crate::flux2::Flux2Adapter;
use crate::references;

/// μ of the noise schedule, fitted by BFL over image tokens and steps (`compute_empirical_mu`).
pub fn empirical_mu(tokens: usize, steps: usize) -> f64 {
    let tokens = tokens as f64;
    let at_200_steps = 0.00016927 * tokens + 0.45666666;
    if tokens > 4300.0 {
        return at_200_steps;
    }
    let at_10_steps = 8.73809524e-05 * tokens + 1.89833333;
    let slope = (at_200_steps - at_10_steps) / 190.0;
    slope * steps as f64 + at_200_steps - 200.0 * slope
}

/// Noise levels of `steps` Euler steps, from near 1 down to 0: `steps + 1` values, the last 0.
/// linspace(1, 1/steps, steps), each σ → e^μ / (e^μ + 1/σ − 1).
pub fn euler_sigmas(tokens: usize, steps: usize) -> Vec<f32> {
    let shift = empirical_mu(tokens, steps).exp();
    let spacing = |i: usize| {
        let last = 1.0 / steps as f64;
        1.0 + (last - 1.0) * i as f64 / (steps.max(2) - 1) as f64
    };
    let shifted = |sigma: f64| shift / (shift + (1.0 / sigma - 1.0));
    (0..steps).map(|i| shifted(spacing(i)) as f32).chain([0.0]).collect()
}

/// What to sample.
#[derive(Debug, Clone)]
pub struct SampleInputs {
    /// Text embeddings, `[batch, tokens, dim]`.
    pub text_embeddings: Tensor,
    /// Embeddings of the negative prompt, same shape; for classifier-free guidance.
    pub negative_text_embeddings: Option<Tensor>,
    /// Gaussian noise, `[batch, 128, H/16, W/16]`.
    pub initial_latents: Tensor,
    /// Euler steps.
    pub steps: usize,
    /// Scale of classifier-free guidance (with negative embeddings, above 1), or the guidance that the model
    /// is told (with a guidance embedding).
    pub guidance_scale: f64,
    /// Latents of reference images, as in [`Batch::references`](crate::Batch::references). The guided and the unguided
    /// prediction both see them; the noise schedule does not count their tokens.
    pub references: Vec<Vec<Tensor>>,
}

/// Runs the sampler. Returns patchified, BN-normalised latents `[batch, 128, H/16, W/16]`. `on_step` is called
/// after each step with its number, from 1, and stops the sampling with its error.
///
/// # Errors
/// `RECIPE_INVALID` when there are no steps; `SHAPE_MISMATCH`; what `on_step` returns.
pub fn sample(
    model: &Flux2Transformer,
    inputs: &SampleInputs,
    on_step: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Tensor> {
    if inputs.steps == 0 {
        return Err(Error::Invalid("sampling needs at least 1 step".to_owned()));
    }
    let denoiser = Denoiser::new(model, inputs)?;
    let sigmas = euler_sigmas(denoiser.h * denoiser.w, inputs.steps);
    let mut latents = denoiser.adapter.pack_latents(&inputs.initial_latents)?;
    for (i, pair) in sigmas.windows(2).enumerate() {
        let velocity = denoiser.velocity(&latents, pair[0])?;
        let dt = pair[1] - pair[0];
        let v = velocity.as_slice::<f32>()?;
        latents.as_mut_slice::<f32>()?.iter_mut().zip(v).for_each(|(x, v)| *x += dt * v);
        on_step(i + 1)?;
    }
    denoiser.adapter.unpack_latents(&latents, denoiser.h, denoiser.w)
}

/// The model with everything that stays the same over the steps.
struct Denoiser<'a> {
    model: &'a Flux2Transformer,
    inputs: &'a SampleInputs,
    adapter: Flux2Adapter,
    h: usize,
    w: usize,
    img_ids: Tensor,
    txt_ids: Tensor,
    guidance: Option<Tensor>,
    references: Vec<Option<ReferenceTokens>>,
}

impl<'a> Denoiser<'a> {
    fn new(model: &'a Flux2Transformer, inputs: &'a SampleInputs) -> Result<Self> {
        let use_guidance_embeds = model.config().guidance_embeds;
        let adapter = Flux2Adapter { guidance_scale: inputs.guidance_scale, use_guidance_embeds };
        let &[batch, channels, h, w] = inputs.initial_latents.shape() else {
            adapter.pack_latents(&inputs.initial_latents)?;
            return Err(Error::Invalid("initial_latents must have four dimensions".to_owned()));
        };
        Ok(Self {
            model,
            inputs,
            adapter,
            h,
            w,
            img_ids: adapter.prepare_latent_ids(h, w, batch)?,
            txt_ids: adapter.prepare_text_ids(inputs.text_embeddings.dim(1), batch)?,
            guidance: use_guidance_embeds.then(|| Tensor::full(inputs.guidance_scale as f32, &[batch])),
            references: references::tokens(&inputs.references, batch, channels)?,
        })
    }

    /// The velocity at noise level `sigma`, guided away from the negative prompt where asked for.
    fn velocity(&self, latents: &Tensor, sigma: f32) -> Result<Tensor> {
        let positive = self.predict(latents, sigma, &self.inputs.text_embeddings)?;
        let scale = self.inputs.guidance_scale as f32;
        match &self.inputs.negative_text_embeddings {
            Some(negative) if scale > 1.0 && self.guidance.is_none() => {
                let mut out = self.predict(latents, sigma, negative)?;
                let p = positive.as_slice::<f32>()?;
                out.as_mut_slice::<f32>()?.iter_mut().zip(p).for_each(|(n, p)| *n += scale * (p - *n));
                Ok(out)
            }
            _ => Ok(positive),
        }
    }

    fn predict(&self, latents: &Tensor, sigma: f32, text: &Tensor) -> Result<Tensor> {
        let inputs = Flux2Inputs {
            hidden_states: Var::constant(latents.clone()),
            encoder_hidden_states: Var::constant(text.clone()),
            timestep: Tensor::full(sigma, &[latents.dim(0)]),
            img_ids: self.img_ids.clone(),
            txt_ids: self.txt_ids.clone(),
            guidance: self.guidance.clone(),
            references: self.references.clone(),
        };
        Ok(self.model.forward(&Tape::inference(), &inputs)?.into_tensor())
    }
}
