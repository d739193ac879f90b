use super::*;
use crate::prepare::tests::Fixture;

#[test]
fn batches_hold_the_samples_they_name() {
    let fixture = Fixture::new(5);
    let prepared = fixture.prepare().unwrap();
    for memory_bytes in [0, 1 << 20] {
        let loader = Loader::new(prepared.clone(), 3, 7, memory_bytes).unwrap();
        for step in 0..6 {
            let batch = loader.batch(step).unwrap();
            assert_eq!(batch.image_latents.shape(), [3, 2, 1, 1]);
            assert_eq!(batch.text_embeddings.shape(), [3, 2, 1]);
            let (latents, text) =
                (batch.image_latents.to_f32_vec().unwrap(), batch.text_embeddings.to_f32_vec().unwrap());
            for (i, &id) in batch.sample_ids.iter().enumerate() {
                // Fixture: the red of image n is 10·n, its caption has n + 1 letters.
                assert!((latents[2 * i] - (10.0 * id as f32 / 127.5 - 1.0)).abs() < 1e-5);
                assert_eq!(text[2 * i], id as f32 + 1.0);
                assert_eq!(batch.captions[i].len() as u64, id + 1);
            }
        }
        assert_eq!(loader.source.memory.is_empty(), memory_bytes == 0);
    }
}

#[test]
fn a_vanished_entry_is_named() {
    let fixture = Fixture::new(2);
    let prepared = fixture.prepare().unwrap();
    let path = prepared.cache.latent_path(&prepared.samples[0].latents.key);
    std::fs::remove_file(&path).unwrap();
    let loader = Loader::new(prepared, 1, 0, 0).unwrap();
    let error = loader.gather(&[0]).unwrap_err();
    assert_eq!(error.code(), "CACHE_STALE");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(loader.gather(&[2]).unwrap_err().code(), "INVALID_ARGUMENT");
}

#[test]
fn the_next_batch_is_read_while_one_is_used() {
    let fixture = Fixture::new(4);
    let prepared = fixture.prepare().unwrap();
    let loader = Loader::new(prepared.clone(), 1, 7, 0).unwrap();
    let in_order: Vec<_> = (0..9).map(|step| loader.batch(step).unwrap().sample_ids).collect();
    assert!(loader.ahead.lock().unwrap().as_ref().is_some_and(|ahead| ahead.step == 9));
    let jumping = |step| loader.batch(step).unwrap().sample_ids;
    assert!((0..9).rev().map(jumping).eq(in_order.iter().rev().cloned()));
    // What went wrong ahead is told when it is asked for, and not before.
    loader.batch(0).unwrap();
    loader.ahead.lock().unwrap().take().unwrap().batch.join().unwrap().unwrap();
    std::fs::remove_dir_all(prepared.cache.dir().join("text_embeddings")).unwrap();
    assert_eq!(loader.batch(1).unwrap_err().code(), "CACHE_STALE");
}

#[test]
fn a_sample_without_a_mask_counts_whole_and_captions_take_turns() {
    let fixture = Fixture::new(3);
    fixture.mask("1.png", 16, [255; 4]);
    fixture.caption("0.txt", "a\nbb\nccc");
    let prepared = fixture.prepare().unwrap();
    let loader = Loader::new(prepared, 3, 7, 0).unwrap();
    assert_eq!(loader.gather(&[0, 2]).unwrap().loss_mask.map(|m| m.shape().to_vec()), None);
    let mask = loader.gather(&[0, 1]).unwrap().loss_mask.unwrap();
    assert_eq!((mask.shape(), mask.to_f32_vec().unwrap()), (&[2, 1, 1, 1][..], vec![1.0, 1.0]));
    assert_eq!(loader.gather(&[0]).unwrap().captions, ["a"]);
    let lengths = |seed| {
        let loader = Loader::new(fixture.prepare().unwrap(), 3, seed, 0).unwrap();
        let of = |batch: Batch| {
            let place = batch.sample_ids.iter().position(|&id| id == 0).unwrap();
            let length = batch.captions[place].len();
            assert_eq!(batch.text_embeddings.to_f32_vec().unwrap()[2 * place], length as f32);
            length
        };
        (0..30).map(|step| of(loader.batch(step).unwrap())).collect::<Vec<_>>()
    };
    let seen = lengths(7);
    assert!((1..=3).all(|length| seen.iter().filter(|&&l| l == length).count() >= 5), "{seen:?}");
    assert_eq!(seen, lengths(7));
    assert_ne!(seen, lengths(8));
}
