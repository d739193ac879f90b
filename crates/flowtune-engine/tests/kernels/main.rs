//! The kernels, as the emulator runs them, against the operations of the CPU.

mod attention;
mod emulator;
mod fixture;
mod grid;
mod huge;
mod loss;
mod norm;
mod norm_rope;
mod optimizer;
mod product;
mod quant;
mod residual;
mod swiglu;

use flowtune_engine::kernels::Emulated;

#[test]
fn no_kernel_is_left_out() {
    // Tests run in any order: this one runs what it needs itself.
    attention::chunked_attention_is_the_operation();
    attention::a_result_may_take_the_place_of_its_input();
    attention::pieces_are_their_formulas();
    loss::values_and_gradients_are_the_operations();
    norm::values_and_gradients_are_the_operations();
    norm_rope::values_and_gradients_are_the_operations();
    optimizer::adamw_is_the_operation();
    optimizer::adamw_with_moments_of_a_byte_is_its_definition();
    optimizer::norms_and_clipping_are_the_operations();
    quant::int8_rows_are_integers_times_their_scale();
    quant::nf4_is_its_table_times_its_scale();
    quant::stochastic_rounding_is_right_on_average();
    residual::values_and_gradients_are_the_operations();
    swiglu::values_and_gradients_are_the_operations();
    let (ran, idle): (Vec<_>, Vec<_>) = Emulated::kernels().into_iter().partition(|(_, launches)| *launches > 0);
    assert!(idle.is_empty() && !ran.is_empty(), "no test launches {idle:?}");
}
