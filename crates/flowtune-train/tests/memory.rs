//! Which models are in memory while data are prepared. A program of its own, for memory is counted for the whole program.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use flowtune_engine::{Tensor, live_bytes};
use flowtune_train::{Control, Event, Session, resolve_recipe};
use serde_json::json;

/// Bytes of all tensors when a stage was last heard of.
#[derive(Default)]
struct Seen {
    captions: AtomicUsize,
    images: AtomicUsize,
}

impl Seen {
    fn note(&self, event: &Event) {
        match event {
            Event::Progress { stage, .. } if stage == "encoding captions" => &self.captions,
            Event::Progress { stage, .. } if stage == "encoding images" => &self.images,
            _ => return,
        }
        .store(live_bytes(), Ordering::Relaxed);
    }
}

#[test]
fn the_encoders_are_gone_before_training() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let model = root.join("__test__/fixtures/parity/pipeline/pipeline");
    let size = |file: &str| std::fs::metadata(model.join(file)).unwrap().len() as usize;
    let (text_encoder, vae) = (size("text_encoder/model.safetensors"), size("vae/diffusion_pytorch_model.safetensors"));
    let dir = tempfile::tempdir().unwrap();
    for part in ["images", "held-out"] {
        std::fs::create_dir(dir.path().join(part)).unwrap();
        for file in ["0000.png", "0000.txt"] {
            std::fs::copy(root.join("examples/twemoji").join(file), dir.path().join(part).join(file)).unwrap();
        }
    }
    let recipe = json!({
        "model": { "path": model },
        "data": { "train": "images", "heldOut": "held-out", "resolution": 32, "textTokens": 16, "cacheDir": "cache" },
        "validation": { "prompts": ["red heart"] },
        "train": { "steps": 1 },
    });
    let recipe = resolve_recipe(&recipe.to_string(), dir.path()).unwrap();
    let seen = Seen::default();
    let emit = |event: &Event| {
        seen.note(event);
        Ok(())
    };
    let session = Session::open(&recipe, &emit, &Control::default()).unwrap();

    // While they work they are seen, and afterwards what they made is all that is left.
    let (captions, images) = (seen.captions.into_inner(), seen.images.into_inner());
    assert!(captions > text_encoder / 2 && images > vae / 2, "{captions} and {images} bytes");
    // One encoder after the other.
    assert!(images < text_encoder, "both encoders at once: {images} bytes");
    let bytes = |tensor: &Tensor| tensor.len() * tensor.dtype().size();
    let empty = bytes(session.empty_prompt());
    // The held-out data may have an empty prompt of their own.
    let kept = 2 * empty + session.prompts.iter().map(bytes).sum::<usize>();
    assert!(live_bytes() <= kept, "{} bytes, not {kept}", live_bytes());
    assert!(kept < text_encoder.min(vae) / 4);
}
