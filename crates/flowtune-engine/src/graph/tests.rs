use super::*;

fn weight(values: &[f32]) -> Param {
    Param::trainable("w", Tensor::new(values.to_vec(), &[values.len()]))
}

fn one(inputs: &[&Value], op: impl FnOnce(&Tape, &[Var]) -> Result<Var>) -> Value {
    Value::apply::<Error>(Tape::new(), inputs, |tape, v| Ok(vec![op(tape, v)?])).unwrap().remove(0)
}

fn mul(x: &Value, y: &Value) -> Value {
    one(&[x, y], |tape, v| tape.mul(&v[0], &v[1]))
}

fn add(x: &Value, y: &Value) -> Value {
    one(&[x, y], |tape, v| tape.add(&v[0], &v[1]))
}

fn gradient(value: &Value, param: &Param) -> Vec<f32> {
    let mut gradients = Gradients::new();
    value.backward(Tensor::full(1f32, value.tensor().shape()), &mut gradients).unwrap();
    gradients.get(param).unwrap().to_f32_vec().unwrap()
}

#[test]
fn gradients_are_those_of_one_tape() {
    let w = weight(&[2.0, -3.0]);
    let x = Value::constant(Tensor::new(vec![5f32, 7.0], &[2]));
    let product = mul(&Value::param(&w), &x);
    // w²x² + wx: the product is used three times.
    let value = add(&mul(&product, &product), &product);
    assert_eq!(gradient(&value, &w), [2.0 * 2.0 * 25.0 + 5.0, 2.0 * -3.0 * 49.0 + 7.0]);
}

#[test]
fn graphs_of_one_weight_become_one() {
    let w = weight(&[3.0]);
    let square = mul(&Value::param(&w), &Value::param(&w));
    let cube = mul(&mul(&Value::param(&w), &Value::param(&w)), &Value::param(&w));
    let sum = add(&square, &cube);
    // Values made before the graphs were joined are still part of them.
    let both = add(&sum, &square);
    assert_eq!(gradient(&both, &w), [2.0 * 6.0 + 27.0]);
}

#[test]
fn a_graph_is_used_up_by_a_backward() {
    let w = weight(&[3.0]);
    let square = mul(&Value::param(&w), &Value::param(&w));
    let twice = add(&square, &square);
    gradient(&twice, &w);
    let mut gradients = Gradients::new();
    for value in [&twice, &square] {
        let error = value.backward(Tensor::full(1f32, &[1]), &mut gradients).unwrap_err();
        assert!(matches!(error, Error::Spent), "{error}");
    }
    let error = Value::apply::<Error>(Tape::new(), &[&square], |tape, v| Ok(vec![tape.neg(&v[0])?])).unwrap_err();
    assert_eq!((error.code(), gradients.is_empty()), ("INVALID_ARGUMENT", true));
}

#[test]
fn constants_inference_and_frozen_weights_have_no_graph() {
    let w = weight(&[3.0]);
    let inference =
        Value::apply::<Error>(Tape::inference(), &[&Value::param(&w)], |tape, v| Ok(vec![tape.neg(&v[0])?]));
    assert!(!inference.unwrap()[0].is_tracked());
    assert!(mul(&Value::param(&w), &Value::param(&w)).is_tracked());
    assert!(!mul(&Value::param(&w), &Value::param(&w)).detach().is_tracked());
    w.set_trainable(false);
    let frozen = mul(&Value::param(&w), &Value::param(&w));
    assert!(!frozen.is_tracked());
    let error = frozen.backward(Tensor::full(1f32, &[1]), &mut Gradients::new()).unwrap_err();
    assert!(matches!(error, Error::Untracked));
}

#[test]
fn a_weight_inside_an_operation_is_tracked_and_a_weight_itself_has_a_gradient() {
    let w = weight(&[3.0]);
    let inner = w.clone();
    let checkpointed = Value::apply::<Error>(Tape::new(), &[], |tape, _| {
        tape.checkpoint(&[], move |tape, _| Ok(vec![tape.square(&tape.param(&inner))?]))
    });
    assert_eq!(gradient(&checkpointed.unwrap()[0], &w), [6.0]);
    assert_eq!(gradient(&Value::param(&w), &w), [1.0]);
}

#[test]
fn an_input_handed_through_keeps_its_place() {
    let w = weight(&[3.0]);
    let square = mul(&Value::param(&w), &Value::param(&w));
    let same = one(&[&square], |_, v| Ok(v[0].clone()));
    assert_eq!(gradient(&add(&same, &square), &w), [12.0]);
}

#[test]
fn long_chains_neither_recurse_nor_slow_down() {
    let w = weight(&[1.0]);
    let mut value = Value::param(&w);
    for _ in 0..100_000 {
        value = one(&[&value], |tape, v| tape.add_scalar(&v[0], 1.0));
    }
    assert_eq!(gradient(&value, &w), [1.0]);
    // Joined from many small graphs, and dropped without a backward.
    let mut sum = mul(&Value::param(&w), &Value::param(&w));
    for _ in 0..10_000 {
        sum = add(&mul(&Value::param(&w), &Value::param(&w)), &sum);
    }
    drop(sum);
}

#[test]
fn threads_may_join_the_same_graphs_in_opposite_order() {
    for _ in 0..200 {
        let w = weight(&[3.0]);
        let (a, b) = (mul(&Value::param(&w), &Value::param(&w)), mul(&Value::param(&w), &Value::param(&w)));
        let (left, right) = std::thread::scope(|scope| {
            let left = scope.spawn(|| add(&a, &b));
            let right = scope.spawn(|| add(&b, &a));
            (left.join().unwrap(), right.join().unwrap())
        });
        assert_eq!(gradient(&add(&left, &right), &w), [24.0]);
    }
}

#[test]
fn float64_runs_through() {
    let w = Param::trainable("w", Tensor::full(3f64, &[1]));
    let mut gradients = Gradients::new();
    let square = mul(&Value::param(&w), &Value::param(&w));
    square.backward(Tensor::full(1f64, &[1]), &mut gradients).unwrap();
    assert_eq!(gradients.get(&w).unwrap().as_slice::<f64>().unwrap(), [6.0]);
}
