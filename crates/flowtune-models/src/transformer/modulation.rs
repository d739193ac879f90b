//! Timestep and guidance embedding, and the modulation that all blocks share.

use flowtune_engine::ops::timestep::timestep_embedding;
use flowtune_engine::{DType, Tape, Tensor, Var};

use super::builder::Builder;
use crate::error::Result;
use crate::linear::Linear;

/// diffusers `Flux2TimestepGuidanceEmbeddings`.
#[derive(Debug)]
pub(super) struct TimeGuidanceEmbed {
    channels: usize,
    timestep: Mlp,
    guidance: Option<Mlp>,
}

/// linear_1, silu, linear_2.
#[derive(Debug)]
struct Mlp {
    linear_1: Linear,
    linear_2: Linear,
}

impl Mlp {
    fn build(b: &mut Builder, name: &str, inputs: usize, dim: usize) -> Result<Self> {
        Ok(Self {
            linear_1: b.linear(&format!("{name}.linear_1"), dim, inputs)?,
            linear_2: b.linear(&format!("{name}.linear_2"), dim, dim)?,
        })
    }

    fn forward(&self, tape: &Tape, x: Tensor) -> flowtune_engine::Result<Var> {
        let hidden = self.linear_1.forward(tape, &Var::constant(x))?;
        self.linear_2.forward(tape, &tape.silu(&hidden)?)
    }
}

impl TimeGuidanceEmbed {
    pub(super) fn build(b: &mut Builder, channels: usize, dim: usize, guidance: bool) -> Result<Self> {
        let name = "time_guidance_embed";
        let timestep = Mlp::build(b, &format!("{name}.timestep_embedder"), channels, dim)?;
        let guidance = match guidance {
            true => Some(Mlp::build(b, &format!("{name}.guidance_embedder"), channels, dim)?),
            false => None,
        };
        Ok(Self { channels, timestep, guidance })
    }

    /// timestep and guidance `[batch]`, both already times 1000 → `[batch, dim]` in `compute`.
    pub(super) fn forward(
        &self,
        tape: &Tape,
        timestep: &Tensor,
        guidance: Option<&Tensor>,
        compute: DType,
    ) -> flowtune_engine::Result<Var> {
        let embedding = |t: &Tensor| timestep_embedding(t, self.channels)?.to_dtype(compute);
        let time = self.timestep.forward(tape, embedding(timestep)?)?;
        match (&self.guidance, guidance) {
            (Some(mlp), Some(guidance)) => {
                let guidance = mlp.forward(tape, embedding(guidance)?)?;
                tape.add(&time, &guidance)
            }
            _ => Ok(time),
        }
    }

    pub(super) fn linears<'a>(&'a self, out: &mut Vec<&'a Linear>) {
        for mlp in std::iter::once(&self.timestep).chain(&self.guidance) {
            out.extend([&mlp.linear_1, &mlp.linear_2]);
        }
    }
}

/// Shift, scale and gate `[batch, dim]` of one sub-layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Modulation<'a> {
    pub(super) shift: &'a Var,
    pub(super) scale: &'a Var,
    pub(super) gate: &'a Var,
}

impl<'a> Modulation<'a> {
    /// From three adjacent values.
    pub(super) fn of(vars: &'a [Var]) -> Self {
        Self { shift: &vars[0], scale: &vars[1], gate: &vars[2] }
    }
}

/// linear(silu(temb)) cut into `parts` of `[batch, dim]`, float32 even when the model computes in bfloat16.
pub(super) fn modulate(
    tape: &Tape,
    linear: &Linear,
    activated: &Var,
    parts: usize,
) -> flowtune_engine::Result<Vec<Var>> {
    let all = linear.forward_wide(tape, activated)?;
    let dim = all.tensor().last_dim() / parts;
    tape.split_last(&all, &vec![dim; parts])
}
