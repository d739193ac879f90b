use serde::Deserialize;

use super::{AutoencoderKLFlux2, VaeConfig};
use crate::testing::{Case, FORWARD, assert_close};
use flowtune_engine::Tensor;

fn load(case: &Case) -> AutoencoderKLFlux2 {
    let config = VaeConfig::deserialize(&case.info["vae"]).unwrap();
    AutoencoderKLFlux2::load(config, &case.weights).unwrap()
}

#[test]
fn encodes_and_decodes_as_diffusers() {
    let case = Case::read("vae");
    let vae = load(&case);
    let mode = vae.encode(case.tensor("in.image")).unwrap();
    assert_close(&mode, case.tensor("expect.mode"), FORWARD);
    let image_latents = vae.image_latents(&mode).unwrap();
    assert_close(&image_latents, case.tensor("expect.image_latents"), FORWARD);
    let decoded = vae.decode(&vae.vae_latents(&image_latents).unwrap()).unwrap();
    assert_close(&decoded, case.tensor("expect.decoded"), FORWARD);
}

#[test]
fn channel_of_a_patch_is_c_dy_dx_and_the_inverse_restores() {
    let vae = load(&Case::read("vae"));
    let shape = [2, 32, 4, 6];
    let n: usize = shape.iter().product();
    let mode = Tensor::from_vec((0..n).map(|i| (i as f32 * 0.7).sin()).collect(), &shape).unwrap();
    let latents = vae.image_latents(&mode).unwrap();
    assert_eq!(latents.shape(), [2, 128, 2, 3]);
    let (b, c, y, x) = (1, 5, 3, 4);
    let channel = c * 4 + (y % 2) * 2 + x % 2;
    let (mean, deviation) = (vae.statistics.mean[channel], vae.statistics.deviation[channel]);
    let got = latents.as_slice::<f32>().unwrap()[((b * 128 + channel) * 2 + y / 2) * 3 + x / 2];
    let want = (mode.as_slice::<f32>().unwrap()[((b * 32 + c) * 4 + y) * 6 + x] - mean) / deviation;
    assert_eq!(got, want);
    assert_close(&vae.vae_latents(&latents).unwrap(), &mode, 1e-6);
}

#[test]
fn wrong_extents_and_missing_weights_are_refused() {
    let case = Case::read("vae");
    let vae = load(&case);
    for shape in [[1, 3, 24, 32], [1, 4, 32, 32]] {
        assert_eq!(vae.encode(&Tensor::full(0f32, &shape)).unwrap_err().code(), "SHAPE_MISMATCH");
    }
    assert_eq!(vae.image_latents(&Tensor::full(0f32, &[1, 32, 3, 2])).unwrap_err().code(), "SHAPE_MISMATCH");
    assert_eq!(vae.decode(&Tensor::full(0f32, &[1, 3, 2, 2])).unwrap_err().code(), "SHAPE_MISMATCH");
    let error = AutoencoderKLFlux2::load(VaeConfig::default(), &case.weights).err().unwrap();
    assert_eq!(error.code(), "SHAPE_MISMATCH");
    let config = VaeConfig { layers_per_block: 2, ..vae.config().clone() };
    let error = AutoencoderKLFlux2::load(config, &case.weights).err().unwrap();
    assert_eq!(error.code(), "WEIGHTS_MISSING");
    assert!(error.to_string().contains("encoder.down_blocks.0.resnets.1.norm1.weight"), "{error}");
}
