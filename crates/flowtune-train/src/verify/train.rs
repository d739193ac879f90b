//! Case `train`: whole optimizer steps from given data, noise and σ.

use flowtune_engine::{Gradients, Param, Tape, Tensor};
use flowtune_flow::shift::FlowShift;
use flowtune_flow::weighting::LossWeighting;
use flowtune_flow::{Batch, FlowMatchingOptions, FlowMatchingPipeline, Flux2Adapter, Given};
use flowtune_models::lora::{LoraConfig, adapters_of, set_adapters};
use flowtune_models::transformer::{Flux2Config, Flux2Transformer};
use flowtune_models::{Precision, Quantization, Weights};
use serde::Deserialize;

use super::Setup;
use super::case::{
    AUTOCAST_DIRECTION, BFLOAT16_DIRECTION, BFLOAT16_LOSS, Case, FORWARD, GRADIENT, INT8_DIRECTION, INT8_LOSS, NF4_LOSS,
};
use crate::error::{Error, Result};
use crate::optimizer::AdamW;
use crate::recipe::{Mode, OptimizerRecipe, OptimizerType};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    transformer: Flux2Config,
    mode: Mode,
    steps: usize,
    lora: Option<LoraInfo>,
    pipeline: PipelineInfo,
    optimizer: OptimizerInfo,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoraInfo {
    rank: usize,
    alpha: f64,
    target_modules: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PipelineInfo {
    flow_shift: f64,
    loss_weighting: LossWeighting,
    guidance_scale: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimizerInfo {
    r#type: OptimizerType,
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    max_grad_norm: f64,
}

/// In float32 all values are compared; in another precision the losses, and the directions of the gradients where they have a
/// bound.
pub(super) fn run(case: &Case, setup: &Setup) -> Result<()> {
    let precision = setup.precision;
    let info: Info = case.info()?;
    let float32 = precision == Precision::FLOAT32;
    // Of losses and of the directions of gradients.
    let bounds = match precision.quantization {
        _ if float32 => (FORWARD, GRADIENT),
        Quantization::None if setup.device.is_cpu() => (BFLOAT16_LOSS, BFLOAT16_DIRECTION),
        Quantization::None => (BFLOAT16_LOSS, AUTOCAST_DIRECTION),
        Quantization::Int8 => (INT8_LOSS, INT8_DIRECTION),
        Quantization::Nf4 => (NF4_LOSS, f64::INFINITY),
    };
    let (model, params) = model(case, &info, precision)?;
    model.to_device(&setup.device)?;
    let pipeline = pipeline(&info);
    let o = &info.optimizer;
    let OptimizerInfo { r#type, lr, beta1, beta2, eps, weight_decay, .. } = *o;
    let mut optimizer = AdamW::new(params.clone(), OptimizerRecipe { r#type, lr, beta1, beta2, eps, weight_decay });
    let mut losses = Vec::with_capacity(info.steps);
    for i in 0..info.steps {
        let tape = Tape::new();
        let (noise, sigma) = (case.input(&format!("noise.{i}"))?, case.input(&format!("sigma.{i}"))?);
        let given = Given { noise: Some(noise), sigma: Some(sigma), ..Given::default() };
        let step = pipeline.step(&tape, &model, &batch(case, i)?, (0, i as u64, 0), given)?;
        losses.push(step.metrics.loss as f32);
        let mut gradients = Gradients::new();
        tape.backward(&step.loss, Tensor::full(1f32, &[]), &[], &mut gradients)?;
        if i == 0 && float32 {
            case.expect("prediction.0", step.prediction.tensor(), FORWARD)?;
        }
        let norm = optimizer.clip_gradients(&mut gradients, o.max_grad_norm)?;
        if i == 0 && !float32 && bounds.1.is_finite() {
            expect_directions(case, &params, &gradients, bounds.1)?;
        }
        if i == 0 && float32 {
            case.expect("grad_norm.0", &Tensor::full(norm as f32, &[]), GRADIENT)?;
            // torch clips in place, so the reference's gradients are the clipped ones.
            expect_gradients(case, &params, &gradients)?;
        }
        optimizer.step(&gradients, lr)?;
    }
    case.expect("loss", &Tensor::from_vec(losses, &[info.steps])?, bounds.0)?;
    if !float32 {
        return Ok(());
    }
    params.iter().try_for_each(|p| case.expect(&format!("final.{}", p.name()), &p.value(), GRADIENT))
}

/// The model and what trains of it.
fn model(case: &Case, info: &Info, precision: Precision) -> Result<(Flux2Transformer, Vec<Param>)> {
    let (lora, base): (Vec<_>, Vec<_>) = case.weights("")?.into_iter().partition(|(name, _)| name.contains(".lora_"));
    let base_count = base.len();
    let weights = Weights::from_tensors(base.into_iter().collect());
    let precision = Precision { trainable: info.mode == Mode::Full, ..precision };
    let model = Flux2Transformer::load(info.transformer.clone(), &weights, precision)?;
    if model.params().len() != base_count {
        return Err(Error::layout(case.folder(), "holds weights that the transformer does not have"));
    }
    let params = match (info.mode, &info.lora) {
        (Mode::Lora, Some(l)) => {
            let modules = model.linear_names();
            let adapters = adapters_of(lora.into_iter().collect(), &modules, &|_| Some(l.alpha), case.folder())?;
            let params = set_adapters(&model, adapters, case.folder())?;
            check_targets(case, &model, l, &params)?;
            params
        }
        (Mode::Lora, None) => return Err(Error::layout(case.folder(), "mode lora without `lora`")),
        (Mode::Full, _) => {
            model.params().iter().for_each(|p| p.set_trainable(true));
            model.params().to_vec()
        }
    };
    Ok((model, params))
}

/// The target patterns must select exactly the layers that the case has adapters for.
fn check_targets(case: &Case, model: &Flux2Transformer, info: &LoraInfo, given: &[Param]) -> Result<()> {
    let config = LoraConfig { rank: info.rank, alpha: info.alpha, targets: info.target_modules.clone() };
    let selected = config.selected(model)?;
    let given: Vec<&str> = given.iter().filter_map(|p| p.name().strip_suffix(".lora_A.weight")).collect();
    match selected == given {
        true => Ok(()),
        false => Err(Error::layout(case.folder(), "lora.target_modules and the LoRA weights name different layers")),
    }
}

fn pipeline(info: &Info) -> FlowMatchingPipeline<Flux2Adapter> {
    let adapter = Flux2Adapter {
        guidance_scale: info.pipeline.guidance_scale.unwrap_or(1.0),
        use_guidance_embeds: info.transformer.guidance_embeds,
    };
    let options = FlowMatchingOptions {
        flow_shift: FlowShift::Constant(info.pipeline.flow_shift),
        loss_weighting: info.pipeline.loss_weighting,
        cfg_dropout_prob: 0.0,
        ..FlowMatchingOptions::default()
    };
    FlowMatchingPipeline::new(adapter, options, None)
}

fn batch(case: &Case, i: usize) -> Result<Batch> {
    let image_latents = case.input(&format!("image_latents.{i}"))?;
    Ok(Batch {
        references: references(case, i, image_latents.dim(0))?,
        image_latents,
        text_embeddings: case.input(&format!("text_embeddings.{i}"))?,
        loss_mask: None,
        guidance: None,
    })
}

/// `in.references.<step>.<sample>.<number>`, where the case has some.
fn references(case: &Case, step: usize, samples: usize) -> Result<Vec<Vec<Tensor>>> {
    let names = case.names(&format!("in.references.{step}."));
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let of_sample = |sample: usize| {
        let numbers = (0..).map(|number| format!("{sample}.{number}")).take_while(|name| names.contains(name));
        numbers.map(|name| case.input(&format!("references.{step}.{name}"))).collect()
    };
    (0..samples).map(of_sample).collect()
}

fn expect_gradients(case: &Case, params: &[Param], gradients: &Gradients) -> Result<()> {
    each_gradient(params, gradients, |name, gradient| case.expect(name, gradient, GRADIENT))
}

fn expect_directions(case: &Case, params: &[Param], gradients: &Gradients, bound: f64) -> Result<()> {
    each_gradient(params, gradients, |name, gradient| case.expect_direction(name, gradient, bound))
}

/// `f` of the name in the case and the gradient of each weight.
fn each_gradient(params: &[Param], gradients: &Gradients, f: impl Fn(&str, &Tensor) -> Result<()>) -> Result<()> {
    if gradients.len() != params.len() {
        return Err(Error::Internal(format!("{} gradients for {} weights", gradients.len(), params.len())));
    }
    for param in params {
        let missing = || Error::Internal(format!("{} has no gradient", param.name()));
        f(&format!("grad.0.{}", param.name()), gradients.get(param).ok_or_else(missing)?)?;
    }
    Ok(())
}
