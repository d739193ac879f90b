use super::fixture::{Padded, assert_close, numbers, tensor};
use flowtune_engine::kernels::{
    Emulated, MOMENTS_PER_SCALE, Moments8, adamw, adamw8, clip, dynamic_table, scale, sum, sum_of_squares,
};
use flowtune_engine::ops::optimizer::{self as cpu, AdamW, AdamWStep};

const OPTIONS: AdamW = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };

#[test]
pub(super) fn adamw_is_the_operation() {
    for n in [1, 255, 256, 1000] {
        let shape = [n];
        let zeros = vec![0f32; n];
        let [mut w, mut m, mut v] = [&numbers(n, 1), &zeros, &zeros].map(|data| Padded::of(data));
        let [mut w_cpu, mut m_cpu, mut v_cpu] = [&w, &m, &v].map(|data| tensor(data.read(), &shape));
        for step in 1..=3 {
            let g = numbers(n, 10 + step);
            let gradient = tensor(&g, &shape);
            cpu::adamw_step(&mut w_cpu, &gradient, &mut m_cpu, &mut v_cpu, step, OPTIONS).unwrap();
            let (g, of) = (Padded::of(&g), AdamWStep::new(OPTIONS, step));
            let (w, m, v) = (&mut w.view_mut(), &mut m.view_mut(), &mut v.view_mut());
            adamw(&Emulated::new(), w, &g.view(), m, v, of).unwrap();
        }
        for (what, got, want) in [("weight", &w, &w_cpu), ("first", &m, &m_cpu), ("second", &v, &v_cpu)] {
            assert_close(&format!("{what} {n}"), got.read(), want.as_slice().unwrap());
        }
    }
}

/// One block of the kernel's arithmetic, in the same order.
fn step8(w: &mut [f32], g: &[f32], moments: [(&mut [u8], &mut f32, &[f32; 256]); 2], step: u64) {
    let AdamW { lr, beta1, beta2, eps, weight_decay } = OPTIONS;
    let size = (lr / (1.0 - beta1.powi(step as i32))) as f32;
    let inverse_root = (1.0 / (1.0 - beta2.powi(step as i32)).sqrt()) as f32;
    let (decay, eps, rest1) = ((1.0 - lr * weight_decay) as f32, eps as f32, (1.0 - beta1) as f32);
    let (rest2, beta2) = ((1.0 - beta2) as f32, beta2 as f32);
    let [first, second] = moments;
    let decode = |(codes, scale, table): (&[u8], f32, &[f32; 256])| -> Vec<f32> {
        codes.iter().map(|&code| table[usize::from(code)] * scale).collect()
    };
    let mut m = decode((first.0, *first.1, first.2));
    let mut v = decode((second.0, *second.1, second.2));
    for i in 0..w.len() {
        m[i] += rest1 * (g[i] - m[i]);
        v[i] = v[i] * beta2 + rest2 * g[i] * g[i];
        w[i] = w[i] * decay - size * m[i] / (v[i].sqrt() * inverse_root + eps);
    }
    for ((codes, scale, table), values) in [(first, m), (second, v)] {
        *scale = values.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        for (code, x) in codes.iter_mut().zip(values) {
            let x = if *scale > 0.0 { x / *scale } else { 0.0 };
            let distance = |i: &usize| (table[*i] - x).abs();
            *code = (0..256).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap() as u8;
        }
    }
}

#[test]
pub(super) fn adamw_with_moments_of_a_byte_is_its_definition() {
    let tables = [dynamic_table(true), dynamic_table(false)];
    let zero = tables.map(|table| table.iter().position(|&x| x == 0.0).unwrap() as u8);
    for n in [1usize, 256, 700] {
        let blocks = n.div_ceil(MOMENTS_PER_SCALE);
        let mut w = numbers(n, 1);
        let [mut m, mut v] = zero.map(|zero| (vec![zero; n], vec![0f32; blocks]));
        let mut on_device = Padded::of(&w);
        let [mut m_codes, mut v_codes] = [&m.0, &v.0].map(|codes| Padded::of(codes));
        let [mut m_scales, mut v_scales] = [&m.1, &v.1].map(|scales| Padded::of(scales));
        let [m_table, v_table] = tables.map(|table| Padded::of(&table));
        for step in 1..=4 {
            // A block of zeros, and magnitudes apart.
            let g: Vec<f32> = numbers(n, 20 + step)
                .into_iter()
                .enumerate()
                .map(|(i, g)| if i / 256 == 1 && step < 3 { 0.0 } else { g * 10f32.powi(-((i % 5) as i32)) })
                .collect();
            for block in 0..blocks {
                let range = block * 256..n.min(block * 256 + 256);
                let moments = [
                    (&mut m.0[range.clone()], &mut m.1[block], &tables[0]),
                    (&mut v.0[range.clone()], &mut v.1[block], &tables[1]),
                ];
                step8(&mut w[range.clone()], &g[range.clone()], moments, step);
            }
            let gradient = Padded::of(&g);
            let mut first = Moments8 { codes: m_codes.view_mut(), scales: m_scales.view_mut(), table: m_table.view() };
            let mut second = Moments8 { codes: v_codes.view_mut(), scales: v_scales.view_mut(), table: v_table.view() };
            let of = AdamWStep::new(OPTIONS, step);
            adamw8(&Emulated::new(), &mut on_device.view_mut(), &gradient.view(), &mut first, &mut second, of).unwrap();
            assert_eq!((m_codes.read(), v_codes.read()), (&m.0[..], &v.0[..]), "codes of step {step}, {n}");
            assert_eq!((m_scales.read(), v_scales.read()), (&m.1[..], &v.1[..]), "scales of step {step}, {n}");
            assert_close(&format!("weight {n}"), on_device.read(), &w);
        }
    }
}

#[test]
fn moments_of_a_byte_lead_where_whole_ones_do() {
    let (on, n, steps) = (Emulated::new(), 512, 30);
    let start = numbers(n, 1);
    let tables = [dynamic_table(true), dynamic_table(false)];
    let zeros = vec![0f32; n];
    let [mut whole, mut bytes] = [(); 2].map(|()| Padded::of(&start));
    let [mut m, mut v] = [(); 2].map(|()| Padded::of(&zeros));
    let zero = tables.map(|table| table.iter().position(|&x| x == 0.0).unwrap() as u8);
    let [mut m_codes, mut v_codes] = zero.map(|zero| Padded::of(&vec![zero; n]));
    let [mut m_scales, mut v_scales] = [(); 2].map(|()| Padded::of(&[0f32; 2]));
    let [m_table, v_table] = tables.map(|table| Padded::of(&table));
    let direction = numbers(n, 2);
    for step in 1..=steps {
        let g: Vec<f32> = numbers(n, 100 + step).iter().zip(&direction).map(|(noise, d)| d + 0.3 * noise).collect();
        let (g, of) = (Padded::of(&g), AdamWStep::new(OPTIONS, step));
        adamw(&on, &mut whole.view_mut(), &g.view(), &mut m.view_mut(), &mut v.view_mut(), of).unwrap();
        let mut first = Moments8 { codes: m_codes.view_mut(), scales: m_scales.view_mut(), table: m_table.view() };
        let mut second = Moments8 { codes: v_codes.view_mut(), scales: v_scales.view_mut(), table: v_table.view() };
        adamw8(&on, &mut bytes.view_mut(), &g.view(), &mut first, &mut second, of).unwrap();
    }
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>();
    let (moved, apart) = (distance(whole.read(), &start), distance(whole.read(), bytes.read()));
    assert!(apart < 0.05 * moved, "{apart} apart after {moved}");
}

#[test]
pub(super) fn norms_and_clipping_are_the_operations() {
    let on = Emulated::new();
    for n in [1, 1000, (1 << 16) + 3] {
        let x = numbers(n, 1);
        let want = cpu::sum_of_squares(&[&tensor(&x, &[n])]).unwrap();
        let (mut padded, mut squares) = (Padded::of(&x), Padded::<f64>::empty(2));
        for at in 0..2 {
            let mut squares = squares.view_mut();
            sum_of_squares(&on, &padded.view(), &mut squares.slice(at, 1).unwrap()).unwrap();
        }
        let mut total = Padded::<f64>::empty(1);
        sum(&on, &squares.view(), &mut total.view_mut()).unwrap();
        assert!((total.read()[0] - 2.0 * want).abs() <= 1e-12 * want, "{n}");

        let many: Vec<f64> = (0..1000).map(f64::from).collect();
        sum(&on, &Padded::of(&many).view(), &mut squares.view_mut().slice(0, 1).unwrap()).unwrap();
        assert_eq!(squares.read()[0], 499_500.0);

        let norm = (2.0 * want).sqrt();
        clip(&on, &mut padded.view_mut(), &total.view(), 2.0 * norm as f32).unwrap();
        assert_eq!(padded.read(), x, "a small norm stays");
        clip(&on, &mut padded.view_mut(), &total.view(), 0.25 * norm as f32).unwrap();
        let mut scaled = tensor(&x, &[n]);
        cpu::scale_in_place(&mut scaled, (0.25 * norm / (norm + 1e-6)) as f32).unwrap();
        assert_close(&format!("clipped {n}"), padded.read(), scaled.as_slice().unwrap());
        scale(&on, &mut padded.view_mut(), 4.0).unwrap();
        cpu::scale_in_place(&mut scaled, 4.0).unwrap();
        assert_close(&format!("scaled {n}"), padded.read(), scaled.as_slice().unwrap());
    }
}

#[test]
fn tables_are_those_of_bitsandbytes() {
    let (signed, unsigned) = (dynamic_table(true), dynamic_table(false));
    // create_dynamic_map(True) and (False) by hand: the first, middle and last values.
    assert_eq!((signed[0], signed[127], signed[255]), (-0.992_968_74, 0.0, 1.0));
    assert_eq!((signed[126], signed[128]), (-5.5e-7, 5.5e-7));
    assert_eq!((unsigned[0], unsigned[1], unsigned[2]), (0.0, 3.25e-7, 7.75e-7));
    assert_eq!((unsigned[254], unsigned[255]), (0.996_484_4, 1.0));
    for table in [signed, unsigned] {
        assert!(table.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
