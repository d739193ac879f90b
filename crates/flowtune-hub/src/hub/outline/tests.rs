//! Against a hub on loopback.

use super::*;
use crate::hub::tests::{CONFIG, Setup, TRANSFORMER, model, pipeline};
use crate::testing::commit;

#[test]
fn an_outline_has_the_headers_of_weights_and_none_of_their_data() {
    let setup = Setup::new();
    let outline = setup.client().outline(&model(None), &Part::ALL, &()).unwrap();
    let real = pipeline();
    let is_weight = |name: &str| name.ends_with(".safetensors") && name.contains('/');
    let weights: Vec<&String> = real.keys().filter(|name| is_weight(name)).collect();
    assert_eq!(weights.len(), 3);
    for name in weights {
        let got = fs::read(outline.path().join(name)).unwrap();
        let header = 8 + u64::from_le_bytes(real[name][..8].try_into().unwrap()) as usize;
        assert_eq!((got.len(), &got[..header]), (real[name].len(), &real[name][..header]), "{name}");
        assert!(got[header..].iter().all(|&byte| byte == 0), "{name}");
        assert!(!setup.repo().join("snapshots").join(commit('a')).join(name).exists());
    }
    assert_eq!(fs::read(outline.path().join(CONFIG)).unwrap(), real[CONFIG]);
    // Of a model that is here, nothing is asked.
    setup.pipeline(None).unwrap();
    let offline = setup.client().offline();
    drop(setup.hub.seen());
    let again = offline.outline(&model(None), &Part::ALL, &()).unwrap();
    assert_eq!(fs::read(again.path().join(TRANSFORMER)).unwrap().len(), real[TRANSFORMER].len());
    assert!(setup.hub.seen().is_empty());
    let file = HubFile { model: model(None), name: TRANSFORMER.into() };
    assert!(offline.outline_of_file(&file, &()).unwrap().path().join(TRANSFORMER).is_file());
}

#[test]
fn weights_without_a_header_have_no_outline() {
    for bytes in [vec![0xff; 20], [&4u64.to_le_bytes()[..], b"nope"].concat()] {
        let setup = Setup::new();
        setup.hub.state().commits.get_mut(&commit('a')).unwrap().insert(TRANSFORMER.into(), bytes);
        let error = setup.client().outline(&model(None), &Part::ALL, &()).unwrap_err();
        assert_eq!(error.code(), "HUB_CORRUPT", "{error}");
        assert!(error.to_string().contains(TRANSFORMER), "{error}");
    }
}
