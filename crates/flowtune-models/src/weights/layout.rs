//! The layouts in which publishers write FLUX.2's transformer and VAE, told apart by the names of their tensors, and where in
//! them each weight of diffusers' names is.
//! Source: diffusers `single_file_utils.py` (`convert_flux2_transformer_checkpoint_to_diffusers`), ComfyUI's `ops.py` for
//! the scales of 8-bit floats.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Where the elements of a weight are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Which of the checkpoint's files.
    pub(super) file: usize,
    /// Name of the tensor there.
    pub(super) tensor: String,
    /// Which part of it.
    pub(super) part: Part,
    /// Name of the factor, one or one for each row, that an 8-bit weight is stored without.
    pub(super) scale: Option<String>,
}

/// Part of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The `index`th third of its rows.
    Third(usize),
    /// The second half of its rows, then the first: BFL writes shift and scale where diffusers writes scale and shift.
    HalvesSwapped,
    /// All of it, without its two last extents, which are 1: a convolution that diffusers calls a linear layer.
    Pointwise,
}

impl Part {
    /// Shape of this part of a tensor of `shape`; `None` where it has no such part.
    pub(super) fn shape(self, shape: &[usize]) -> Option<Vec<usize>> {
        match (self, shape) {
            (Self::Whole, _) => Some(shape.to_vec()),
            (Self::Third(_), [rows, tail @ ..]) if rows % 3 == 0 => Some([&[rows / 3], tail].concat()),
            (Self::HalvesSwapped, [rows, ..]) if rows % 2 == 0 => Some(shape.to_vec()),
            (Self::Pointwise, [outputs, inputs, 1, 1]) => Some(vec![*outputs, *inputs]),
            (Self::Pointwise, [_] | [_, _]) => Some(shape.to_vec()),
            _ => None,
        }
    }

    /// The rows to read, in order, of a tensor with `rows`; none for all.
    pub(super) fn rows(self, rows: usize) -> Option<Vec<Range<usize>>> {
        let third = rows / 3;
        match self {
            Self::Whole | Self::Pointwise => None,
            Self::Third(index) => Some(std::iter::once(index * third..(index + 1) * third).collect()),
            Self::HalvesSwapped => Some([rows / 2..rows, 0..rows / 2].to_vec()),
        }
    }
}

/// Prefixes under which a transformer lies in files of ComfyUI, of other trainers and of whole pipelines.
const PREFIXES: [&str; 4] = ["model.diffusion_model.", "diffusion_model.", "transformer.", ""];

/// The weights of a checkpoint under diffusers' names. `tensors` are the names in its files, each with the file's number.
pub(super) fn places(tensors: &HashMap<String, usize>) -> BTreeMap<String, Place> {
    let translate = translation(tensors);
    let mut places = BTreeMap::new();
    for (tensor, &file) in tensors {
        if is_scale(tensor) {
            continue;
        }
        let scale = scale_of(tensor).into_iter().find(|scale| tensors.contains_key(scale));
        for (name, part) in translate(tensor) {
            places.insert(name, Place { file, tensor: tensor.clone(), part, scale: scale.clone() });
        }
    }
    places
}

type Translation = Box<dyn Fn(&str) -> Vec<(String, Part)>>;

/// From a tensor's name to the weights that are in it.
fn translation(tensors: &HashMap<String, usize>) -> Translation {
    let under = |name: &str| PREFIXES.into_iter().find(|prefix| tensors.contains_key(&format!("{prefix}{name}")));
    if let Some(prefix) = under("double_stream_modulation_img.lin.weight") {
        return Box::new(move |name| name.strip_prefix(prefix).map(of_bfl_transformer).unwrap_or_default());
    }
    if let Some(prefix) = under("double_stream_modulation_img.linear.weight") {
        return Box::new(move |name| name.strip_prefix(prefix).map(|name| whole(name.to_owned())).unwrap_or_default());
    }
    if tensors.contains_key("encoder.down.0.block.0.conv1.weight") {
        return Box::new(of_bfl_vae);
    }
    Box::new(|name| whole(name.to_owned()))
}

fn whole(name: String) -> Vec<(String, Part)> {
    vec![(name, Part::Whole)]
}

/// Names that the factor of an 8-bit weight may have: `weight_scale` with BFL and ComfyUI today, `scale_weight` with
/// ComfyUI before.
fn scale_of(tensor: &str) -> Vec<String> {
    let names = tensor.strip_suffix(".weight").map(|m| vec![format!("{m}.weight_scale"), format!("{m}.scale_weight")]);
    names.unwrap_or_default()
}

/// Whether this is beside a weight and not one itself: factors of weights and of inputs, and ComfyUI's marks.
fn is_scale(tensor: &str) -> bool {
    const BESIDE: [&str; 6] =
        ["weight_scale", "scale_weight", "input_scale", "scale_input", "comfy_quant", "scaled_fp8"];
    BESIDE.contains(&tensor.rsplit('.').next().unwrap_or(tensor))
}

const TRANSFORMER: [(&str, &str); 11] = [
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    ("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
    ("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
    ("guidance_in.in_layer", "time_guidance_embed.guidance_embedder.linear_1"),
    ("guidance_in.out_layer", "time_guidance_embed.guidance_embedder.linear_2"),
    ("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
    ("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
    ("single_stream_modulation.lin", "single_stream_modulation.linear"),
    ("final_layer.linear", "proj_out"),
    ("final_layer.adaLN_modulation.1", "norm_out.linear"),
];

const DOUBLE_BLOCK: [(&str, &str); 10] = [
    ("img_attn.norm.query_norm", "attn.norm_q"),
    ("img_attn.norm.key_norm", "attn.norm_k"),
    ("img_attn.proj", "attn.to_out.0"),
    ("img_mlp.0", "ff.linear_in"),
    ("img_mlp.2", "ff.linear_out"),
    ("txt_attn.norm.query_norm", "attn.norm_added_q"),
    ("txt_attn.norm.key_norm", "attn.norm_added_k"),
    ("txt_attn.proj", "attn.to_add_out"),
    ("txt_mlp.0", "ff_context.linear_in"),
    ("txt_mlp.2", "ff_context.linear_out"),
];

/// diffusers' layers that BFL has as one.
const IMAGE_QKV: [&str; 3] = ["to_q", "to_k", "to_v"];
const TEXT_QKV: [&str; 3] = ["add_q_proj", "add_k_proj", "add_v_proj"];

const SINGLE_BLOCK: [(&str, &str); 4] = [
    ("linear1", "attn.to_qkv_mlp_proj"),
    ("linear2", "attn.to_out"),
    ("norm.query_norm", "attn.norm_q"),
    ("norm.key_norm", "attn.norm_k"),
];

/// diffusers' module under the name `bfl`.
fn renamed(table: &[(&str, &'static str)], bfl: &str) -> Option<&'static str> {
    table.iter().find(|(theirs, _)| *theirs == bfl).map(|&(_, ours)| ours)
}

/// Weights in a tensor of Black Forest Labs' own transformer layout, which ComfyUI and GGUF files have too.
fn of_bfl_transformer(name: &str) -> Vec<(String, Part)> {
    bfl_transformer(name).unwrap_or_default()
}

fn bfl_transformer(name: &str) -> Option<Vec<(String, Part)>> {
    // The factors of norms are called `scale`.
    let module = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".scale"))?;
    if let Some((block, inner)) = numbered(module, "double_blocks.") {
        let block = format!("transformer_blocks.{block}");
        let thirds = |names: [&str; 3]| {
            let weight = |(i, name)| (format!("{block}.attn.{name}.weight"), Part::Third(i));
            names.into_iter().enumerate().map(weight).collect()
        };
        return match inner {
            "img_attn.qkv" => Some(thirds(IMAGE_QKV)),
            "txt_attn.qkv" => Some(thirds(TEXT_QKV)),
            _ => Some(whole(format!("{block}.{}.weight", renamed(&DOUBLE_BLOCK, inner)?))),
        };
    }
    if let Some((block, inner)) = numbered(module, "single_blocks.") {
        return Some(whole(format!("single_transformer_blocks.{block}.{}.weight", renamed(&SINGLE_BLOCK, inner)?)));
    }
    Some(vec![(format!("{}.weight", renamed(&TRANSFORMER, module)?), part_of(module))])
}

/// Black Forest Labs' layer that diffusers' linear layer `module` is in, and which part of its outputs it is.
pub(crate) fn bfl_module(module: &str) -> Option<(String, Part)> {
    let theirs = |table: &[(&'static str, &str)], ours: &str| {
        table.iter().find(|(_, module)| *module == ours).map(|&(theirs, _)| theirs)
    };
    if let Some((block, inner)) = numbered(module, "transformer_blocks.") {
        let thirds = |names: &[&str; 3]| names.iter().position(|name| inner.strip_prefix("attn.") == Some(name));
        let (layer, part) = match (thirds(&IMAGE_QKV), thirds(&TEXT_QKV)) {
            (Some(third), _) => ("img_attn.qkv", Part::Third(third)),
            (_, Some(third)) => ("txt_attn.qkv", Part::Third(third)),
            _ => (theirs(&DOUBLE_BLOCK, inner)?, Part::Whole),
        };
        return Some((format!("double_blocks.{block}.{layer}"), part));
    }
    if let Some((block, inner)) = numbered(module, "single_transformer_blocks.") {
        return Some((format!("single_blocks.{block}.{}", theirs(&SINGLE_BLOCK, inner)?), Part::Whole));
    }
    let layer = theirs(&TRANSFORMER, module)?;
    Some((layer.to_owned(), part_of(layer)))
}

/// Which part of one of BFL's layers outside of the blocks diffusers has under its name.
fn part_of(layer: &str) -> Part {
    if layer.contains("adaLN") { Part::HalvesSwapped } else { Part::Whole }
}

/// Number and rest of `prefix` + number + `.` + rest.
fn numbered<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// Levels of FLUX.2's VAE, whose decoder BFL counts from the other end.
const VAE_LEVELS: usize = 4;

/// Weights in a tensor of Black Forest Labs' own VAE layout.
fn of_bfl_vae(name: &str) -> Vec<(String, Part)> {
    let (module, kind) = name.rsplit_once('.').unwrap_or(("", name));
    // Quantising convolutions and statistics of the latents lie outside encoder and decoder in diffusers.
    match module {
        "encoder.quant_conv" => return whole(format!("quant_conv.{kind}")),
        "decoder.post_quant_conv" => return whole(format!("post_quant_conv.{kind}")),
        _ => {}
    }
    let Some((half, inner)) = module.split_once('.').filter(|(half, _)| matches!(*half, "encoder" | "decoder")) else {
        return whole(name.to_owned());
    };
    let (inner, part) = vae_module(inner);
    vec![(format!("{half}.{inner}.{kind}"), part)]
}

/// diffusers' name of a module of the VAE's encoder or decoder.
fn vae_module(inner: &str) -> (String, Part) {
    if let Some(attention) = inner.strip_prefix("mid.attn_1.") {
        let (name, part) = match attention {
            "norm" => ("group_norm", Part::Whole),
            "proj_out" => ("to_out.0", Part::Pointwise),
            "q" => ("to_q", Part::Pointwise),
            "k" => ("to_k", Part::Pointwise),
            _ => ("to_v", Part::Pointwise),
        };
        return (format!("mid_block.attentions.0.{name}"), part);
    }
    let resnet = |inner: &str| inner.replace("nin_shortcut", "conv_shortcut");
    let level = |inner: &str, number: usize, blocks: &str| {
        let sampler = format!("{blocks}samplers.0.conv");
        match numbered(inner, "block.") {
            Some((block, inner)) => format!("{blocks}_blocks.{number}.resnets.{block}.{}", resnet(inner)),
            None => format!("{blocks}_blocks.{number}.{sampler}"),
        }
    };
    let name = if let Some((number, inner)) = numbered(inner, "down.") {
        level(inner, number, "down")
    } else if let Some((number, inner)) = numbered(inner, "up.") {
        level(inner, (VAE_LEVELS - 1).saturating_sub(number), "up")
    } else if let Some((number, inner)) = numbered(inner, "mid.block_") {
        format!("mid_block.resnets.{}.{}", number.saturating_sub(1), resnet(inner))
    } else {
        inner.replace("norm_out", "conv_norm_out")
    };
    (name, Part::Whole)
}
